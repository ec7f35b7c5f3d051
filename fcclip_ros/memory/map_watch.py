"""Looks for jumps of the map against odometry, by the transform between them."""

from __future__ import annotations

import time

import numpy as np

from fcclip_ros.memory.map_jumps import MapJumps
from fcclip_ros.memory.parameters import MemoryParameters
from fcclip_ros.node.transforms import Lookup, MissingTransform, Transforms


class MapWatch:
    """Compares the transform from odom to the map at each frame; on the thread of observations."""

    def __init__(self, transforms: Transforms) -> None:
        """Starts without a transform."""
        self._transforms = transforms
        self._jumps = MapJumps()

    @property
    def jumps(self) -> int:
        """Number of jumps so far."""
        return self._jumps.count

    def restart(self) -> None:
        """Begins anew, after the clock jumped back."""
        self._transforms.clear()
        self._jumps.restart()

    def look(self, parameters: MemoryParameters, stamp: int, place: np.ndarray) -> str:
        """The jump since the last frame in words; empty if there is none, or no odometry.

        Args:
            parameters: The frames and thresholds.
            stamp: Of the frame, nanoseconds.
            place: float64 `(3,)`, where the camera is in the map.
        """
        if parameters.odom_frame in ("", parameters.map_frame):
            return ""
        lookup = Lookup(parameters.map_frame, parameters.odom_frame, stamp, time.monotonic())
        try:
            found = self._transforms.find(lookup, wait=False)
        except MissingTransform:  # a robot without odometry
            return ""
        map_from_odom = np.eye(4)
        map_from_odom[:3, :3], map_from_odom[:3, 3] = found.rotation, found.translation
        return self._jumps.add(map_from_odom, place, parameters.jump_distance, parameters.jump_angle)
