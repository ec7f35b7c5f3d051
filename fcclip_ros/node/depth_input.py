"""Depth: the subscription, and matching of depth images to frames by their stamps."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rclpy.impl.rcutils_logger import RcutilsLogger
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image

from fcclip_core.errors import DepthError, ImageError
from fcclip_core.geometry.camera import PinholeCamera
from fcclip_core.geometry.depth import check_aspect
from fcclip_core.images.image_limits import MAX_PIXELS
from fcclip_ros.conversions.camera_info import camera_from_info
from fcclip_ros.conversions.compressed_depth import SUFFIX
from fcclip_ros.conversions.frame import FrameDepth
from fcclip_ros.conversions.frame_ids import compare_frames
from fcclip_ros.conversions.images import depth_size, to_depth
from fcclip_ros.conversions.stamps import StampMonitor, nanoseconds, nearest
from fcclip_ros.node.info_input import InfoInput
from fcclip_ros.node.qos_matching import QosMatchingSubscription
from fcclip_ros.node.transport_topic import transport_topic

DEPTH_TRANSPORTS = ("raw", "compressedDepth")

_KEPT_SECONDS = 2.0
"""Default of the seconds that depth images are buffered for images that arrive after them."""

_KEPT_BYTES = 128 << 20
"""Size of the buffer of a camera's depth images; the oldest are dropped first, but two are always kept."""

_CLOCKS_DIFFER = 10.0
"""Seconds between stamps that no delay explains."""

_KEPT_FRAMES = 8
"""Frames that may be pending in inference; beyond that the oldest, whose inference failed, is forgotten."""

_RATE_WINDOW = 5.0
"""Seconds over which the rate is averaged."""

_SILENCE = 2.0
"""Seconds without a message after which a topic counts as silent."""

_MISSES = 5
"""Consecutive frames without a match until a warning; a slower depth camera always misses some."""


@dataclass(frozen=True)
class DepthState:
    """State of a camera's depth input.

    Attributes:
        depth_input: Description of the depth subscription.
        info_input: Description of the camera_info subscription.
        rate: Depth images per second.
        matched: Number of frames with depth.
        missed: Number of frames without depth.
        problem: Why the latest frames have no depth; empty if they do.
    """

    depth_input: str
    info_input: str
    rate: float
    matched: int
    missed: int
    problem: str


@dataclass(eq=False)
class _Match:
    """A frame and its nearest depth image so far.

    Attributes:
        stamp: Stamp of the frame in nanoseconds.
        taken: Whether the frame is in inference; otherwise it may be replaced by a newer one.
        nearest: The depth image.
    """

    stamp: int
    taken: bool = False
    nearest: Image | CompressedImage | None = None


@dataclass
class _DepthBuffer:
    """Buffered messages, pending frames and counts since the start."""

    kept: deque[tuple[float, Image | CompressedImage]] = field(default_factory=deque)
    kept_bytes: int = 0
    times: deque[float] = field(default_factory=deque)
    invalid: str = ""
    pending: list[_Match] = field(default_factory=list)
    missed_stamp: int | None = None
    should_wait: bool = True
    matched: int = 0
    missed: int = 0
    missed_in_a_row: int = 0
    problem: _NoDepth | None = None
    logged: set[str] = field(default_factory=set)
    stamps: dict[str, StampMonitor] = field(default_factory=lambda: {"depth": StampMonitor(), "images": StampMonitor()})


