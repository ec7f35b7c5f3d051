"""Cloud and boxes of frames that were labeled without depth, from depth that was recorded beside them."""

from __future__ import annotations

import bisect
import io
import tempfile
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from fcclip_core.errors import DepthError, ImageError
from fcclip_core.geometry.camera import PinholeCamera
from fcclip_core.geometry.depth import depth_in_meters
from fcclip_core.geometry.segments import segment_geometry
from fcclip_core.results import Segment
from fcclip_ros.conversions.images import to_depth, to_labels
from fcclip_ros.conversions.messages_3d import geometry_message
from fcclip_ros.conversions.stamps import nanoseconds, nearest

_TOLERANCE = 20_000_000
"""Nanoseconds between the stamps of labels and depth at most, as the node's `depth_tolerance`."""

_IN_MEMORY = 64 << 20
"""Bytes of pixels beyond which they go to a temporary file."""

_TOO_FAR = "too far"


@dataclass(frozen=True)
class LabeledDepth:
    """A frame's labels with its depth.

    Attributes:
        segments: The frame's SegmentArray.
        labels: Segment ids `(H, W)`.
        meters: float32 `(H, W)`, NaN where unknown.
        camera: Of images of this size.
    """

    segments: Any
    labels: np.ndarray
    meters: np.ndarray
    camera: PinholeCamera

    def points(self) -> np.ndarray:
        """Points of all pixels, meters in the optical frame: float32 `(H, W, 3)`, NaN where unknown."""
        across, down = self.camera.rays()
        return np.stack([across * self.meters, down * self.meters, self.meters], axis=-1)

    def class_ids(self) -> np.ndarray:
        """Class of each pixel's segment: uint16 `(H, W)`, 0 = none."""
        table = np.zeros(np.iinfo(np.uint16).max + 1, np.uint16)
        for item in self.segments.segments:
            table[item.id] = item.class_id
        return table[self.labels]

    def geometry(self) -> dict[int, Any]:
        """Where the segments are, by their ids, as the node would say it: fcclip_ros/SegmentGeometry."""
        found = segment_geometry(self.meters, self.camera, _Labels(self.labels, _segments(self.segments)))
        return {number: geometry_message(place) for number, place in found.items()}


@dataclass(frozen=True)
class _Labels:
    segment_map: np.ndarray
    segments: list[Segment]


