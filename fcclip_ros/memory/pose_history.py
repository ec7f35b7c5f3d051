"""Poses over time, as a pose topic brings them; between two of them they are interpolated, never extrapolated."""

from __future__ import annotations

import bisect
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from fcclip_core.geometry.transform import interpolated

KEPT_SECONDS = 10.0
"""Seconds of poses that are kept, as tf2 keeps transforms."""

MAX_GAP = 1.0
"""Seconds between two poses above which nothing is interpolated: a robot may have turned there and back."""

_SECOND = 1_000_000_000


class MissingPose(Exception):
    """Why there is no pose, and what to do."""


@dataclass(frozen=True)
class StampedPose:
    """A pose with its time.

    Attributes:
        stamp: Nanoseconds.
        matrix: float64 `(4, 4)`, to the map.
        covariance: float64 `(6, 6)`, as in geometry_msgs/PoseWithCovariance; None if unknown.
    """

    stamp: int
    matrix: np.ndarray
    covariance: np.ndarray | None = None


class PoseHistory:
    """The poses of the last ten seconds, by stamp."""

    def __init__(self) -> None:
        """Starts empty."""
        self._poses: list[StampedPose] = []

    def __len__(self) -> int:
        """Number of poses."""
        return len(self._poses)

    @property
    def newest(self) -> int:
        """Stamp of the newest pose, nanoseconds; 0 for none."""
        return self._poses[-1].stamp if self._poses else 0

    def clear(self) -> None:
        """Forgets all poses."""
        self._poses = []

    def add(self, pose: StampedPose) -> None:
        """Adds a pose; of equal stamps the last one counts. A jump back of the clock forgets the earlier ones."""
        if self._poses and pose.stamp < self.newest - KEPT_SECONDS * _SECOND:
            self._poses = []
        place = self._place(pose.stamp)
        same = place < len(self._poses) and self._poses[place].stamp == pose.stamp
        self._poses[place : place + same] = [pose]
        del self._poses[: self._place(int(self.newest - KEPT_SECONDS * _SECOND))]

    def at(self, stamp: int) -> StampedPose:
        """The pose at a time, by linear and spherical interpolation; the larger covariance of the two.

        Raises:
            MissingPose: The time is outside of the poses, or between two that are far apart.
        """
        place = self._place(stamp)
        if place < len(self._poses) and self._poses[place].stamp == stamp:
            return self._poses[place]
        if place in (0, len(self._poses)):
            raise MissingPose(self._outside(stamp))
        before, after = self._poses[place - 1 : place + 1]
        gap = (after.stamp - before.stamp) / _SECOND
        if gap > MAX_GAP:
            raise MissingPose(
                f"the poses around the image are {gap:.2f} s apart, more than {MAX_GAP:g} s; publish them more often"
            )
        share = (stamp - before.stamp) / (after.stamp - before.stamp)
        pair = np.stack([before.matrix, after.matrix])
        matrix = interpolated(pair[:, :3, 3], Rotation.from_matrix(pair[:, :3, :3]), share)
        known = [pose.covariance for pose in (before, after) if pose.covariance is not None]
        return StampedPose(stamp, matrix, max(known, key=np.trace, default=None))

    def _place(self, stamp: int) -> int:
        return bisect.bisect_left(self._poses, stamp, key=lambda pose: pose.stamp)

    def _outside(self, stamp: int) -> str:
        if not self._poses:
            return "no pose has been received yet"
        first, last = self._poses[0].stamp, self.newest
        if stamp > last:
            return (
                f"the newest pose is {(stamp - last) / _SECOND:.3f} s older than the image; raise pose_wait, or check "
                "the rate of the poses and that their clock is that of the camera"
            )
        return (
            f"the oldest pose that is kept is {(first - stamp) / _SECOND:.3f} s newer than the image; check that their "
            "clock is that of the camera"
        )
