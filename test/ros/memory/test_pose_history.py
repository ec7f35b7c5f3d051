"""Poses between stamps are interpolated, outside of them refused."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from fcclip_ros.memory.pose_history import MissingPose, PoseHistory, StampedPose

SECOND = 1_000_000_000


def pose(seconds: float, x: float = 0.0, yaw: float = 0.0, variance: float | None = None) -> StampedPose:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[0, 3] = Rotation.from_euler("z", yaw).as_matrix(), x
    covariance = None if variance is None else np.eye(6) * variance
    return StampedPose(round(seconds * SECOND), matrix, covariance)


def history(*poses: StampedPose) -> PoseHistory:
    made = PoseHistory()
    for item in poses:
        made.add(item)
    return made


def test_half_way_between_two_poses_the_place_is_the_mean_and_the_turn_is_half() -> None:
    found = history(pose(10.0, 1.0, 0.2), pose(10.4, 3.0, 1.0)).at(round(10.1 * SECOND))
    np.testing.assert_allclose(found.matrix, pose(0, 1.5, 0.4).matrix, atol=1e-12)


def test_the_larger_covariance_of_both_counts() -> None:
    found = history(pose(1.0, variance=0.1), pose(1.5, variance=0.4)).at(round(1.1 * SECOND))
    np.testing.assert_array_equal(found.covariance, np.eye(6) * 0.4)


def test_poses_may_come_in_any_order_and_the_last_of_a_stamp_counts() -> None:
    known = history(pose(2.0, 2.0), pose(1.0, 1.0), pose(2.0, 5.0))
    assert [known.at(seconds * SECOND).matrix[0, 3] for seconds in (1, 2)] == [1.0, 5.0]


@pytest.mark.parametrize(
    ("seconds", "reason"),
    [
        (9.75, "the oldest pose that is kept is 0.250 s newer than the image"),
        (12.5, "the newest pose is 0.500 s older than the image; raise pose_wait"),
        (11.0, "the poses around the image are 1.50 s apart, more than 1 s"),
    ],
)
def test_nothing_is_extrapolated_nor_bridged(seconds: float, reason: str) -> None:
    known = history(pose(10.0), pose(10.5), pose(12.0))
    with pytest.raises(MissingPose, match=reason):
        known.at(round(seconds * SECOND))


def test_without_poses_that_is_what_it_says() -> None:
    with pytest.raises(MissingPose, match="no pose has been received yet"):
        PoseHistory().at(5)


def test_ten_seconds_are_kept_and_a_clock_that_jumps_back_begins_anew() -> None:
    known = history(*(pose(100 + 0.5 * step, step) for step in range(41)))
    assert len(known) == 21
    known.add(pose(50.0, 7.0))
    assert (len(known), known.newest) == (1, 50 * SECOND)
    known.add(pose(50.2, 8.0))
    assert known.at(round(50.1 * SECOND)).matrix[0, 3] == pytest.approx(7.5)
