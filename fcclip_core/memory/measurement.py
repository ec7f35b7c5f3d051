"""Segments in the map: where their centers are, how sure that is, and the boxes of what was visible.

Depth shows the side that faces the camera, so the mean of the points lies in front of the object's center. The hidden
part is estimated from what is visible: objects are about as deep as they are wide. That is a guess, so half of it
counts as uncertainty along the ray; views from other sides correct it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from scipy.spatial.transform import Rotation

from fcclip_core.geometry.camera import PinholeCamera
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
class Measurements:
    """The segments of a frame in the map, a row each; all of a frame are computed together, as N is small.

    Attributes:
        segments: The segments, N.
        position: float64 `(N, 3)`, estimated centers of the objects, meters.
        noise: float64 `(N, 3, 3)`, covariance by depth and pose.
        shape: float64 `(N, 3, 3)`, covariance by what the view does not show.
        low: float64 `(N, 3)`, smallest corners of the visible surfaces' map-aligned boxes.
        high: float64 `(N, 3)`, largest corners.
        distance: float64 `(N,)`, from the camera, meters.
        direction: float64 `(N, 3)`, unit vectors from the camera to the objects.
        embedding: float32 `(N, D)`, unit vectors.
    """

    segments: tuple[SeenSegment, ...]
    position: np.ndarray
    noise: np.ndarray
    shape: np.ndarray
    low: np.ndarray
    high: np.ndarray
    distance: np.ndarray
    direction: np.ndarray
    embedding: np.ndarray

    def __len__(self) -> int:
        """N."""
        return len(self.segments)

    @property
    def covariance(self) -> np.ndarray:
        """float64 `(N, 3, 3)` of the positions."""
        return self.noise + self.shape

    def take(self, rows: Sequence[int]) -> Measurements:
        """Some of them, by index."""
        chosen = list(rows)
        arrays = {item.name: getattr(self, item.name)[chosen] for item in fields(self) if item.name != "segments"}
        return Measurements(tuple(self.segments[row] for row in chosen), **arrays)


def measure(observation: Observation, settings: MemorySettings) -> Measurements:
    """The segments of a frame that can be remembered: named well enough, near enough, and with a place."""
    segments = [
        segment
        for segment in observation.segments
        if (segment.is_thing or settings.remember_stuff)
        and segment.score >= settings.min_score
        and segment.area >= settings.min_area
        and segment.geometry is not None
        and (segment.bounds is None or np.abs(segment.bounds).max() <= MAX_COORDINATE)
    ]
    if not segments:
        return _NONE
    surfaces = _Surfaces.of(segments)
    usable = surfaces.usable(settings.max_range)
    if not usable.all():
        segments = [segment for segment, is_usable in zip(segments, usable, strict=True) if is_usable]
        if not segments:
            return _NONE
        surfaces = _Surfaces.of(segments)
    measured = _measured(segments, surfaces, observation, settings)
    inside = np.abs(measured.position).max(1) <= MAX_COORDINATE
    return measured if inside.all() else measured.take(np.flatnonzero(inside).tolist())


@dataclass(frozen=True)
class _Surfaces:
    """What is read of the segments, a row each; see `SegmentGeometry`."""

    centroid: np.ndarray
    center: np.ndarray
    extents: np.ndarray
    oriented_center: np.ndarray
    oriented_extents: np.ndarray
    orientation: np.ndarray
    embedding: np.ndarray

    @classmethod
    def of(cls, segments: Sequence[SeenSegment]) -> _Surfaces:
        names = [item.name for item in fields(cls) if item.name != "embedding"]
        columns = {name: np.array([getattr(item.geometry, name) for item in segments], np.float64) for name in names}
        return cls(**columns, embedding=np.array([item.embedding for item in segments]))

    def usable(self, max_range: float) -> np.ndarray:
        """Those with finite numbers, an embedding, an orientation, and a place before the camera: bool `(N,)`."""
        # Larger numbers overflow when they are squared; NaN is no smaller than anything.
        fits = np.ones(len(self.centroid), bool)
        for item in fields(self):
            fits &= np.abs(getattr(self, item.name)).max(1) <= MAX_COORDINATE
        with np.errstate(over="ignore", invalid="ignore"):
            distance = np.linalg.norm(self.centroid, axis=1)
        near = (distance > 0) & (distance <= max_range) & (self.centroid[:, 2] > 0)
        usable: np.ndarray = fits & near & self.embedding.any(1) & self.orientation.any(1)
        return usable


def _measured(
    segments: Sequence[SeenSegment], surfaces: _Surfaces, observation: Observation, settings: MemorySettings
) -> Measurements:
    pose, camera = observation.map_from_camera, observation.camera
    turn, offset = pose[:3, :3], pose[:3, 3]
    depth = surfaces.centroid[:, 2]
    distance = np.linalg.norm(surfaces.centroid, axis=1)
    ray = surfaces.centroid / distance[:, None]
    depth_std = settings.depth_noise * depth**2
    width = _visible_width(segments, camera, depth)
    hidden = _hidden_depth(surfaces, width, depth_std)
    position = (surfaces.centroid + hidden[:, None] * ray) @ turn.T + offset
    direction = ray @ turn.T
    low, high = _map_boxes(segments, surfaces, pose)
    shrunk = np.minimum(_NOISE_SPREAD * depth_std[:, None] * np.abs(direction), _MOST_SHRUNK * (high - low))
    along = direction[:, :, None] * direction[:, None]
    across = _IDENTITY - along
    shape = _squares(0.1 * width + 0.5 * hidden) * along + _squares(0.1 * width) * across
    cut = np.array([segment.cut for segment in segments])
    shape[cut] += ((high - low)[cut] / 2)[:, None] ** 2 * _IDENTITY
    noise = _squares(_SYSTEMATIC_DEPTH * depth_std) * along + _squares(distance / min(camera.fx, camera.fy)) * across
    return Measurements(
        segments=tuple(segments),
        position=position,
        noise=noise + _pose_share(observation.pose_covariance, position - offset),
        shape=shape,
        low=low + shrunk,
        high=high - shrunk,
        distance=distance,
        direction=direction,
        embedding=_units(surfaces.embedding),
    )


def _squares(values: np.ndarray) -> np.ndarray:
    """`(N,)` -> `(N, 1, 1)`, squared: factors of matrices."""
    squares: np.ndarray = values[:, None, None] ** 2
    return squares


def _units(vectors: np.ndarray) -> np.ndarray:
    units: np.ndarray = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return units


def _visible_width(segments: Sequence[SeenSegment], camera: PinholeCamera, depth: np.ndarray) -> np.ndarray:
    """The smaller sides of the segments' boxes, meters: those of pixels are less noisy than those of points."""
    left, top, right, bottom = np.array([segment.box for segment in segments], np.float64).T
    width: np.ndarray = depth * np.minimum((right - left) / camera.fx, (bottom - top) / camera.fy)
    return width


