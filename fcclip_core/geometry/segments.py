"""Depth and labels -> where each segment is: its visible surface's centroid and extents.

What belongs to a segment's surface is decided without its mask's rim, where labels and depth are least to be trusted:
whatever lies far from the rest, along the ray or across, is trimmed by median deviation. Distances along the ray are
compared as inverse depth: there a plane's pixels are spread evenly however it is tilted, and so is the noise of stereo
cameras. Pixels of the rim that agree count again afterwards, or every segment would shrink.

Whoever knows that a camera's depth bleeds over edges can have the rim left out altogether: `eroded`.
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
from fcclip_core.results import Segment

if TYPE_CHECKING:
    from fcclip_core.segments.visualization import SegmentedImage

MIN_POINTS = 12
"""Segments with fewer points get no geometry."""

MAX_EROSION = 50
"""Rings of pixels that a segment may give up at most; they are counted in 8 bits."""

_MOST_POINTS = 1000
"""About as many of a segment's pixels are looked at, on a regular grid."""

_AXES_POINTS = 200
"""About as many of those decide which way a box is turned."""

_RIM_ROWS = 240
"""The rim is a pixel wide for so many rows of the image, begun ones too."""

_LEAST_INTERIOR = 0.3
"""Share of a segment's pixels that must remain without the rim; thin segments keep theirs."""

_BAND = 1 << 18
"""Pixels that are counted at a time, because numpy makes eight bytes of each."""

_DEVIATIONS = 3.0
"""Standard deviations from the median, as the median deviation tells them, beyond which points are trimmed."""

_DEEPEST = 0.8
"""Points this near to the median depth stay in any case, in visible widths of the segment: a box's front has no
deviation at all, and still its sides belong to it."""

_TAIL = 0.005
"""Share of the points beyond each side of a box."""


@dataclass(frozen=True)
class SegmentGeometry:
    """Where a segment's visible surface is, in the camera's optical frame; meters.

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


def segment_geometry(
    depth: np.ndarray, camera: PinholeCamera, result: SegmentedImage, erosion: int = 0
) -> dict[int, SegmentGeometry]:
    """Measures every segment that has enough depth.

    Args:
        depth: float32 `(H, W)`, meters, NaN where unknown.
        camera: Of images of this size.
        result: The labels.
        erosion: Pixels of each segment's rim that are left out; see `eroded`.

    Returns:
        Segment id to its geometry; segments with fewer than `MIN_POINTS` points are left out.
    """
    labels = result.segment_map.astype(np.uint16)
    interior = _without_rims(labels, -(-labels.shape[0] // _RIM_ROWS))
    labels = eroded(labels, depth == depth, erosion)  # NaN is unknown
    found, boxes = [], []
    for segment in result.segments:
        points = _points(segment, labels, interior, depth, camera)
        if points.shape[1] >= MIN_POINTS:
            boxes.append(_boxes(points))
            found.append(segment.id)
    return dict(zip(found, _geometries(boxes), strict=True))


def eroded(labels: np.ndarray, known: np.ndarray, pixels: int) -> np.ndarray:
    """The labels of the pixels whose depth is used: known, and not within so many pixels of another label.

    A segment gives up as many rings of pixels as leave at least 0.3 of its pixels with known depth, and
    `MIN_POINTS`, but never more than `pixels`: small and thin ones keep more, and none vanishes. The image's own border
    is no rim, and neither are pixels without depth.

    Args:
        labels: uint16 `(H, W)`, segment ids, 0 for none.
        known: bool `(H, W)`, where there is depth.
        pixels: Rings that are left out at most; 0 for none.

    Returns:
        uint16 `(H, W)`, 0 for pixels that are not used.
    """
    used = labels * known
    if not pixels:
        return used
    edges = _without_rims(labels, 1).astype(np.uint8)
    # Chessboard distance, so that ring by ring is what a square structuring element takes off; the outermost is 0.
    rings = np.minimum(cv2.distanceTransform(edges, cv2.DIST_C, 3), pixels).astype(np.uint8)
    given_up = _rings_given_up(used, rings, pixels)
    used[rings < given_up[used]] = 0
    return used


def _rings_given_up(labels: np.ndarray, rings: np.ndarray, most: int) -> np.ndarray:
    """How many rings each segment gives up, uint8 by segment id; see `eroded`."""
    counts = np.zeros((int(labels.max()) + 1) * (most + 1), np.int64)
    band = max(_BAND // labels.shape[1], 1)
    for top in range(0, labels.shape[0], band):
        cells = labels[top : top + band].astype(np.int64) * (most + 1) + rings[top : top + band]
        counts += np.bincount(cells.ravel(), minlength=len(counts))
    # Of each segment, pixels that remain without 0, 1, ... rings.
    remaining = counts.reshape(-1, most + 1)[:, ::-1].cumsum(axis=1)[:, ::-1]
    enough = remaining >= np.maximum(_LEAST_INTERIOR * remaining[:, :1], MIN_POINTS)
    return np.maximum(enough.sum(axis=1) - 1, 0).astype(np.uint8)


def _without_rims(labels: np.ndarray, pixels: int) -> np.ndarray:
    """Where no other label is within so many pixels, bool `(H, W)`; the image's own border is no rim."""
    kernel = np.ones((2 * pixels + 1, 2 * pixels + 1), np.uint8)
    return cv2.erode(labels, kernel) == cv2.dilate(labels, kernel)


