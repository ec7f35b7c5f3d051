"""Depth and camera_info: subscriptions, and finding the depth that belongs to a frame."""

from __future__ import annotations

import functools
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rclpy.impl.rcutils_logger import RcutilsLogger
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image

from fcclip_core.errors import DepthError, ImageError
from fcclip_core.geometry.camera import PinholeCamera
from fcclip_core.geometry.depth import check_aspect, depth_in_metres
from fcclip_ros.following import Following
from fcclip_ros.frame_ids import compare_frames
from fcclip_ros.images import to_depth
from fcclip_ros.stamps import nanoseconds

_KEPT = 8
"""Depth images that wait for their frame, the newest ones."""

_RATE_WINDOW = 5.0
"""Seconds that the rate is taken over."""

_SILENCE = 2.0
"""Seconds without a message after which a topic counts as silent."""

_MISSES = 5
"""Frames in a row without a match after which stamps are said not to match; a slower depth camera misses some."""


@dataclass(frozen=True)
class FrameDepth:
    """Depth of one frame, registered to its image.

    Attributes:
        message: As it came.
        camera: Of the frame's image.
    """

    message: Image
    camera: PinholeCamera

    @functools.cached_property
    def metres(self) -> np.ndarray:
        """float32 `(H, W)` of the frame's image, along the optical axis, NaN where unknown; made when asked for."""
        return depth_in_metres(to_depth(self.message), (self.camera.width, self.camera.height))


@dataclass(frozen=True)
class DepthState:
    """What is known of one camera's depth.

    Attributes:
        depth_input: The depth subscription in words.
        info_input: The camera_info subscription in words.
        rate: Depth images a second.
        matched: Frames that had depth.
        missed: Frames that had none.
        problem: Why the latest frames have no depth; empty if they do.
    """

    depth_input: str
    info_input: str
    rate: float
    matched: int
    missed: int
    problem: str


@dataclass
class _Found:
    """What came since the start: the newest messages, the frame that waits, and how it went so far."""

    kept: deque[Image] = field(default_factory=lambda: deque(maxlen=_KEPT))
    times: deque[float] = field(default_factory=deque)
    info: CameraInfo | None = None
    bad: str = ""
    wanted: int | None = None
    nearest: Image | None = None
    late: int | None = None
    worth_waiting: bool = True
    matched: int = 0
    missed: int = 0
    missed_in_a_row: int = 0
    problem: _NoDepth | None = None
    said: set[str] = field(default_factory=set)