def _hidden_depth(surfaces: _Surfaces, width: np.ndarray, depth_std: np.ndarray) -> np.ndarray:
    """Distances along the rays from the visible surfaces' means to the estimated centers, meters.

    For a ball two thirds of its radius, for a box seen from the front half of its width, for one seen over its edge
    half of what is visible of it: exact if it is as deep as it is wide.
    """
    front = surfaces.center[:, 2] - surfaces.extents[:, 2] / 2
    behind_front = np.maximum(surfaces.centroid[:, 2] - front - _NOISE_SPREAD * depth_std, 0)
    return np.clip(width / 2 - behind_front, 0, _MAX_HIDDEN)


def _map_boxes(segments: Sequence[SeenSegment], surfaces: _Surfaces, pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The map-aligned boxes of the visible surfaces, from their points where these are known."""
    low, high = _estimated_boxes(surfaces, pose)
    for row, segment in enumerate(segments):
        if segment.bounds is not None:
            low[row], high[row] = segment.bounds + pose[:3, 3]
    return low, high


def _estimated_boxes(surfaces: _Surfaces, pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is inside both boxes of each surface, each seen along the map's axes."""
    turn, offset = pose[:3, :3], pose[:3, 3]
    axes = Rotation.from_quat(surfaces.orientation).as_matrix()
    half = surfaces.extents / 2 @ np.abs(turn).T
    oriented_half = (np.abs(turn @ axes) @ (surfaces.oriented_extents / 2)[:, :, None])[..., 0]
    center, oriented_center = (part @ turn.T + offset for part in (surfaces.center, surfaces.oriented_center))
    low = np.maximum(center - half, oriented_center - oriented_half)
    high = np.minimum(center + half, oriented_center + oriented_half)
    return np.minimum(low, high), np.maximum(low, high)


def _pose_share(covariance: np.ndarray, levers: np.ndarray) -> np.ndarray:
    """What the pose's uncertainty means at the ends of levers `(N, 3)` from the camera: float64 `(N, 3, 3)`."""
    x, y, z = levers.T
    jacobian = np.zeros((len(levers), 3, 6))
    jacobian[:, :, :3] = _IDENTITY
    jacobian[:, 0, 4], jacobian[:, 0, 5] = z, -y
    jacobian[:, 1, 3], jacobian[:, 1, 5] = -z, x
    jacobian[:, 2, 3], jacobian[:, 2, 4] = y, -x
    share: np.ndarray = jacobian @ covariance @ jacobian.transpose(0, 2, 1)
    return share


_NONE = Measurements(
    segments=(),
    position=np.zeros((0, 3)),
    noise=np.zeros((0, 3, 3)),
    shape=np.zeros((0, 3, 3)),
    low=np.zeros((0, 3)),
    high=np.zeros((0, 3)),
    distance=np.zeros(0),
    direction=np.zeros((0, 3)),
    embedding=np.zeros((0, 1), np.float32),
)
"""No segments."""
