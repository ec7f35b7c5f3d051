"""A segment in the map: where its center is, how sure that is, and the box of what was visible.

Depth shows the side that faces the camera, so the mean of the points lies in front of the object's center. The hidden
part is estimated from what is visible: objects are about as deep as they are wide. That is a guess, so half of it
counts as uncertainty along the ray; views from other sides correct it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from fcclip_core.geometry.camera import PinholeCamera
from fcclip_core.geometry.segments import SegmentGeometry
from fcclip_core.memory.objects import unit
from fcclip_core.memory.observation import MAX_COORDINATE, Observation, SeenSegment
from fcclip_core.memory.settings import MemorySettings

_NOISE_SPREAD = 2.5
"""Standard deviations of depth by which noise extends a box of about 1000 points to either side."""

_MOST_SHRUNK = 0.35
"""Largest share of a box's side that is taken for noise at either end."""

_MAX_HIDDEN = 0.5
"""Largest estimated distance from the visible surface's mean to the center, meters."""

_IDENTITY = np.eye(3)

_SYSTEMATIC_DEPTH = 0.5
"""Share of the depth noise that does not average out over a segment: neighboring pixels err together."""


@dataclass(frozen=True)
class Measurement:
    """A segment in the map's frame.

    Attributes:
        segment: The segment.
        position: float64 `(3,)`, estimated center of the object, meters.
        noise: float64 `(3, 3)`, covariance by depth and pose.
        shape: float64 `(3, 3)`, covariance by what the view does not show.
        low: float64 `(3,)`, smallest corner of the visible surface's map-aligned box.
        high: float64 `(3,)`, largest corner.
        distance: From the camera, meters.
        direction: float64 `(3,)`, unit vector from the camera to the object.
        embedding: float32 `(D,)`, unit vector.
    """

    segment: SeenSegment
    position: np.ndarray
    noise: np.ndarray
    shape: np.ndarray
    low: np.ndarray
    high: np.ndarray
    distance: float
    direction: np.ndarray
    embedding: np.ndarray

    @property
    def covariance(self) -> np.ndarray:
        """float64 `(3, 3)` of the position."""
        return self.noise + self.shape


def measure(observation: Observation, settings: MemorySettings) -> list[Measurement]:
    """The segments of a frame that can be remembered: named well enough, near enough, and with a place."""
    usable = [
        (segment, segment.geometry)
        for segment in observation.segments
        if (segment.is_thing or settings.remember_stuff)
        and segment.score >= settings.min_score
        and segment.area >= settings.min_area
        and segment.geometry is not None
        and _is_usable(segment, segment.geometry)
    ]
    if not usable:
        return []
    axes = Rotation.from_quat([geometry.orientation for _, geometry in usable]).as_matrix()
    measured = (_measured(*pair, turn, observation, settings) for pair, turn in zip(usable, axes, strict=True))
    return [item for item in measured if item is not None]


def _measured(
    segment: SeenSegment,
    geometry: SegmentGeometry,
    axes: np.ndarray,
    observation: Observation,
    settings: MemorySettings,
) -> Measurement | None:
    """The measurement, None beyond the range; `axes` `(3, 3)` are those of the oriented box, as columns."""
    distance = math.sqrt(geometry.centroid @ geometry.centroid)
    if not 0 < distance <= settings.max_range:
        return None
    pose = observation.map_from_camera
    turn, ray = pose[:3, :3], geometry.centroid / distance
    depth_std = settings.depth_noise * float(geometry.centroid[2]) ** 2
    width = _visible_width(segment, observation.camera, float(geometry.centroid[2]))
    hidden = _hidden_depth(geometry, width, depth_std)
    position = turn @ (geometry.centroid + hidden * ray) + pose[:3, 3]
    if np.abs(position).max() > MAX_COORDINATE:
        return None
    direction = turn @ ray
    low, high = _map_box(geometry, axes, pose) if segment.bounds is None else segment.bounds + pose[:3, 3]
    shrunk = np.minimum(_NOISE_SPREAD * depth_std * np.abs(direction), _MOST_SHRUNK * (high - low))
    along = np.outer(direction, direction)
    across = _IDENTITY - along
    shape = (0.1 * width + 0.5 * hidden) ** 2 * along + (0.1 * width) ** 2 * across
    if segment.cut:
        shape = shape + np.diag((high - low) / 2) ** 2
    pixel = distance / min(observation.camera.fx, observation.camera.fy)
    noise = (_SYSTEMATIC_DEPTH * depth_std) ** 2 * along + pixel**2 * across
    return Measurement(
        segment=segment,
        position=position,
        noise=noise + _pose_share(observation.pose_covariance, position - pose[:3, 3]),
        shape=shape,
        low=low + shrunk,
        high=high - shrunk,
        distance=distance,
        direction=direction,
        embedding=unit(segment.embedding),
    )


def _is_usable(segment: SeenSegment, geometry: SegmentGeometry) -> bool:
    rows = [geometry.centroid, geometry.center, geometry.extents, geometry.oriented_center, geometry.orientation]
    rows += [geometry.oriented_extents, segment.embedding, *([] if segment.bounds is None else segment.bounds)]
    # Larger numbers overflow when they are squared; NaN is no smaller than anything.
    if not np.abs(np.concatenate(rows)).max() <= MAX_COORDINATE:
        return False
    return bool(segment.embedding.any() and geometry.orientation.any() and geometry.centroid[2] > 0)


def _visible_width(segment: SeenSegment, camera: PinholeCamera, depth: float) -> float:
    """The smaller side of the segment's box, meters: that of its pixels, less noisy than that of its points."""
    left, top, right, bottom = segment.box
    return depth * min((right - left) / camera.fx, (bottom - top) / camera.fy)


def _hidden_depth(geometry: SegmentGeometry, width: float, depth_std: float) -> float:
    """Distance along the ray from the visible surface's mean to the estimated center, meters.

    For a ball two thirds of its radius, for a box seen from the front half of its width, for one seen over its edge
    half of what is visible of it: exact if it is as deep as it is wide.
    """
    front = float(geometry.center[2] - geometry.extents[2] / 2)
    behind_front = max(float(geometry.centroid[2]) - front - _NOISE_SPREAD * depth_std, 0.0)
    return min(max(width / 2 - behind_front, 0.0), _MAX_HIDDEN)


def _map_box(geometry: SegmentGeometry, axes: np.ndarray, pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The map-aligned box of the visible surface: what is inside both of its boxes, each seen along the map's axes."""
    turn, offset = pose[:3, :3], pose[:3, 3]
    half = np.abs(turn) @ (geometry.extents / 2)
    oriented_half = np.abs(turn @ axes) @ (geometry.oriented_extents / 2)
    center, oriented_center = turn @ geometry.center + offset, turn @ geometry.oriented_center + offset
    low = np.maximum(center - half, oriented_center - oriented_half)
    high = np.minimum(center + half, oriented_center + oriented_half)
    return np.minimum(low, high), np.maximum(low, high)


def _pose_share(covariance: np.ndarray, lever: np.ndarray) -> np.ndarray:
    """What the pose's uncertainty means at the end of a lever from the camera: float64 `(3, 3)`."""
    x, y, z = lever
    jacobian = np.array([[1, 0, 0, 0, z, -y], [0, 1, 0, -z, 0, x], [0, 0, 1, y, -x, 0]])
    share: np.ndarray = jacobian @ covariance @ jacobian.T
    return share
