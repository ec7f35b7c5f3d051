"""Depth and camera_info: subscriptions, and finding the depth that belongs to a frame."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from rclpy.impl.rcutils_logger import RcutilsLogger
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image

from fcclip_core.errors import DepthError, ImageError
from fcclip_core.geometry.camera import PinholeCamera
from fcclip_core.geometry.depth import check_aspect
from fcclip_ros.conversions.frame import FrameDepth
from fcclip_ros.conversions.frame_ids import compare_frames
from fcclip_ros.conversions.images import to_depth
from fcclip_ros.conversions.stamps import StandingStamps, nanoseconds, nearest
from fcclip_ros.node.qos_matching import QosMatchingSubscription

_KEPT_SECONDS = 2.0
"""How long depth images wait for an image that comes after them."""

_KEPT_BYTES = 128 << 20
"""Of the depth images of one camera that wait; the oldest go first, but two stay whatever their size."""

_CLOCKS_DIFFER = 10.0
"""Seconds between stamps that come from no delay."""

_KEPT_INFOS = 64
"""Messages of camera_info that are kept, the newest ones."""

_KEPT_FRAMES = 8
"""Frames that the model took and that were never published, because it failed, after which the oldest is forgotten."""

_RATE_WINDOW = 5.0
"""Seconds that the rate is taken over."""

_SILENCE = 2.0
"""Seconds without a message after which a topic counts as silent."""

_MISSES = 5
"""Frames in a row without a match after which stamps are said not to match; a slower depth camera misses some."""


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


@dataclass(eq=False)
class _Wanted:
    """A frame whose depth is looked for.

    Attributes:
        stamp: Its stamp, nanoseconds.
        taken: Whether the model has it; else it may be replaced by a newer one.
        nearest: The best depth image so far.
    """

    stamp: int
    taken: bool = False
    nearest: Image | None = None


@dataclass
class _DepthBuffer:
    """What came since the start: the newest messages, the frames that wait, and how it went so far."""

    kept: deque[tuple[float, Image]] = field(default_factory=deque)
    kept_bytes: int = 0
    times: deque[float] = field(default_factory=deque)
    infos: deque[CameraInfo] = field(default_factory=lambda: deque(maxlen=_KEPT_INFOS))
    bad: str = ""
    wanted: list[_Wanted] = field(default_factory=list)
    late: int | None = None
    should_wait: bool = True
    matched: int = 0
    missed: int = 0
    missed_in_a_row: int = 0
    problem: _NoDepth | None = None
    said: set[str] = field(default_factory=set)
    standing: dict[str, StandingStamps] = field(
        default_factory=lambda: {"depth": StandingStamps(), "images": StandingStamps()}
    )


class _NoDepth(Exception):
    """Why a frame has no depth: the kind and the text."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text