class _NoDepth(Exception):
    """Why a frame has no depth: the kind of problem and its description."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text


class DepthInput:
    """Matches depth images to the frames of one camera.

    A frame gets the depth image with the nearest stamp, the newest of equally near ones, if it is within `tolerance`.
    Depth images are matched from the moment a frame arrives, so its depth has usually arrived by the end of inference;
    otherwise the frame waits up to `patience` seconds after its arrival, as long as waiting has helped before. Depth
    images that arrive before their frame are buffered for two seconds, up to 128 MiB.
    """

    def __init__(
        self,
        node: Node,
        topic: str,
        info: InfoInput,
        logger: RcutilsLogger,
        consequence: str = "frames are published without depth",
        kept_seconds: float = _KEPT_SECONDS,
    ) -> None:
        """Does not subscribe yet.

        Args:
            node: The node.
            topic: Topic of raw depth images before remapping; compressed ones are on `.../compressedDepth`.
            info: The camera's camera_info.
            logger: Logs why frames have no depth.
            consequence: What happens to them then, for the log.
            kept_seconds: Seconds that depth images are buffered for frames that arrive after them.
        """
        self.tolerance = 0.02
        """Maximum difference between the stamps of image and depth, in seconds."""
        self.patience = 0.0
        """Seconds after its arrival that a frame may wait for its depth."""
        self.max_pixels = MAX_PIXELS
        """Maximum number of pixels of compressed depth."""
        self._node = node
        self._logger = logger
        self._topic = topic
        self._info = info
        self._depth_subscription = QosMatchingSubscription(node, self._on_depth, "depth")
        self._consequence = consequence
        self._kept_seconds = kept_seconds
        self._changed = threading.Condition()
        self._started = False
        self._rectified = True
        self._buffer = _DepthBuffer()

    def start(self, transport: str, reliability: str, *, rectified: bool) -> None:
        """Subscribes.

        Args:
            transport: One of `DEPTH_TRANSPORTS`.
            reliability: One of `qos.RELIABILITIES`.
            rectified: Whether images and depth are rectified.
        """
        with self._changed:
            self._buffer = _DepthBuffer()
            self._rectified = rectified
            self._started = True
        kind, suffix = (Image, "") if transport == "raw" else (CompressedImage, SUFFIX)
        topic = transport_topic(self._node, self._topic, suffix, "compressed depth images")
        self._depth_subscription.start(kind, topic, reliability)

    def stop(self) -> None:
        """Unsubscribes and clears the buffer."""
        self._depth_subscription.stop()
        with self._changed:
            self._started = False
            self._buffer = _DepthBuffer()
            self._changed.notify_all()

    def arrive(self, header: Any) -> None:
        """Starts matching depth to a frame that arrived, which replaces a frame that is not in inference."""
        with self._changed:
            if not self._started:
                return
            buffer, stamp = self._buffer, nanoseconds(header.stamp)
            self._check_stamp("images", stamp)
            buffer.pending = [frame for frame in buffer.pending if frame.taken]
            buffer.pending.append(self._match(stamp, taken=False))

    def prefetch_depth(self, header: Any) -> None:
        """Keeps matching depth to a frame that goes into inference, until `take`."""
        with self._changed:
            if not self._started:
                return
            stamp = nanoseconds(header.stamp)
            waiting = next((frame for frame in self._buffer.pending if frame.stamp == stamp and not frame.taken), None)
            if waiting is None:
                # It was replaced just as inference took it.
                self._buffer.pending.insert(0, self._match(stamp, taken=True))
            else:
                waiting.taken = True
            taken = [frame for frame in self._buffer.pending if frame.taken]
            for frame in taken[:-_KEPT_FRAMES]:
                self._buffer.pending.remove(frame)

    def take(self, header: Any, size: tuple[int, int], arrived: float) -> FrameDepth | None:
        """Returns the depth of a frame after `prefetch_depth`, or None; `state` says why.

        Args:
            header: Header of the frame.
            size: `(width, height)` of its labels.
            arrived: Monotonic time at which the frame arrived, in seconds.
        """
        try:
            with self._changed:
                if not self._started:
                    return None
                message, camera = self._matching(header, size, arrived)
            # Without the lock: unpacking takes milliseconds, for which the executor must not wait.
            depth = FrameDepth(_unpacked(message, self.max_pixels), camera)
        except _NoDepth as reason:
            with self._changed:
                self._buffer.missed += 1
                self._buffer.missed_in_a_row += 1
                self._buffer.missed_stamp = nanoseconds(header.stamp)
                self._report(reason)
            return None
        with self._changed:
            self._buffer.matched += 1
            self._buffer.missed_in_a_row, self._buffer.problem, self._buffer.should_wait = 0, None, True
        return depth

    def state(self, image_rate: float) -> DepthState | None:
        """The current state; None while not started.

        Args:
            image_rate: Images per second, for the description of a problem.
        """
        with self._changed:
            if not self._started:
                return None
            rate, buffer, problem = self._rate(), self._buffer, self._buffer.problem
            text = problem.text if problem else self._frozen_stamps()
            if problem and problem.kind == "stamps":
                text = f"{text}; images come at {image_rate:.1f} Hz, depth at {rate:.1f} Hz"
        inputs = self._depth_subscription.describe(), self._info.describe()
        return DepthState(*inputs, rate, buffer.matched, buffer.missed, text)

    # In the executor

    def _on_depth(self, message: Image | CompressedImage) -> None:
        invalid = ""
        try:
            depth_size(message, self.max_pixels)
        except ImageError as error:
            invalid = str(error)
        with self._changed:
            now, buffer = time.monotonic(), self._buffer
            buffer.times.append(now)
            buffer.invalid = invalid
            self._rate()
            if invalid or not self._started:
                return
            self._check_stamp("depth", nanoseconds(message.header.stamp))
            self._keep(now, message)
            if buffer.missed_stamp is not None and self._is_near(message, buffer.missed_stamp):
                buffer.should_wait, buffer.missed_stamp = True, None
            for frame in buffer.pending:
                self._compare(frame, message)
            self._changed.notify_all()

    # With the lock held

    def _keep(self, now: float, message: Image | CompressedImage) -> None:
        """Buffers a depth image for later frames, and drops old ones."""
        buffer = self._buffer
        buffer.kept.append((now, message))
        buffer.kept_bytes += len(message.data)
        while len(buffer.kept) > 2 and (
            buffer.kept[0][0] < now - self._kept_seconds or buffer.kept_bytes > _KEPT_BYTES
        ):
            buffer.kept_bytes -= len(buffer.kept.popleft()[1].data)

    def _match(self, stamp: int, *, taken: bool) -> _Match:
        """A frame with the nearest of the buffered depth images."""
        kept = ((nanoseconds(message.header.stamp), message) for _, message in self._buffer.kept)
        return _Match(stamp, taken, nearest(stamp, kept))

    def _compare(self, frame: _Match, message: Image | CompressedImage) -> None:
        """Takes a depth image if it is at least as near to the frame as the previous one."""
        off = abs(nanoseconds(message.header.stamp) - frame.stamp)
        if frame.nearest is None or off <= abs(nanoseconds(frame.nearest.header.stamp) - frame.stamp):
            frame.nearest = message

    def _is_near(self, message: Image | CompressedImage, stamp: int) -> bool:
        return abs(nanoseconds(message.header.stamp) - stamp) <= self.tolerance * 1e9

    def _wait(self, frame: _Match, deadline: float) -> None:
        """Waits for the depth of a frame while it may still arrive."""

        def settled() -> bool:
            if frame not in self._buffer.pending or not self._buffer.kept:
                return True
            if frame.nearest is not None and self._is_near(frame.nearest, frame.stamp):
                return True
            return nanoseconds(self._buffer.kept[-1][1].header.stamp) > frame.stamp + self.tolerance * 1e9

        seconds = deadline - time.monotonic()
        if seconds > 0 and self._buffer.should_wait and not settled():
            self._buffer.should_wait = self._changed.wait_for(settled, seconds)

    def _matching(
        self, header: Any, size: tuple[int, int], arrived: float
    ) -> tuple[Image | CompressedImage, PinholeCamera]:
        """The depth image of a frame, for which this waits, and the camera of the frame's image.

        Raises:
            _NoDepth: There is none, or it does not match.
        """
        stamp = nanoseconds(header.stamp)
        match = next((frame for frame in self._buffer.pending if frame.stamp == stamp and frame.taken), None)
        if match is None:
            match = self._match(stamp, taken=True)
            self._buffer.pending.append(match)
        self._wait(match, arrived + self.patience)
        if match in self._buffer.pending:  # unless stopped in the meantime
            self._buffer.pending.remove(match)
        return self._checked(match, header, size)

    def _checked(
        self, frame: _Match, header: Any, size: tuple[int, int]
    ) -> tuple[Image | CompressedImage, PinholeCamera]:
        """Checks that depth and camera_info match a frame.

        Raises:
            _NoDepth: They do not match, or one is missing.
        """
        message = frame.nearest
        if message is None or not self._is_near(message, frame.stamp):
            if self._buffer.invalid:
                raise _NoDepth("encoding", self._buffer.invalid)
            if message is None or self._is_silent():
                raise _NoDepth("no depth", f"no depth on {self._depth_subscription.describe()}")
            raise _NoDepth("stamps", self._stamp_problem(message, frame.stamp))
        info = self._info.at(header)
        if info is None:
            raise _NoDepth("no camera_info", f"depth is received, but no camera_info on {self._info.describe()}")
        frame_id = header.frame_id
        for name, other in (("depth", message.header.frame_id), ("camera_info", info.header.frame_id)):
            same, warning = compare_frames(name, other, frame_id)
            if warning:
                self._warn_once(warning, warning)
            if not same:
                raise _NoDepth(
                    "frame",
                    f"{name} is in the frame {other!r}, the image in {frame_id!r}; depth must be registered to the "
                    "image and have its frame_id",
                )
        try:
            height, width = depth_size(message, self.max_pixels)
            check_aspect((width, height), size)
            return message, camera_from_info(info, rectified=self._rectified).resized(*size)
        except (DepthError, ImageError) as error:
            raise _NoDepth("geometry", str(error)) from None

    def _stamp_problem(self, message: Image | CompressedImage, stamp: int) -> str:
        off = (nanoseconds(message.header.stamp) - stamp) / 1e9
        text = (
            f"no depth image has a stamp within {self.tolerance:g} s of an image's (the nearest is {abs(off):.3f} s "
            f"{'later' if off > 0 else 'earlier'}); "
        )
        if frozen := self._frozen_stamps():
            return f"{text}{frozen}"
        if abs(off) > _CLOCKS_DIFFER:
            return f"{text}the stamps come from different clocks; synchronize them"
        stamps = [nanoseconds(kept.header.stamp) for _, kept in self._buffer.kept]
        if stamps and stamp < min(stamps) - self.tolerance * 1e9:
            seconds = (max(stamps) - min(stamps)) / 1e9
            return (
                f"{text}the image arrived after its depth was dropped from the buffer of {seconds:.1f} s; reduce the "
                "delay of the images, or the size of the depth images"
            )
        if stamps and stamp > max(stamps) + self.tolerance * 1e9:
            return f"{text}depth arrives after the labels are ready; raise depth_wait or synchronize the cameras"
        return f"{text}synchronize the cameras or raise depth_tolerance"

    def _frozen_stamps(self) -> str:
        """Which stamps do not advance; empty if all do."""
        texts = {what: stamps.describe() for what, stamps in self._buffer.stamps.items()}
        frozen = [f"the stamps of {what} do not advance: {text}" for what, text in texts.items() if text]
        return f"{'; '.join(frozen)}; depth may be matched to the wrong images" if frozen else ""

    def _check_stamp(self, what: str, stamp: int) -> None:
        """Warns if the stamps of depth or images do not advance."""
        self._buffer.stamps[what].add(stamp)
        if self._buffer.stamps[what].describe():
            self._warn_once(f"frozen {what}", self._frozen_stamps())

    def _report(self, reason: _NoDepth) -> None:
        if reason.kind == "stamps" and self._buffer.missed_in_a_row < _MISSES:
            return
        self._buffer.problem = reason
        # The text about stamps contains numbers that differ from frame to frame.
        key = reason.kind if reason.kind == "stamps" else reason.text
        self._warn_once(key, f"{self._consequence}: {reason.text}")

    def _warn_once(self, key: str, text: str) -> None:
        if key not in self._buffer.logged:
            self._buffer.logged.add(key)
            self._logger.warning(text)

    def _rate(self) -> float:
        """Depth images per second; drops arrival times before the window."""
        begin = time.monotonic() - _RATE_WINDOW
        while self._buffer.times and self._buffer.times[0] < begin:
            self._buffer.times.popleft()
        return len(self._buffer.times) / _RATE_WINDOW

    def _is_silent(self) -> bool:
        return not self._buffer.times or self._buffer.times[-1] < time.monotonic() - _SILENCE


def _unpacked(message: Image | CompressedImage, max_pixels: int) -> np.ndarray:
    """The depth of a message whose header has been checked; _NoDepth if its data are damaged."""
    try:
        return to_depth(message, max_pixels)
    except ImageError as error:
        raise _NoDepth("data", str(error)) from None
