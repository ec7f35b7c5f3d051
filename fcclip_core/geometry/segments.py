"""Depth and labels -> where each segment is: its visible surface's centroid and extents.

A mask's rim is where labels and depth are least to be trusted: rows and columns at it are left out, and given back to
the extents afterwards. What lies far before or behind the rest is trimmed. Distances between depths are measured in
inverse depth: there a plane's pixels are spread evenly however it is tilted, and so is the noise of stereo cameras.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from fcclip_core.geometry.camera import PinholeCamera
from fcclip_core.results import PanopticResult, Segment

MIN_POINTS = 12
"""Segments with fewer points get no geometry."""

_MOST_POINTS = 2500
"""About as many of a segment's pixels are looked at, on a regular grid."""

_RIM_ROWS = 240
"""A pixel of the rim is left out for so many rows of the image, begun ones too."""

_LEAST_INTERIOR = 0.3
"""Share of a segment's pixels that must remain without its rim; thin segments keep theirs."""

_DEVIATIONS = 4.0
"""Trimmed is what lies so many standard deviations from the median (estimated from the median deviation)."""

_DEEPEST = 0.6
"""Or, if that is more, so many times the segment's visible width away from it: fronts of boxes have no deviation."""

_TAIL = 1.0
"""Per cent of the points beyond each side of a box."""


@dataclass(frozen=True)
class SegmentGeometry:
    """Where a segment's visible surface is, in the camera's optical frame; metres.

    Attributes:
        centroid: float64 `(3,)`, the mean of the points.
        distance: From the camera to the centroid.
        center: float64 `(3,)`, middle of the box along the frame's axes.
        extents: float64 `(3,)`, that box's sides.
        oriented_center: float64 `(3,)`, middle of the box that follows the points.
        orientation: Unit quaternion `(x, y, z, w)` that turns the frame's axes into that box's, longest side first.
        oriented_extents: float64 `(3,)`, that box's sides, longest first.
        points: How many points were used.
    """

    centroid: np.ndarray
    distance: float
    center: np.ndarray
    extents: np.ndarray
    oriented_center: np.ndarray
    orientation: np.ndarray
    oriented_extents: np.ndarray
    points: int


def segment_geometry(depth: np.ndarray, camera: PinholeCamera, result: PanopticResult) -> dict[int, SegmentGeometry]:
    """Measures every segment that has enough depth.

    Args:
        depth: float32 `(H, W)`, metres, NaN where unknown.
        camera: Of images of this size.
        result: The labels.

    Returns:
        Segment id to its geometry; segments with fewer than `MIN_POINTS` points are left out.
    """
    labels = result.segment_map.astype(np.uint16)
    rim = -(-labels.shape[0] // _RIM_ROWS)
    interior = _without_rims(labels, rim)
    known = depth == depth
    interior[~known] = 0
    labels[~known] = 0
    found = {}
    for segment in result.segments:
        points, is_interior = _points(segment, interior, labels, depth, camera)
        if len(points) >= MIN_POINTS:
            margin = rim / camera.fx if is_interior else 0.0
            found[segment.id] = _measure(points, margin)
    return found


def _without_rims(labels: np.ndarray, pixels: int) -> np.ndarray:
    """Labels, 0 where another one is within so many pixels; the image's own border is no rim."""
    kernel = np.ones((2 * pixels + 1, 2 * pixels + 1), np.uint8)
    alike = cv2.erode(labels, kernel) == cv2.dilate(labels, kernel)
    return labels * alike


def _points(
    segment: Segment, interior: np.ndarray, labels: np.ndarray, depth: np.ndarray, camera: PinholeCamera
) -> tuple[np.ndarray, bool]:
    """The segment's points, float64 `(N, 3)`, without those far before or behind; and whether its rim is left out."""
    left, top, right, bottom = segment.box
    step = max(1, round(np.sqrt(segment.area / _MOST_POINTS)))
    window = slice(top, bottom, step), slice(left, right, step)
    chosen = labels[window] == segment.id
    inside = interior[window] == segment.id
    is_interior = np.count_nonzero(inside) >= max(_LEAST_INTERIOR * np.count_nonzero(chosen), MIN_POINTS)
    if is_interior:
        chosen = inside
    z = depth[window][chosen].astype(np.float64)
    if len(z) == 0:
        return np.empty((0, 3)), is_interior
    across, down = camera.rays()
    points = np.stack([across[window][chosen] * z, down[window][chosen] * z, z], axis=1)
    return points[_together(z, np.sqrt(segment.area / (camera.fx * camera.fy)))], is_interior


def _together(z: np.ndarray, angle: float) -> np.ndarray:
    """Which depths belong together, bool `(N,)`; `angle` is the segment's visible width at a distance of 1."""
    nearness = 1 / z
    middle = np.median(nearness)
    off = np.abs(nearness - middle)
    deviation = 1.4826 * np.median(off)
    return (off <= _DEVIATIONS * deviation) | (np.abs(z * middle - 1) <= _DEEPEST * angle)


def _measure(points: np.ndarray, margin: float) -> SegmentGeometry:
    """Centroid and boxes of points; `margin` is the width of the rim that was left out, at a distance of 1."""
    centroid = points.mean(axis=0)
    axes = _box_axes(points - centroid)
    # Both boxes in one go: first along the frame's axes, then along the points' own.
    directions = np.concatenate([np.eye(3), axes])
    low, high = _span(points @ directions.T)
    sideways = np.sqrt(np.clip(1 - directions[:, 2] ** 2, 0, 1))
    middle, sides = (low + high) / 2, high - low + 2 * margin * centroid[2] * sideways
    order = np.argsort(-sides[3:], kind="stable")
    turn = axes[order]
    turn[2] = np.cross(turn[0], turn[1])
    return SegmentGeometry(
        centroid=centroid,
        distance=float(np.linalg.norm(centroid)),
        center=middle[:3],
        extents=sides[:3],
        oriented_center=middle[3:] @ axes,
        orientation=Rotation.from_matrix(turn.T).as_quat(),
        oriented_extents=sides[3:][order],
        points=len(points),
    )


def _span(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each column of `(N, K)` begins and ends, without its tails."""
    tail = int(len(values) * _TAIL / 100)
    ordered = np.partition(values, [tail, len(values) - 1 - tail], axis=0)
    return ordered[tail], ordered[-1 - tail]


def _box_axes(points: np.ndarray) -> np.ndarray:
    """Axes of a small box round points about 0, as rows `(3, 3)`.

    The shortest is the direction in which they vary least; the others are those of the smallest rectangle round what
    is seen along it. Principal axes alone would turn with every corner that is hidden.
    """
    _, principal = np.linalg.eigh(points.T @ points)
    flat = (points @ principal[:, 1:]).astype(np.float32)
    angle = np.deg2rad(cv2.minAreaRect(flat)[2])
    along = principal[:, 1:] @ [np.cos(angle), np.sin(angle)]
    axes = np.stack([along, np.cross(principal[:, 0], along), principal[:, 0]])
    # Either sign would do; the choice keeps boxes from flipping between frames.
    return axes * np.where(axes[np.arange(3), np.abs(axes).argmax(axis=1)] < 0, -1, 1)[:, None]


__all__ = ["MIN_POINTS", "SegmentGeometry", "segment_geometry"]