class DepthJoin:
    """Pairs recorded labels with the recorded depth whose stamp is nearest, in whatever order they come.

    Nothing is forgotten: pixels wait in a temporary file (in memory, while they are few); pairs are made at the end.
    """

    def __init__(self) -> None:
        """Starts without any."""
        self._pixels = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 (lives as long as this)
        self._cameras: list[tuple[int, tuple[str, PinholeCamera]]] = []
        self._depths: list[tuple[int, _Pixels]] = []
        self._panoptic: dict[int, deque[_Pixels]] = {}
        self._segments: list[Any] = []
        self._missing: Counter[str] = Counter()
        self._apart: list[float] = []

    def see_camera(self, message: Any, camera: PinholeCamera) -> None:
        """Takes a camera_info, and the camera that it describes."""
        self._cameras.append((nanoseconds(message.header.stamp), (message.header.frame_id, camera)))

    def see_depth(self, message: Any) -> None:
        """Takes a depth image.

        Raises:
            ImageError: It is none.
        """
        to_depth(message)
        self._depths.append((nanoseconds(message.header.stamp), self._keep(message)))

    def see_labels(self, role: str, message: Any) -> None:
        """Takes a frame's panoptic image or its segments, as `role` says.

        Raises:
            ImageError: The image holds no labels.
        """
        if role == "segments":
            self._segments.append(message)
        else:
            to_labels(message)
            self._panoptic.setdefault(nanoseconds(message.header.stamp), deque()).append(self._keep(message))

    def join(self) -> Iterator[tuple[Any, LabeledDepth | None]]:
        """Goes through the frames' SegmentArrays, each with its depth, if any; afterwards `report` says why not."""
        self._missing.clear()
        order = sorted(self._depths, key=lambda item: item[0])  # of equal stamps the newest stays last
        stamps = [stamp for stamp, _ in order]
        for segments in self._segments:
            stamp = nanoseconds(segments.header.stamp)
            images = self._panoptic.get(stamp)
            # The nearest is one of the last that are not later, and of the next ones.
            place = bisect.bisect_right(stamps, stamp)
            end = bisect.bisect_right(stamps, stamps[place]) if place < len(stamps) else place
            depth = nearest(stamp, ((item[0], item) for item in (*order[place - 1 : place], *order[end - 1 : end])))
            calibration = nearest(stamp, self._cameras)
            why = self._why_none(segments, images, depth, calibration)
            if why or not images or depth is None or calibration is None:
                self._missing[why] += 1
                yield segments, None
                continue
            labels = to_labels(self._message(images.popleft()))
            size = labels.shape[1], labels.shape[0]
            try:
                meters = depth_in_meters(to_depth(self._message(depth[1])), size)
                joined = LabeledDepth(segments, labels, meters, calibration[1].resized(*size))
            except DepthError as error:
                self._missing[str(error)] += 1
                joined = None
            yield segments, joined

    def report(self) -> str:
        """How many frames found no depth, and why; empty if all did."""
        count = sum(self._missing.values())
        if not count:
            return ""
        reasons = []
        for why, times in self._missing.most_common():
            if why == _TOO_FAR:
                low, high = (f"{1000 * seconds:.0f}" for seconds in (min(self._apart), max(self._apart)))
                away = f"{low} ms" if low == high else f"{low} to {high} ms"
                why = f"the nearest depth was {away} away, more than {_TOLERANCE // 1_000_000} ms"
            reasons.append(f"{why} ({times} of {len(self._segments)})")
        labeled = [nanoseconds(message.header.stamp) for message in self._segments]
        for what, stamps in (("depth", [stamp for stamp, _ in self._depths]), ("labels", labeled)):
            if len(stamps) > 1 and len(set(stamps)) == 1:
                reasons.append(f"the stamps of {what} do not move, all are {1e-9 * stamps[0]:.9g} s")
        frames = len(self._segments)
        return (
            f"cloud and boxes are worked out for {frames - count} of {frames} frames; the others have no depth: "
            + "; ".join(reasons)
        )

    def _why_none(self, segments: Any, images: Any, depth: Any, calibration: Any) -> str:
        """Why a frame has no depth; empty if it has."""
        if not images:
            return "no panoptic image of the same stamp was recorded"
        if depth is None:
            return "no depth was recorded"
        if calibration is None:
            return "no camera_info that can be used was recorded"
        off = abs(depth[0] - nanoseconds(segments.header.stamp))
        if off > _TOLERANCE:
            self._apart.append(1e-9 * off)
            return _TOO_FAR
        frame = segments.header.frame_id
        for what, other in (("depth", depth[1].frame_id), ("camera_info", calibration[0])):
            if other.lstrip("/") != frame.lstrip("/"):
                return f"{what} is in the frame {other!r}, the image in {frame!r}"
        return ""

    def _keep(self, message: Any) -> _Pixels:
        data = bytes(message.data)
        try:
            place = self._pixels.seek(0, io.SEEK_END)
            self._pixels.write(data)
        except OSError as error:
            raise ImageError(
                f"there is no room for depth in {tempfile.gettempdir()} ({error.strerror}); choose another folder with "
                "TMPDIR"
            ) from error
        head = (message.header.frame_id, message.height, message.width, message.step, message.encoding)
        return _Pixels(*head, message.is_bigendian, place, len(data))

    def _message(self, pixels: _Pixels) -> Any:
        """An image with the fields that were kept."""
        self._pixels.seek(pixels.place)
        data = np.frombuffer(self._pixels.read(pixels.length), np.uint8)
        return SimpleNamespace(**{**vars(pixels), "data": data})


@dataclass(frozen=True)
class _Pixels:
    """An image whose pixels are in the temporary file."""

    frame_id: str
    height: int
    width: int
    step: int
    encoding: str
    is_bigendian: int
    place: int
    length: int


def _segments(message: Any) -> list[Segment]:
    return [
        Segment(
            id=item.id,
            class_id=item.class_id,
            name=item.name,
            score=item.score,
            is_thing=item.is_thing,
            area=item.area,
            box=(
                item.box.x_offset,
                item.box.y_offset,
                item.box.x_offset + item.box.width,
                item.box.y_offset + item.box.height,
            ),
            embedding=np.empty(0, np.float32),
        )
        for item in message.segments
    ]