def _points(
    segment: Segment, labels: np.ndarray, interior: np.ndarray, depth: np.ndarray, camera: PinholeCamera
) -> np.ndarray:
    """The points of the segment's surface, float32 `(3, N)`."""
    left, top, right, bottom = segment.box
    step = max(1, round(math.sqrt(segment.area / _MOST_POINTS)))
    window = slice(top, bottom, step), slice(left, right, step)
    pixels = np.nonzero(labels[window] == segment.id)
    if len(pixels[0]) < MIN_POINTS:
        return np.empty((3, 0), np.float32)
    inside = interior[window][pixels]
    if np.count_nonzero(inside) < max(_LEAST_INTERIOR * len(inside), MIN_POINTS):
        inside[:] = True
    z, across, down = (plane[window][pixels] for plane in (depth, *camera.rays()))
    nearness = 1 / z
    middle, spread = _middle_and_spread(nearness[inside])
    width = math.sqrt(segment.area / (camera.fx * camera.fy)) / middle
    kept = (np.abs(nearness - middle) <= spread) | (np.abs(z - 1 / middle) <= _DEEPEST * width)
    for ray in (across, down):
        middle, spread = _middle_and_spread(ray[inside & kept])
        kept &= np.abs(ray - middle) <= spread
    return np.stack([across * z, down * z, z])[:, kept]


def _middle_and_spread(values: np.ndarray) -> tuple[float, float]:
    """The median, and how far from it values may be."""
    half = len(values) // 2
    middle = np.partition(values, half)[half]
    return float(middle), _DEVIATIONS * 1.4826 * float(np.partition(np.abs(values - middle), half)[half])


@dataclass(frozen=True)
class _Boxes:
    """Points and the boxes round them: axes as rows `(3, 3)`, middles and sides along the frame's and those axes."""

    centroid: np.ndarray
    axes: np.ndarray
    middle: np.ndarray
    sides: np.ndarray
    points: int


def _boxes(points: np.ndarray) -> _Boxes:
    centroid = points.mean(axis=1, dtype=np.float64)
    few = points[:, :: max(1, points.shape[1] // _AXES_POINTS)]
    axes = _box_axes(few - centroid[:, None].astype(np.float32))
    # Both boxes in one go: first along the frame's axes, then along the points' own.
    values = np.concatenate([np.eye(3), axes]).astype(np.float32) @ points
    tail = int(points.shape[1] * _TAIL)
    values.partition([tail, points.shape[1] - 1 - tail], axis=1)
    low, high = values[:, tail].astype(np.float64), values[:, -1 - tail].astype(np.float64)
    return _Boxes(centroid, axes, (low + high) / 2, high - low, points.shape[1])


def _box_axes(points: np.ndarray) -> np.ndarray:
    """Axes of a small box round points about 0.

    One is the direction in which they vary least; the others are those of the smallest rectangle round what is seen
    along it. Principal axes alone would turn with every corner that is hidden.
    """
    _, principal = np.linalg.eigh((points @ points.T).astype(np.float64))
    flat = np.ascontiguousarray((principal[:, 1:].T.astype(np.float32) @ points).T)
    angle = math.radians(cv2.minAreaRect(flat)[2])
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return np.concatenate([turn @ principal[:, 1:].T, principal[:, :1].T])


def _geometries(boxes: Sequence[_Boxes]) -> Iterator[SegmentGeometry]:
    if not boxes:
        return
    turns = np.stack([box.axes[np.argsort(-box.sides[3:], kind="stable")] for box in boxes])
    # An axis may point either way: its largest part is made positive, lest boxes flip between frames, and the last
    # axis follows from the others.
    largest = np.take_along_axis(turns, np.abs(turns).argmax(axis=2)[..., None], axis=2)
    turns *= np.where(largest < 0, -1, 1)
    turns[:, 2] *= np.sign(np.linalg.det(turns))[:, None]
    quaternions = Rotation.from_matrix(turns.transpose(0, 2, 1)).as_quat()
    for box, quaternion in zip(boxes, quaternions, strict=True):
        yield SegmentGeometry(
            centroid=box.centroid,
            distance=float(np.linalg.norm(box.centroid)),
            center=box.middle[:3],
            extents=box.sides[:3],
            oriented_center=box.middle[3:] @ box.axes,
            orientation=quaternion,
            oriented_extents=-np.sort(-box.sides[3:]),
            points=box.points,
        )
