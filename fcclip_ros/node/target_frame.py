"""The frame in which a camera's 3D outputs are given, and the transform to it for each of its frames."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from typing import Any

from rclpy.impl.rcutils_logger import RcutilsLogger

from fcclip_core.quoting import printable
from fcclip_ros.conversions.frame import FrameDepth
from fcclip_ros.conversions.stamps import nanoseconds
from fcclip_ros.node.transforms import Lookup, MissingTransform, PatientLookup, Transforms, frame_of

_DISCOVERY_TIME = 2.0
"""Seconds after a start in which the broadcasters may still be discovered: misses are counted, but not logged."""

_WARNING_PERIOD = 10.0
"""Seconds between warnings."""


@dataclass(frozen=True)
class TransformState:
    """State of a camera's transforms to the target frame.

    Attributes:
        target_frame: The frame.
        found: Number of frames with depth and a transform.
        missed: Number of frames with depth and without a transform, whose 3D outputs were left out.
        problem: Why the latest frame has no transform; empty if it has.
    """

    target_frame: str
    found: int
    missed: int
    problem: str


class TargetFrame:
    """Adds the transform to the target frame to the depth of one camera's frames.

    It is looked up at the stamp of the image. A transform that has not arrived yet is waited for until `patience`
    seconds after the frame's arrival, unless waiting was in vain the last time and would have been since.
    """

    def __init__(self, transforms: Transforms, logger: RcutilsLogger) -> None:
        """Starts without a target frame.

        Args:
            transforms: The transforms of the node.
            logger: Logs why 3D outputs are left out.
        """
        self.patience = 0.0
        """Seconds after its arrival that a frame may wait for its transform."""
        self._lookup = PatientLookup(transforms)
        self._logger = logger
        self._lock = threading.Lock()
        self._name = ""
        self._found = self._missed = 0
        self._problem = ""
        self._quiet_until = 0.0
        self._restart()

    @property
    def name(self) -> str:
        """The target frame; empty for the frame of the images. A new one is used from the next frame on."""
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        with self._lock:
            if name != self._name:
                self._name = name
                self._restart()

    def start(self) -> None:
        """Forgets the earlier frames."""
        with self._lock:
            self._restart()

    def place(self, depth: FrameDepth, header: Any, arrived: float) -> FrameDepth | None:
        """Returns the depth with the transform to the target frame, or None; `state` says why.

        Args:
            depth: Depth of a frame.
            header: Header of the frame.
            arrived: Monotonic time at which the frame arrived, in seconds.
        """
        target = self.name
        if not target:
            return depth
        try:
            source = frame_of(header)
            transform = None
            if source != target:
                lookup = Lookup(target, source, nanoseconds(header.stamp), arrived + self.patience)
                transform = self._lookup.find(lookup)
        except MissingTransform as missing:
            self._count(target, f"there is no transform from {header.frame_id!r} to {target!r}: {missing}")
            return None
        self._count(target, "")
        return replace(depth, frame_id=target, transform=transform)

    def state(self) -> TransformState | None:
        """The current state; None without a target frame."""
        with self._lock:
            return TransformState(self._name, self._found, self._missed, self._problem) if self._name else None

    def _restart(self) -> None:
        self._found = self._missed = 0
        self._problem = ""
        self._lookup.restart()
        self._quiet_until = time.monotonic() + _DISCOVERY_TIME

    def _count(self, target: str, problem: str) -> None:
        with self._lock:
            if target != self._name:  # Changed in the meantime.
                return
            self._found, self._missed = self._found + (not problem), self._missed + bool(problem)
            self._problem = problem
            quiet = time.monotonic() < self._quiet_until
        if problem and not quiet:
            text = f"3D outputs of a frame are left out: {problem}"
            self._logger.warning(printable(text), throttle_duration_sec=_WARNING_PERIOD)
