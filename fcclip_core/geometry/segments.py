"""Depth and labels -> 3D position of each segment: centroid and extents of its visible surface.

The median and spread of a segment's points are estimated without the rim of its mask, where labels and depth are least
reliable. Points that deviate too far from the median, along the ray or across it, are trimmed. Deviations along the ray
are measured in inverse depth, in which a tilted plane and the noise of stereo cameras are spread evenly. Rim pixels
within these limits are used afterwards, otherwise every segment would shrink.

For cameras whose depth bleeds over edges, the rim can be excluded completely: `eroded`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from fcclip_core.geometry.camera import PinholeCamera
from fcclip_core.geometry.transform import RigidTransform
from fcclip_core.results import Segment

if TYPE_CHECKING:
    from fcclip_core.segments.visualization import SegmentedImage

MIN_POINTS = 12
"""Smallest number of points for a segment's geometry."""

MAX_EROSION = 50
"""Largest erosion in pixels; distances are stored in 8 bits."""

_MAX_POINTS = 1000
"""Approximate number of a segment's pixels that are used, on a regular grid."""

_AXES_POINTS = 200
"""Approximate number of points that determine a box's orientation."""

_RIM_ROWS = 240
"""The rim is one pixel wide per this many image rows, rounded up."""

_MIN_INTERIOR = 0.3
"""Smallest fraction of a segment's pixels that must remain without the rim; thin segments keep their rim."""

_BAND = 1 << 18
"""Pixels counted at a time, to limit temporary memory of eight bytes per pixel."""

_DEVIATIONS = 3.0
"""Points beyond this many standard deviations from the median, estimated from the median deviation, are trimmed."""

_MAX_DEPTH = 0.8
"""Points this close to the median depth are always kept, in visible widths of the segment: the front of a box has no
deviation, but its sides belong to it."""

_TAIL = 0.005
"""Fraction of the points outside of each side of a box."""


@dataclass(frozen=True)
class SegmentGeometry:
    """Position of a segment's visible surface, meters; in the camera's optical frame unless it was transformed.

    Attributes:
        centroid: float64 `(3,)`, the mean of the points.
        distance: From the camera to the centroid.
        center: float64 `(3,)`, center of the axis-aligned box.
        extents: float64 `(3,)`, sides of that box.
        oriented_center: float64 `(3,)`, center of the oriented box.
        orientation: Unit quaternion `(x, y, z, w)` that rotates the frame's axes to that box, longest side first.
        oriented_extents: float64 `(3,)`, sides of that box, longest first.
        points: Number of points used.
    """

    centroid: np.ndarray
    distance: float
    center: np.ndarray
    extents: np.ndarray
    oriented_center: np.ndarray
    orientation: np.ndarray
    oriented_extents: np.ndarray
    points: int


def segment_geometry(
    depth: np.ndarray,
    camera: PinholeCamera,
    result: SegmentedImage,
    erosion: int = 0,
    transform: RigidTransform | None = None,
) -> dict[int, SegmentGeometry]:
    """Measures every segment with enough depth.

    Args:
        depth: float32 `(H, W)`, meters, NaN where unknown.
        camera: The camera, for images of this size.
        result: The labels.
        erosion: Width in pixels of the excluded rim of each segment; see `eroded`.
        transform: From the camera's optical frame to that of the result, whose axes the axis-aligned boxes follow;
            None: the optical frame.

    Returns:
        Segment id -> geometry, for segments with at least `MIN_POINTS` points.
    """
    return geometry_of(segment_points(depth, camera, result, erosion), transform)


