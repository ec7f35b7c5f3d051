"""A labeled frame: what outputs are made from."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from sensor_msgs.msg import Image

from fcclip_core.geometry.camera import PinholeCamera
from fcclip_core.geometry.depth import depth_in_meters
from fcclip_core.geometry.segments import SegmentGeometry, segment_geometry
from fcclip_core.results import PanopticResult
from fcclip_core.segmenter import EncodedImage
from fcclip_core.vocabulary.snapshot import VocabularySnapshot
from fcclip_ros.conversions.images import to_depth


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
    def meters(self) -> np.ndarray:
        """float32 `(H, W)` of the frame's image, along the optical axis, NaN where unknown; made when asked for."""
        return depth_in_meters(to_depth(self.message), (self.camera.width, self.camera.height))


@dataclass(frozen=True)
class LabeledFrame:
    """One frame, its result, and the vocabulary that it was labeled with.

    Attributes:
        header: The image message's own header.
        image: uint8 RGB `(H, W, 3)`.
        result: The segmentation.
        snapshot: The vocabulary; version 0 if it was for this frame alone.
        encoded: The network's answer, which other words can be held against.
        arrival_time: When the message came, monotonic seconds.
        depth: Its depth, if there is any.
        depth_erosion: Pixels of each segment's rim whose depth is not used.
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
        """Where the segments are that have enough depth, by segment id; made when asked for."""
        if self.depth is None:
            return {}
        return segment_geometry(self.depth.meters, self.depth.camera, self.result, self.depth_erosion)
