"""A labeled frame: the input of all outputs."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from std_msgs.msg import Header

from fcclip_core.geometry.camera import PinholeCamera
from fcclip_core.geometry.depth import depth_in_meters
from fcclip_core.geometry.segments import SegmentGeometry, segment_geometry
from fcclip_core.geometry.transform import RigidTransform
from fcclip_core.results import PanopticResult

if TYPE_CHECKING:  # as in fcclip_core/results.py
    from fcclip_core.segmenter import EncodedImage
    from fcclip_core.vocabulary.snapshot import VocabularySnapshot


@dataclass(frozen=True)
class FrameDepth:
    """Depth of one frame, registered to its image.

    Attributes:
        pixels: uint16 millimeters or float32 meters, `(h, w)` in the sensor's size.
        camera: Camera model for images of the labels' size.
        frame_id: The frame in which 3D outputs are given; empty: that of the image.
        transform: From the camera's optical frame to that frame; None if they are the same.
    """

    pixels: np.ndarray
    camera: PinholeCamera
    frame_id: str = ""
    transform: RigidTransform | None = None

    @functools.cached_property
    def meters(self) -> np.ndarray:
        """Depth along the optical axis, float32 `(h, w)` in the size of the labels, NaN where unknown; lazy."""
        return depth_in_meters(self.pixels, (self.camera.width, self.camera.height))


@dataclass(frozen=True)
class LabeledFrame:
    """A frame with its result and the vocabulary that labeled it.

    Attributes:
        header: Header of the image message.
        image: uint8 RGB `(H, W, 3)`.
        result: The segmentation; its labels are `(h, w)`, smaller than the image with `output_stride`.
        snapshot: The vocabulary; version 0 if it was used for this frame only.
        encoded: The network's output, which can be decoded with other vocabularies.
        arrival_time: Monotonic time at which the message arrived, in seconds.
        depth: Its depth, if there is any.
        depth_erosion: Width in pixels of the border of each segment whose depth is ignored.
    """

    header: Any
    image: np.ndarray
    result: PanopticResult
    snapshot: VocabularySnapshot
    encoded: EncodedImage
    arrival_time: float
    depth: FrameDepth | None = None
    depth_erosion: int = 0

    @functools.cached_property
    def geometry(self) -> dict[int, SegmentGeometry]:
        """3D geometry of the segments that have enough depth, by segment id; lazy."""
        if self.depth is None:
            return {}
        depth = self.depth
        return segment_geometry(depth.meters, depth.camera, self.result, self.depth_erosion, depth.transform)

    @property
    def header_3d(self) -> Any:
        """Header of the 3D outputs: that of the image, with the frame in which they are given."""
        if self.depth is None or not self.depth.frame_id:
            return self.header
        return Header(stamp=self.header.stamp, frame_id=self.depth.frame_id)