class _NoDepth(Exception):
    """Why a frame has no depth: the kind and the text."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text


class DepthInput:
    """Finds depth for frames, for one camera.

    A frame takes the depth whose stamp is nearest, if it is near enough. From the moment a frame is taken for
    inference every depth image is compared with it, so most of the time nobody waits; if the model was quick, a frame
    waits up to `patience` after its arrival, as long as such waiting has been of use.
    """

    def __init__(self, node: Node, depth_topic: str, info_topic: str, logger: RcutilsLogger) -> None:
        """Prepares; nothing is subscribed before `start`.

        Args:
            node: The node.
            depth_topic: Before remapping.
            info_topic: Likewise.
            logger: Is told why frames have no depth.
        """
        self.tolerance = 0.02
        """Seconds between the stamps of image and depth at most."""
        self.patience = 0.0
        """Seconds after a frame's arrival that it may wait for its depth."""
        self._logger = logger
        self._topics = (depth_topic, info_topic)
        self._depth_following = Following(node, self._on_depth, "depth")
        self._info_following = Following(node, self._on_info, "camera_info")
        self._changed = threading.Condition()
        self._started = False
        self._rectified = True
        self._found = _Found()

    def start(self, reliability: str, *, rectified: bool) -> None:
        """Subscribes.

        Args:
            reliability: One of `qos.RELIABILITIES`.
            rectified: Whether images (and depth with them) are rectified.
        """
        with self._changed:
            self._found = _Found()
            self._rectified = rectified
            self._started = True
        self._depth_following.start(Image, self._topics[0], reliability)
        self._info_following.start(CameraInfo, self._topics[1], reliability)

    def stop(self) -> None:
        """Unsubscribes and lets go of what came."""
        self._depth_following.stop()
        self._info_following.stop()
        with self._changed:
            self._started = False
            self._found = _Found()
            self._changed.notify_all()

    def expect(self, header: Any) -> None:
        """Begins to look for the depth of a frame, instead of that of the frame before."""
        with self._changed:
            if not self._started:
                return
            self._found.wanted, self._found.nearest = nanoseconds(header.stamp), None
            for message in self._found.kept:
                self._compare(message)

    def take(self, header: Any, size: tuple[int, int], arrived: float) -> FrameDepth | None:
        """Returns the depth of the frame that `expect` was told of, or None; why not is in `state`.

        Args:
            header: The frame's header.
            size: `(width, height)` of its image.
            arrived: When the frame arrived, as time.monotonic() tells.
        """
        with self._changed:
            if not self._started:
                return None
            self._wait(arrived + self.patience)
            message, self._found.nearest = self._found.nearest, None
            wanted, self._found.wanted = self._found.wanted, None
            try:
                depth = self._use(message, wanted, header.frame_id, size)
            except _NoDepth as reason:
                self._found.missed += 1
                self._found.missed_in_a_row += 1
                self._found.late = wanted
                self._complain(reason)
                return None
            self._found.matched += 1
            self._found.missed_in_a_row, self._found.problem, self._found.worth_waiting = 0, None, True
            return depth

    def state(self, image_rate: float) -> DepthState | None:
        """What is known now; None while not started.

        Args:
            image_rate: Images a second, to be named beside depth's.
        """
        with self._changed:
            if not self._started:
                return None
            rate, matched, missed, problem = self._rate(), self._found.matched, self._found.missed, self._found.problem
            text = problem.text if problem else ""
            if problem and problem.kind == "stamps":
                text = f"{text}; images come at {image_rate:.1f} Hz, depth at {rate:.1f} Hz"
        return DepthState(
            self._depth_following.describe(), self._info_following.describe(), rate, matched, missed, text
        )

    # In the executor

    def _on_depth(self, message: Image) -> None:
        try:
            to_depth(message)
        except ImageError as error:
            bad = str(error)
        else:
            bad = ""
        with self._changed:
            now = time.monotonic()
            self._found.times.append(now)
            self._found.bad = bad
            self._rate()
            if bad or not self._started:
                return
            self._found.kept.append(message)
            if self._found.late is not None and self._is_near(message, self._found.late):
                self._found.worth_waiting, self._found.late = True, None
            self._compare(message)
            self._changed.notify_all()

    def _on_info(self, message: CameraInfo) -> None:
        with self._changed:
            self._found.info = message

    # With the lock held

    def _compare(self, message: Image) -> None:
        """Remembers a depth image if it is nearer to the wanted frame than the one so far."""
        if self._found.wanted is None:
            return
        off = abs(nanoseconds(message.header.stamp) - self._found.wanted)
        nearest = self._found.nearest
        if nearest is None or off < abs(nanoseconds(nearest.header.stamp) - self._found.wanted):
            self._found.nearest = message

    def _is_near(self, message: Image, stamp: int) -> bool:
        return abs(nanoseconds(message.header.stamp) - stamp) <= self.tolerance * 1e9

    def _wait(self, deadline: float) -> None:
        """Waits for the frame's depth while it may still come."""

        def settled() -> bool:
            if self._found.wanted is None or not self._found.kept:
                return True
            if self._found.nearest is not None and self._is_near(self._found.nearest, self._found.wanted):
                return True
            return nanoseconds(self._found.kept[-1].header.stamp) > self._found.wanted + self.tolerance * 1e9

        seconds = deadline - time.monotonic()
        if seconds > 0 and self._found.worth_waiting and not settled():
            self._found.worth_waiting = self._changed.wait_for(settled, seconds)

    def _use(self, message: Image | None, wanted: int | None, frame_id: str, size: tuple[int, int]) -> FrameDepth:
        """Checks that depth and calibration belong to the frame.

        Raises:
            _NoDepth: They do not, or there is none.
        """
        if message is None or wanted is None or not self._is_near(message, wanted):
            if self._found.bad:
                raise _NoDepth("encoding", self._found.bad)
            if message is None or wanted is None or self._is_silent():
                raise _NoDepth("no depth", f"no depth on {self._depth_following.describe()}")
            off = (nanoseconds(message.header.stamp) - wanted) / 1e9
            side = "later" if off > 0 else "earlier"
            raise _NoDepth(
                "stamps",
                f"no depth image has a stamp within {self.tolerance:g} s of an image's (the nearest is "
                f"{abs(off):.3f} s {side}); synchronise the cameras or raise depth_tolerance",
            )
        info = self._found.info
        if info is None:
            raise _NoDepth("no camera_info", f"depth comes, but no camera_info on {self._info_following.describe()}")
        for name, other in (("depth", message.header.frame_id), ("camera_info", info.header.frame_id)):
            same, doubt = compare_frames(name, other, frame_id)
            if doubt and doubt not in self._found.said:
                self._found.said.add(doubt)
                self._logger.warning(doubt)
            if not same:
                raise _NoDepth(
                    "frame",
                    f"{name} is in the frame {other!r}, the image in {frame_id!r}; depth must be registered to the "
                    "image and carry its frame",
                )
        try:
            check_aspect((message.width, message.height), size)
            return FrameDepth(message, camera_from_info(info, rectified=self._rectified).resized(*size))
        except DepthError as error:
            raise _NoDepth("geometry", str(error)) from None

    def _complain(self, reason: _NoDepth) -> None:
        if reason.kind == "stamps" and self._found.missed_in_a_row < _MISSES:
            return
        self._found.problem = reason
        # Stamps' text has numbers in it that differ from frame to frame.
        said = reason.kind if reason.kind == "stamps" else reason.text
        if said not in self._found.said:
            self._found.said.add(said)
            self._logger.warning(f"frames are published without depth: {reason.text}")

    def _rate(self) -> float:
        """Depth images a second; forgets those before the window."""
        begin = time.monotonic() - _RATE_WINDOW
        while self._found.times and self._found.times[0] < begin:
            self._found.times.popleft()
        return len(self._found.times) / _RATE_WINDOW

    def _is_silent(self) -> bool:
        return not self._found.times or self._found.times[-1] < time.monotonic() - _SILENCE


def camera_from_info(info: CameraInfo, *, rectified: bool) -> PinholeCamera:
    """The camera that a camera_info describes, with its binning and region of interest.

    Args:
        info: The message.
        rectified: Whether images are rectified; see `PinholeCamera.from_calibration`.

    Raises:
        DepthError: It is not calibrated, or its distortion model is not known.
    """
    return PinholeCamera.from_calibration(
        (info.width, info.height),
        info.k,
        info.p,
        distortion=info.d,
        model=info.distortion_model,
        binning=(info.binning_x, info.binning_y),
        roi=(info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height),
        rectified=rectified,
    )
