"""Cloud and boxes of frames that were labelled without depth, from depth that was recorded beside them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from fcclip_core.geometry.camera import PinholeCamera
from fcclip_core.geometry.depth import depth_in_metres
from fcclip_core.geometry.segments import segment_geometry
from fcclip_core.results import Segment
from fcclip_ros.images import to_depth, to_labels
from fcclip_ros.messages_3d import geometry_message
from fcclip_ros.stamps import nanoseconds

_TOLERANCE = 20_000_000
"""Nanoseconds between the stamps of labels and depth at most, as the node's `depth_tolerance`."""

_KEPT = 8
"""Depth images that wait for their labels."""


@dataclass(frozen=True)
class LabelledDepth:
    """A frame's labels with its depth.

    Attributes:
        segments: The frame's SegmentArray.
        labels: Segment ids `(H, W)`.
        metres: float32 `(H, W)`, NaN where unknown.
        camera: Of images of this size.
    """

    segments: Any
    labels: np.ndarray
    metres: np.ndarray
    camera: PinholeCamera

    def points(self) -> np.ndarray:
        """Points of all pixels, metres in the optical frame: float32 `(H, W, 3)`, NaN where unknown."""
        across, down = self.camera.rays()
        return np.stack([across * self.metres, down * self.metres, self.metres], axis=-1)

    def class_ids(self) -> np.ndarray:
        """Class of each pixel's segment: uint16 `(H, W)`, 0 = none."""
        table = np.zeros(np.iinfo(np.uint16).max + 1, np.uint16)
        for item in self.segments.segments:
            table[item.id] = item.class_id
        return table[self.labels]

    def geometry(self) -> dict[int, Any]:
        """Where the segments are, by their ids, as the node would say it: fcclip_ros/SegmentGeometry."""
        found = segment_geometry(self.metres, self.camera, _Labels(self.labels, _segments(self.segments)))
        return {number: geometry_message(place) for number, place in found.items()}


@dataclass(frozen=True)
class _Labels:
    segment_map: np.ndarray
    segments: list[Segment]


class DepthJoin:
    """Puts labels and depth of equal or near stamps together, whichever comes first."""

    def __init__(self) -> None:
        """Starts without any."""
        self._camera: PinholeCamera | None = None
        self._labels: dict[str, Any] = {}
        self._depths: deque[Any] = deque(maxlen=_KEPT)

    def see_camera(self, camera: PinholeCamera) -> LabelledDepth | None:
        """Takes the calibration that holds from now on. As the others do, returns the frame that is complete now."""
        self._camera = camera
        return self._join()

    def see_depth(self, message: Any) -> LabelledDepth | None:
        """Takes a depth image."""
        self._depths.append(message)
        return self._join()

    def see_labels(self, role: str, message: Any) -> LabelledDepth | None:
        """Takes a frame's panoptic image or its segments, as `role` says."""
        self._labels[role] = message
        return self._join()

    def _join(self) -> LabelledDepth | None:
        """The newest labels with the nearest depth, once."""
        if self._camera is None or len(self._labels) < 2:
            return None
        panoptic, segments = self._labels["panoptic"], self._labels["segments"]
        stamp = nanoseconds(segments.header.stamp)
        off = {abs(nanoseconds(message.header.stamp) - stamp): message for message in self._depths}
        if nanoseconds(panoptic.header.stamp) != stamp or not off or min(off) > _TOLERANCE:
            return None
        self._labels.clear()
        labels = to_labels(panoptic)
        size = labels.shape[1], labels.shape[0]
        metres = depth_in_metres(to_depth(off[min(off)]), size)
        return LabelledDepth(segments, labels, metres, self._camera.resized(*size))


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