def segment_points(
    depth: np.ndarray, camera: PinholeCamera, result: SegmentedImage, erosion: int = 0
) -> dict[int, np.ndarray]:
    """The points that `segment_geometry` measures; arguments as there.

    Returns:
        Segment id -> float32 `(3, N)`, meters in the camera's optical frame, N at least `MIN_POINTS`.
    """
    labels = result.segment_map.astype(np.uint16)
    interior = _without_rims(labels, -(-labels.shape[0] // _RIM_ROWS))
    labels = eroded(labels, depth == depth, erosion)  # NaN is unknown
    found = {segment.id: _points(segment, labels, interior, depth, camera) for segment in result.segments}
    return {number: points for number, points in found.items() if points.shape[1] >= MIN_POINTS}


def geometry_of(points: dict[int, np.ndarray], transform: RigidTransform | None = None) -> dict[int, SegmentGeometry]:
    """Geometry of each of some points (see `segment_points`), by `transform` from the optical frame to another one."""
    boxes = [_boxes(transform.rotate(part) if transform else part) for part in points.values()]
    # Translated last, in double precision: float32 has steps of 3 cm at coordinates such as those of UTM.
    origin = transform.translation if transform else np.zeros(3)
    return dict(zip(points, _geometries(boxes, origin), strict=True))


def bounds_along(axes: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest coordinate of points `(3, N)` along some axes, rows of `(K, 3)`, without outliers.

    Returns:
        Two float64 `(K,)`.
    """
    values = axes.astype(np.float32) @ points
    tail = int(points.shape[1] * _TAIL)
    values.partition([tail, points.shape[1] - 1 - tail], axis=1)
    return values[:, tail].astype(np.float64), values[:, -1 - tail].astype(np.float64)


def eroded(labels: np.ndarray, known: np.ndarray, pixels: int) -> np.ndarray:
    """The labels of pixels with known depth, with each segment eroded by up to `pixels`.

    The erosion of a segment is reduced so that at least 0.3 of its pixels with known depth, and `MIN_POINTS`, remain:
    small and thin segments are eroded less, and none vanishes. The image border and pixels without depth are not
    eroded from.

    Args:
        labels: uint16 `(H, W)`, segment ids, 0 for none.
        known: bool `(H, W)`, whether depth is known.
        pixels: Largest erosion in pixels; 0 for none.

    Returns:
        uint16 `(H, W)`, 0 for excluded pixels.
    """
    used = labels * known
    if not pixels:
        return used
    edges = _without_rims(labels, 1).astype(np.uint8)
    # Chessboard distance from the rim: ring i is what erosion step i by a square structuring element removes.
    rings = np.minimum(cv2.distanceTransform(edges, cv2.DIST_C, 3), pixels).astype(np.uint8)
    used[rings < _erosion_of(used, rings, pixels)[used]] = 0
    return used


def _erosion_of(labels: np.ndarray, rings: np.ndarray, most: int) -> np.ndarray:
    """Number of rings to remove from each segment, uint8 by segment id; see `eroded`."""
    counts = np.zeros((int(labels.max()) + 1) * (most + 1), np.int64)
    band = max(_BAND // labels.shape[1], 1)
    for top in range(0, labels.shape[0], band):
        cells = labels[top : top + band].astype(np.int64) * (most + 1) + rings[top : top + band]
        counts += np.bincount(cells.ravel(), minlength=len(counts))
    # Per segment, the pixels that remain after removing 0, 1, ... rings.
    remaining = counts.reshape(-1, most + 1)[:, ::-1].cumsum(axis=1)[:, ::-1]
    enough = remaining >= np.maximum(_MIN_INTERIOR * remaining[:, :1], MIN_POINTS)
    return np.maximum(enough.sum(axis=1) - 1, 0).astype(np.uint8)


def _without_rims(labels: np.ndarray, pixels: int) -> np.ndarray:
    """Whether no other label is within `pixels`, bool `(H, W)`; the image border does not count."""
    kernel = np.ones((2 * pixels + 1, 2 * pixels + 1), np.uint8)
    return cv2.erode(labels, kernel) == cv2.dilate(labels, kernel)


def _points(
    segment: Segment, labels: np.ndarray, interior: np.ndarray, depth: np.ndarray, camera: PinholeCamera
) -> np.ndarray:
    """The points of a segment's surface, float32 `(3, N)`."""
    left, top, right, bottom = segment.box
    step = max(1, round(math.sqrt(segment.area / _MAX_POINTS)))
    window = slice(top, bottom, step), slice(left, right, step)
    pixels = np.nonzero(labels[window] == segment.id)
    if len(pixels[0]) < MIN_POINTS:
        return np.empty((3, 0), np.float32)
    inside = interior[window][pixels]
    if np.count_nonzero(inside) < max(_MIN_INTERIOR * len(inside), MIN_POINTS):
        inside[:] = True
    z, across, down = (plane[window][pixels] for plane in (depth, *camera.rays()))
    inverse = 1 / z
    median, limit = _median_and_limit(inverse[inside])
    width = math.sqrt(segment.area / (camera.fx * camera.fy)) / median
    kept = (np.abs(inverse - median) <= limit) | (np.abs(z - 1 / median) <= _MAX_DEPTH * width)
    for ray in (across, down):
        median, limit = _median_and_limit(ray[inside & kept])
        kept &= np.abs(ray - median) <= limit
    return np.stack([across * z, down * z, z])[:, kept]


def _median_and_limit(values: np.ndarray) -> tuple[float, float]:
    """The median, and the largest allowed deviation from it."""
    half = len(values) // 2
    median = np.partition(values, half)[half]
    return float(median), _DEVIATIONS * 1.4826 * float(np.partition(np.abs(values - median), half)[half])


@dataclass(frozen=True)
class _Boxes:
    """Boxes around a segment's points: axes of the oriented box as rows `(3, 3)`; centers and sides of both boxes."""

    centroid: np.ndarray
    axes: np.ndarray
    middle: np.ndarray
    sides: np.ndarray
    points: int


def _boxes(points: np.ndarray) -> _Boxes:
    centroid = points.mean(axis=1, dtype=np.float64)
    few = points[:, :: max(1, points.shape[1] // _AXES_POINTS)]
    axes = _box_axes(few - centroid[:, None].astype(np.float32))
    # Both boxes at once: first along the frame's axes, then along the oriented box's.
    low, high = bounds_along(np.concatenate([np.eye(3), axes]), points)
    return _Boxes(centroid, axes, (low + high) / 2, high - low, points.shape[1])


def _box_axes(points: np.ndarray) -> np.ndarray:
    """Axes of a tight box around centered points.

    One is the direction of least variance; the others are those of the smallest rectangle around the points projected
    along it. Principal axes alone would rotate whenever a corner is occluded.
    """
    _, principal = np.linalg.eigh((points @ points.T).astype(np.float64))
    flat = np.ascontiguousarray((principal[:, 1:].T.astype(np.float32) @ points).T)
    angle = math.radians(cv2.minAreaRect(flat)[2])
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return np.concatenate([turn @ principal[:, 1:].T, principal[:, :1].T])


def _geometries(boxes: Sequence[_Boxes], origin: np.ndarray) -> Iterator[SegmentGeometry]:
    """The geometry of boxes that were measured from the camera, which is at `origin`."""
    if not boxes:
        return
    turns = np.stack([box.axes[np.argsort(-box.sides[3:], kind="stable")] for box in boxes])
    # The sign of an axis is arbitrary: its largest component is made positive, so that boxes do not flip between
    # frames, and the last axis makes the system right-handed.
    largest = np.take_along_axis(turns, np.abs(turns).argmax(axis=2)[..., None], axis=2)
    turns *= np.where(largest < 0, -1, 1)
    turns[:, 2] *= np.sign(np.linalg.det(turns))[:, None]
    quaternions = Rotation.from_matrix(turns.transpose(0, 2, 1)).as_quat()
    for box, quaternion in zip(boxes, quaternions, strict=True):
        yield SegmentGeometry(
            centroid=box.centroid + origin,
            distance=float(np.linalg.norm(box.centroid)),
            center=box.middle[:3] + origin,
            extents=box.sides[:3],
            oriented_center=box.middle[3:] @ box.axes + origin,
            orientation=quaternion,
            oriented_extents=-np.sort(-box.sides[3:]),
            points=box.points,
        )
