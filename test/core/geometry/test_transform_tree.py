"""Transforms of a recording: chains and interpolation by hand, and what is not known is said."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fcclip_core.errors import DepthError
from fcclip_core.geometry.transform_tree import TransformTree

SECOND = 1_000_000_000
STRAIGHT = (0.0, 0.0, 0.0, 1.0)


def about_z(degrees: float) -> tuple[float, float, float, float]:
    return 0.0, 0.0, math.sin(math.radians(degrees) / 2), math.cos(math.radians(degrees) / 2)


def driving() -> TransformTree:
    """A robot that drives from (0, 0) to (2, 0) and turns by 90 degrees from 10 to 12 s; its camera is 1 m ahead."""
    tree = TransformTree()
    tree.add("map", "odom", 0, (10, 0, 0), STRAIGHT, static=True)
    tree.add("odom", "base", 12 * SECOND, (2, 0, 0), about_z(90))
    tree.add("odom", "base", 10 * SECOND, (0, 0, 0), STRAIGHT)
    tree.add("/base", "/camera", 0, (1, 0, 0.5), STRAIGHT, static=True)
    return tree


@pytest.mark.parametrize(
    ("seconds", "place", "degrees"),
    [
        (10, (11, 0, 0.5), 0),
        (11, (11 + math.sqrt(0.5), math.sqrt(0.5), 0.5), 45),
        (11.5, (11.5 + math.cos(math.radians(67.5)), math.sin(math.radians(67.5)), 0.5), 67.5),
        (12, (12, 1, 0.5), 90),
    ],
)
def test_chains_are_interpolated(seconds: float, place: tuple[float, ...], degrees: float) -> None:
    found = driving().find("map", "camera", round(seconds * SECOND))
    assert found[:3, 3] == pytest.approx(place)
    assert math.degrees(math.atan2(found[1, 0], found[0, 0])) == pytest.approx(degrees)
    assert found[3] == pytest.approx((0, 0, 0, 1))


def test_the_way_back_is_the_inverse_and_siblings_go_over_their_parent() -> None:
    tree = driving()
    tree.add("base", "lidar", 0, (-1, 0, 0), STRAIGHT, static=True)
    both = tree.find("map", "camera", 11 * SECOND) @ tree.find("camera", "map", 11 * SECOND)
    assert both == pytest.approx(np.eye(4))
    # What is above both is not asked for, so any time will do.
    assert tree.find("lidar", "camera", 99 * SECOND)[:3, 3] == pytest.approx((2, 0, 0.5))


@pytest.mark.parametrize("nanoseconds", [10 * SECOND - 1, 12 * SECOND + 1])
def test_nothing_is_extrapolated(nanoseconds: int) -> None:
    with pytest.raises(DepthError, match=r"the frame 'base' is known in 'odom' from 10.000 to 12.000 s, not at"):
        driving().find("map", "camera", nanoseconds)


def test_a_single_transform_holds_at_its_own_stamp_only() -> None:
    tree = TransformTree()
    tree.add("map", "base", 5 * SECOND, (1, 2, 3), STRAIGHT)
    assert tree.find("map", "base", 5 * SECOND)[:3, 3] == pytest.approx((1, 2, 3))
    with pytest.raises(DepthError, match="known in 'map' once, not at 6.000 s"):
        tree.find("map", "base", 6 * SECOND)


def test_the_shorter_way_around_is_taken() -> None:
    tree = TransformTree()
    tree.add("map", "base", 0, (0, 0, 0), about_z(170))
    tree.add("map", "base", 2, (0, 0, 0), tuple(-value for value in about_z(190)))
    turn = tree.find("map", "base", 1)
    assert turn[:2, :2] == pytest.approx(-np.eye(2))


def test_of_equal_stamps_the_last_one_counts() -> None:
    tree = TransformTree()
    for x in (1, 2):
        tree.add("map", "base", 7, (x, 0, 0), STRAIGHT)
        tree.add("map", "mast", 0, (x, 0, 0), STRAIGHT, static=True)
    assert tree.find("map", "base", 7)[0, 3] == tree.find("map", "mast", 0)[0, 3] == 2


def test_a_frame_that_changes_its_parent_belongs_to_each_in_its_time() -> None:
    tree = TransformTree()
    tree.add("map", "hand", 0, (5, 0, 0), STRAIGHT, static=True)
    tree.add("map", "cup", 0, (1, 0, 0), STRAIGHT)
    tree.add("hand", "cup", 10, (1, 0, 0), STRAIGHT)
    tree.add("hand", "cup", 20, (3, 0, 0), STRAIGHT)
    assert [tree.find("map", "cup", stamp)[0, 3] for stamp in (0, 9, 10, 15)] == [1, 1, 6, 7]


def test_unknown_frames_and_separate_trees_are_said() -> None:
    tree = driving()
    tree.add("world", "other", 0, (0, 0, 0), STRAIGHT, static=True)
    listed = "the frames are: base, camera, map, odom, other, world"
    with pytest.raises(DepthError, match=f"there is no frame 'earth'; {listed}"):
        tree.find("earth", "camera", 11 * SECOND)
    with pytest.raises(DepthError, match="'map' and 'other' are not connected"):
        tree.find("map", "other", 11 * SECOND)


def test_a_circle_of_frames_ends() -> None:
    tree = TransformTree()
    tree.add("a", "b", 0, (1, 0, 0), STRAIGHT, static=True)
    tree.add("b", "a", 0, (1, 0, 0), STRAIGHT, static=True)
    tree.add("map", "base", 0, (0, 0, 0), STRAIGHT, static=True)
    assert tree.find("a", "b", 0)[0, 3] in (1, -1)
    with pytest.raises(DepthError, match="not connected"):
        tree.find("map", "a", 0)


@pytest.mark.parametrize(
    ("translation", "quaternion"),
    [((math.nan, 0, 0), STRAIGHT), ((0, 0, 0), (0, 0, 0, 0)), ((0, 0, 0), (0, 0, 0, math.inf))],
)
def test_what_is_no_transform_is_refused(translation: tuple[float, ...], quaternion: tuple[float, ...]) -> None:
    with pytest.raises(DepthError, match="check the node that broadcasts it"):
        TransformTree().add("map", "base", 0, translation, quaternion)
