"""Jumps of the map against odometry, which a loop closure or a relocalization makes."""

from __future__ import annotations

import math

import numpy as np


class MapJumps:
    """Compares the transform from odom to the map with the one before."""

    def __init__(self) -> None:
        """Starts without a transform."""
        self._last: np.ndarray | None = None
        self.count = 0

    def restart(self) -> None:
        """Forgets the last transform; the count stays."""
        self._last = None

    def add(self, map_from_odom: np.ndarray, place: np.ndarray, distance: float, angle: float) -> str:
        """Takes the next transform.

        Args:
            map_from_odom: float64 `(4, 4)`.
            place: float64 `(3,)`, where the robot is in the map now: a small turn moves what is far from the origin.
            distance: Meters that the robot's place must move for a jump.
            angle: Radians that the map must turn for a jump.

        Returns:
            The jump in words; empty if there is none.
        """
        last, self._last = self._last, map_from_odom
        if last is None:
            return ""
        change = map_from_odom @ np.linalg.inv(last)
        before = np.linalg.inv(change)[:3] @ np.append(place, 1.0)
        moved = float(np.linalg.norm(place - before))
        turned = math.acos(min(max((np.trace(change[:3, :3]) - 1) / 2, -1.0), 1.0))
        if moved < distance and turned < angle:
            return ""
        self.count += 1
        return f"{moved:.2f} m and {math.degrees(turned):.1f} degrees"