class DepthInput:
    """Finds depth for frames, for one camera.

    A frame takes the depth whose stamp is nearest, of equally near ones the newest, if it is near enough. From the
    moment a frame arrives every depth image is compared with it, so most of the time nobody waits; if the model was
    quick, a frame waits up to `patience` after its arrival, as long as such waiting has been of use. Depth that came
    before its frame is found for two seconds, or as far as 128 MiB go.
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
        self._depth_following = QosMatchingSubscription(node, self._on_depth, "depth")
        self._info_following = QosMatchingSubscription(node, self._on_info, "camera_info")
        self._changed = threading.Condition()
        self._started = False
        self._rectified = True
        self._found = _DepthBuffer()

    def start(self, reliability: str, *, rectified: bool) -> None:
        """Subscribes.

        Args:
            reliability: One of `qos.RELIABILITIES`.
            rectified: Whether images (and depth with them) are rectified.
        """
        with self._changed:
            self._found = _DepthBuffer()
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
            self._found = _DepthBuffer()
            self._changed.notify_all()

    def arrive(self, header: Any) -> None:
        """Begins to look for the depth of a frame that came in, instead of one that the model has not taken."""
        with self._changed:
            if not self._started:
                return
            found, stamp = self._found, nanoseconds(header.stamp)
            found.standing["images"].see(stamp)
            self._complain_of_standing("images")
            found.wanted = [frame for frame in found.wanted if frame.taken]
            found.wanted.append(self._begin(stamp, taken=False))

    def prefetch_depth(self, header: Any) -> None:
        """Is told that the model takes a frame, so that its depth is looked for until `take`."""
        with self._changed:
            if not self._started:
                return
            stamp = nanoseconds(header.stamp)
            waiting = next((frame for frame in self._found.wanted if frame.stamp == stamp and not frame.taken), None)
            if waiting is None:
                # It was replaced in the very moment in which it was taken.
                self._found.wanted.insert(0, self._begin(stamp, taken=True))
            else:
                waiting.taken = True
            taken = [frame for frame in self._found.wanted if frame.taken]
            for frame in taken[:-_KEPT_FRAMES]:
                self._found.wanted.remove(frame)

    def take(self, header: Any, size: tuple[int, int], arrived: float) -> FrameDepth | None:
        """Returns the depth of a frame that `prefetch_depth` was told of, or None; why not is in `state`.

        Args:
            header: The frame's header.
            size: `(width, height)` of its image.
            arrived: When the frame arrived, as time.monotonic() tells.
        """
        with self._changed:
            if not self._started:
                return None
            stamp = nanoseconds(header.stamp)
            wanted = next((frame for frame in self._found.wanted if frame.stamp == stamp and frame.taken), None)
            if wanted is None:
                wanted = self._begin(stamp, taken=True)
                self._found.wanted.append(wanted)
            self._wait(wanted, arrived + self.patience)
            if wanted in self._found.wanted:  # not, if it was stopped meanwhile
                self._found.wanted.remove(wanted)
            try:
                depth = self._use(wanted, header.frame_id, size)
            except _NoDepth as reason:
                self._found.missed += 1
                self._found.missed_in_a_row += 1
                self._found.late = stamp
                self._complain(reason)
                return None
            self._found.matched += 1
            self._found.missed_in_a_row, self._found.problem, self._found.should_wait = 0, None, True
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
            text = problem.text if problem else self._standing()
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
            found = self._found
            found.standing["depth"].see(nanoseconds(message.header.stamp))
            self._complain_of_standing("depth")
            self._keep(now, message)
            if found.late is not None and self._is_near(message, found.late):
                found.should_wait, found.late = True, None
            for frame in found.wanted:
                self._compare(frame, message)
            self._changed.notify_all()

    def _on_info(self, message: CameraInfo) -> None:
        with self._changed:
            self._found.infos.append(message)

    # With the lock held

    def _keep(self, now: float, message: Image) -> None:
        """Keeps a depth image for frames that come later, and lets go of those that are too old or too many."""
        found = self._found
        found.kept.append((now, message))
        found.kept_bytes += len(message.data)
        while len(found.kept) > 2 and (found.kept[0][0] < now - _KEPT_SECONDS or found.kept_bytes > _KEPT_BYTES):
            found.kept_bytes -= len(found.kept.popleft()[1].data)

    def _begin(self, stamp: int, *, taken: bool) -> _Wanted:
        """A frame, with the nearest of the depth images that are there."""
        kept = ((nanoseconds(message.header.stamp), message) for _, message in self._found.kept)
        return _Wanted(stamp, taken, nearest(stamp, kept))

    def _compare(self, frame: _Wanted, message: Image) -> None:
        """Remembers a depth image if it is as near to the frame as the one so far, or nearer."""
        off = abs(nanoseconds(message.header.stamp) - frame.stamp)
        if frame.nearest is None or off <= abs(nanoseconds(frame.nearest.header.stamp) - frame.stamp):
            frame.nearest = message

    def _is_near(self, message: Image, stamp: int) -> bool:
        return abs(nanoseconds(message.header.stamp) - stamp) <= self.tolerance * 1e9

    def _wait(self, frame: _Wanted, deadline: float) -> None:
        """Waits for the frame's depth while it may still come."""

        def settled() -> bool:
            if frame not in self._found.wanted or not self._found.kept:
                return True
            if frame.nearest is not None and self._is_near(frame.nearest, frame.stamp):
                return True
            return nanoseconds(self._found.kept[-1][1].header.stamp) > frame.stamp + self.tolerance * 1e9

        seconds = deadline - time.monotonic()
        if seconds > 0 and self._found.should_wait and not settled():
            self._found.should_wait = self._changed.wait_for(settled, seconds)

    def _use(self, frame: _Wanted, frame_id: str, size: tuple[int, int]) -> FrameDepth:
        """Checks that depth and calibration belong to the frame.

        Raises:
            _NoDepth: They do not, or there is none.
        """
        message = frame.nearest
        if message is None or not self._is_near(message, frame.stamp):
            if self._found.bad:
                raise _NoDepth("encoding", self._found.bad)
            if message is None or self._is_silent():
                raise _NoDepth("no depth", f"no depth on {self._depth_following.describe()}")
            raise _NoDepth("stamps", self._why_none_is_near(message, frame.stamp))
        info = nearest(frame.stamp, ((nanoseconds(info.header.stamp), info) for info in self._found.infos))
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

    def _why_none_is_near(self, message: Image, wanted: int) -> str:
        off = (nanoseconds(message.header.stamp) - wanted) / 1e9
        text = (
            f"no depth image has a stamp within {self.tolerance:g} s of an image's (the nearest is {abs(off):.3f} s "
            f"{'later' if off > 0 else 'earlier'}); "
        )
        if standing := self._standing():
            return f"{text}{standing}"
        if abs(off) > _CLOCKS_DIFFER:
            return f"{text}the two are stamped by different clocks; synchronize these"
        stamps = [nanoseconds(kept.header.stamp) for _, kept in self._found.kept]
        if stamps and wanted < min(stamps) - self.tolerance * 1e9:
            seconds = (max(stamps) - min(stamps)) / 1e9
            return (
                f"{text}the image came after its depth was let go, of which the last {seconds:.1f} s are kept; send "
                "images sooner, or depth smaller"
            )
        if stamps and wanted > max(stamps) + self.tolerance * 1e9:
            return f"{text}depth comes later than labels are ready; raise depth_wait, or synchronize the cameras"
        return f"{text}synchronize the cameras or raise depth_tolerance"

    def _standing(self) -> str:
        """What is wrong with stamps that do not move; empty if they do."""
        said = [f"the stamps of {what} do not move: {text}" for what, text in self._standing_topics().items() if text]
        return f"{'; '.join(said)}; depth and images cannot be paired for sure" if said else ""

    def _standing_topics(self) -> dict[str, str]:
        return {what: stamps.describe() for what, stamps in self._found.standing.items()}

    def _complain_of_standing(self, what: str) -> None:
        if f"standing {what}" not in self._found.said and self._found.standing[what].describe():
            self._found.said.add(f"standing {what}")
            self._logger.warning(self._standing())

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
