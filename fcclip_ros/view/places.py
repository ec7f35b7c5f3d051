"""Point clouds and boxes of frames that were labeled without depth, computed from recorded depth."""

from __future__ import annotations

import bisect
import io
import tempfile
from collections import deque
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
from fcclip_ros.bags.depth_matching import MissingDepth, matched
from fcclip_ros.conversions.images import depth_size, to_depth, to_labels
from fcclip_ros.conversions.messages import box_of
from fcclip_ros.conversions.messages_3d import geometry_message
from fcclip_ros.conversions.stamps import nanoseconds, nearest

_IN_MEMORY = 64 << 20
"""Size of buffered images in bytes beyond which a temporary file is used."""

_RAW_LAYOUT = ("height", "width", "step", "encoding", "is_bigendian")


@dataclass(frozen=True)
class LabeledDepth:
    """The labels of a frame with its depth.

    Attributes:
        segments: SegmentArray of the frame.
        labels: Segment ids `(H, W)`.
        meters: Depth, float32 `(H, W)`, NaN where unknown.
        camera: Camera model for this image size.
    """

    segments: Any
    labels: np.ndarray
    meters: np.ndarray
    camera: PinholeCamera

    def points(self) -> np.ndarray:
        """Points of all pixels in meters in the optical frame: float32 `(H, W, 3)`, NaN where unknown."""
        across, down = self.camera.rays()
        return np.stack([across * self.meters, down * self.meters, self.meters], axis=-1)

    def class_ids(self) -> np.ndarray:
        """Class id of each pixel's segment: uint16 `(H, W)`, 0 for no segment."""
        table = np.zeros(np.iinfo(np.uint16).max + 1, np.uint16)
        for item in self.segments.segments:
            table[item.id] = item.class_id
        return table[self.labels]

    def geometry(self) -> dict[int, Any]:
        """The fcclip_ros/SegmentGeometry of the segments by id, as the node would publish it."""
        found = segment_geometry(self.meters, self.camera, _Labels(self.labels, _segments(self.segments)))
        frame_id = self.segments.header.frame_id
        return {number: geometry_message(geometry, frame_id) for number, geometry in found.items()}


@dataclass(frozen=True)
class _Labels:
    segment_map: np.ndarray
    segments: list[Segment]


class DepthJoin:
    """Matches recorded labels to the recorded depth with the nearest stamp, in any order of recording.

    All images are buffered in a temporary file (in memory while they are small), and matched at the end.
    """

    def __init__(self) -> None:
        """Starts empty."""
        self._pixels = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 (open as long as this object)
        self._cameras: list[tuple[int, tuple[str, PinholeCamera]]] = []
        self._depths: list[tuple[int, _Pixels]] = []
        self._panoptic: dict[int, deque[_Pixels]] = {}
        self._segments: list[Any] = []
        self._missing = MissingDepth()

    def add_camera(self, message: Any, camera: PinholeCamera) -> None:
        """Adds a camera_info with its camera model."""
        self._cameras.append((nanoseconds(message.header.stamp), (message.header.frame_id, camera)))

    def add_depth(self, message: Any) -> None:
        """Adds a depth image.

        Raises:
            ImageError: It is invalid.
        """
        depth_size(message)
        self._depths.append((nanoseconds(message.header.stamp), self._keep(message)))

    def add_labels(self, role: str, message: Any) -> None:
        """Adds the panoptic image or the segments of a frame, according to `role`.

        Raises:
            ImageError: The image is not a label image.
        """
        if role == "segments":
            self._segments.append(message)
        else:
            to_labels(message)
            self._panoptic.setdefault(nanoseconds(message.header.stamp), deque()).append(self._keep(message))

    def join(self) -> Iterator[tuple[Any, LabeledDepth | None]]:
        """Iterates over the SegmentArrays, each with its depth or None; afterwards `report` explains the latter."""
        self._missing = MissingDepth()
        order = sorted(self._depths, key=lambda item: item[0])  # stable: the newest of equal stamps stays last
        stamps = [stamp for stamp, _ in order]
        for segments in self._segments:
            stamp = nanoseconds(segments.header.stamp)
            images = self._panoptic.get(stamp)
            # The nearest is the last one that is not later, or the next one.
            place = bisect.bisect_right(stamps, stamp)
            end = bisect.bisect_right(stamps, stamps[place]) if place < len(stamps) else place
            depth = nearest(stamp, ((item[0], item) for item in (*order[place - 1 : place], *order[end - 1 : end])))
            calibration = nearest(stamp, self._cameras)
            try:
                if not images:
                    raise DepthError("no panoptic image with the same stamp was recorded")
                pixels, camera = matched(
                    (stamp, segments.header.frame_id),
                    None if depth is None else (depth[0], depth[1].frame_id, depth[1]),
                    calibration,
                )
            except DepthError as error:
                self._missing.add(error)
                yield segments, None
                continue
            labels = to_labels(self._load(images.popleft()))
            size = labels.shape[1], labels.shape[0]
            try:
                meters = depth_in_meters(to_depth(self._load(pixels)), size)
                joined = LabeledDepth(segments, labels, meters, camera.resized(*size))
            except (DepthError, ImageError) as error:
                self._missing.add(error)
                joined = None
            yield segments, joined

    def report(self) -> str:
        """How many frames have no depth, and why; empty if all have."""
        count = self._missing.count
        if not count:
            return ""
        reasons = self._missing.reasons(len(self._segments))
        labeled = [nanoseconds(message.header.stamp) for message in self._segments]
        for what, stamps in (("depth", [stamp for stamp, _ in self._depths]), ("labels", labeled)):
            if len(stamps) > 1 and len(set(stamps)) == 1:
                reasons.append(f"the stamps of {what} do not advance, all are {1e-9 * stamps[0]:.9g} s")
        frames = len(self._segments)
        return (
            f"point clouds and boxes are computed for {frames - count} of {frames} frames; the others have no depth: "
            + "; ".join(reasons)
        )

    def _keep(self, message: Any) -> _Pixels:
        data = bytes(message.data)
        try:
            place = self._pixels.seek(0, io.SEEK_END)
            self._pixels.write(data)
        except OSError as error:
            raise ImageError(
                f"depth cannot be written to {tempfile.gettempdir()} ({error.strerror}); set TMPDIR to another folder"
            ) from error
        layout = ("format",) if hasattr(message, "format") else _RAW_LAYOUT
        fields = {name: getattr(message, name) for name in layout}
        return _Pixels(message.header.frame_id, fields, place, len(data))

    def _load(self, pixels: _Pixels) -> Any:
        """A buffered image, with the fields of the message that were kept."""
        self._pixels.seek(pixels.place)
        data = np.frombuffer(self._pixels.read(pixels.length), np.uint8)
        return SimpleNamespace(**pixels.fields, data=data)


@dataclass(frozen=True)
class _Pixels:
    """An image, raw or compressed, whose data is in the temporary file; `fields` are the others of its message."""

    frame_id: str
    fields: dict[str, Any]
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
            box=box_of(item.box),
            embedding=np.empty(0, np.float32),
        )
        for item in message.segments
    ]
