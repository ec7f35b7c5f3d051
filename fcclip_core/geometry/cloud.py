"""Depth and labels -> an organized point cloud: one point per pixel of the label image."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np

from fcclip_core.geometry.camera import PinholeCamera
from fcclip_core.geometry.transform import RigidTransform
from fcclip_core.images.label_size import at_label_size
from fcclip_core.results import PanopticResult

POINT = np.dtype(
    [
        ("x", "<f4"),
        ("y", "<f4"),
        ("z", "<f4"),
        ("rgb", "<u4"),
        ("semantic_id", "<u2"),
        ("segment_id", "<u2"),
        ("confidence", "<f4"),
    ]
)
"""A point: position in meters; color as 0x00RRGGBB; class and segment id, 0 = none; the segment's score, 0..1."""

_BAND = 1 << 15
"""Pixels computed at a time: temporary arrays of whole images would cost more than the computation."""


def organized_cloud(
    image: np.ndarray,
    depth: np.ndarray,
    camera: PinholeCamera,
    result: PanopticResult,
    out: np.ndarray | None = None,
    transform: RigidTransform | None = None,
) -> np.ndarray:
    """Computes the points of all pixels, in pixel order.

    Args:
        image: uint8 RGB, of the labels' size or larger, by `output_stride`.
        depth: float32 `(H, W)`, meters, NaN where unknown.
        camera: The camera, for images of the labels' size.
        result: The labels.
        out: Output array, `POINT` `(H, W)`, contiguous; None: a new one.
        transform: From the camera's optical frame to that of the points; None: the optical frame.

    Returns:
        `POINT` `(H, W)`; x, y and z are NaN at pixels without depth and at pixels that the result ignores. Labels and
        color are set for all pixels.
    """
    image = at_label_size(image, depth.shape)
    if result.ignored is not None:
        depth = np.where(result.ignored, np.float32(np.nan), depth)
    points: np.ndarray = np.empty(depth.shape, POINT) if out is None else out
    # Six columns of four bytes each: interleaving by OpenCV is several times faster than writing single fields.
    fields = points.view(np.float32).reshape(*depth.shape, 6)
    labels, scores = _tables(result)
    height, width = depth.shape
    rows = max(1, _BAND // width)
    for band in (slice(top, top + rows) for top in range(0, height, rows)):
        across, down = (ray[band] * depth[band] for ray in camera.rays())
        places: Iterable[np.ndarray] = (across, down, depth[band])
        if transform is not None:
            places = transform.apply(np.stack((across, down, depth[band])))
        ids = result.segment_map[band]
        cv2.merge([*places, _packed(image[band]), labels[ids].view(np.float32), scores[ids]], fields[band])
    return points


def _packed(image: np.ndarray) -> np.ndarray:
    """Colors as 0x00RRGGBB viewed as float32, as in PCL. Alpha is 0: otherwise bright colors would be NaN."""
    packed = cv2.cvtColor(image, cv2.COLOR_RGB2BGRA).view("<u4")[..., 0]
    packed &= np.uint32(0x00FFFFFF)
    return packed.view(np.float32)


def _tables(result: PanopticResult) -> tuple[np.ndarray, np.ndarray]:
    """Lookup tables by segment id: both ids packed as in `POINT`, and the score."""
    size = max((segment.id for segment in result.segments), default=0) + 1
    labels, scores = np.zeros(size, "<u4"), np.zeros(size, np.float32)
    for segment in result.segments:
        labels[segment.id] = segment.class_id | segment.id << 16
        scores[segment.id] = segment.score
    return labels, scores
