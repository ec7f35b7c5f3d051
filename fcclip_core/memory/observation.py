"""What the memory takes in: the segments of one frame, their places, the depth image and the camera's pose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from fcclip_core.errors import ObservationError
from fcclip_core.geometry.camera import PinholeCamera
from fcclip_core.geometry.segments import SegmentGeometry, bounds_along, geometry_of, segment_points
from fcclip_core.results import PanopticResult

MAX_COORDINATE = 1e6
"""Largest coordinate in the map, meters: beyond it float32 copies and grid cells lose their meaning."""

MAX_DIMENSION = 4096
"""Largest dimension of an embedding."""

_BORDER = 2
"""Pixels from the image border within which a segment counts as cut by it."""


@dataclass(frozen=True)
class SeenSegment:
    """One segment of a frame, as the memory needs it.

    Attributes:
        id: The segment's id in its frame, from 1.
        class_id: The class's stable id; 0 for none.
        name: The class's name; may be empty.
        is_thing: True for a countable object, False for stuff.
        score: Probability of the class, 0..1.
        embedding: float32 `(D,)`, unit vector in CLIP's joint space.
        area: Pixels.
        box: `(x_min, y_min, x_max, y_max)` in pixels; the maxima are exclusive.
        geometry: Visible surface in the camera's optical frame; None where depth did not suffice.
        cut: Whether the image border cuts it.
        bounds: float64 `(2, 3)`, smallest and largest coordinates of its points in the camera's frame turned to the
            map's axes (the map's, less the camera's position); None to estimate them from the boxes in `geometry`, up
            to 1.5 times too large where these are seen at an angle.
    """

    id: int
    class_id: int
    name: str
    is_thing: bool
    score: float
    embedding: np.ndarray = field(repr=False, compare=False)
    area: int
    box: tuple[int, int, int, int]
    geometry: SegmentGeometry | None = field(repr=False, compare=False)
    cut: bool = False
    bounds: np.ndarray | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Observation:
    """One frame of one camera.

    Attributes:
        camera_name: Which camera saw it; may be empty if there is only one.
        stamp: Time of the image, nanoseconds; need not grow from one observation to the next.
        map_from_camera: float64 `(4, 4)`, from the optical frame (x right, y down, z forward) to the map (z up).
        pose_covariance: float64 `(6, 6)` of that pose: translation in meters, then rotation about the map's axes in
            radians, as in geometry_msgs/PoseWithCovariance.
        camera: Intrinsics for images of the depth image's size.
        depth: float32 `(H, W)`, meters along the optical axis, NaN where unknown, of the same view as the labels; for
            what is *not* there. None: no absence is noticed.
        segments: The frame's segments, ids all different.
        words: Names of the classes that could have been found, for the share of looks in which an object was called by
            one of them; empty if unknown.
        image: uint8 RGB `(H, W, 3)` for pictures of objects; None for none.
    """

    camera_name: str
    stamp: int
    map_from_camera: np.ndarray = field(repr=False)
    pose_covariance: np.ndarray = field(repr=False)
    camera: PinholeCamera
    depth: np.ndarray | None = field(repr=False)
    segments: Sequence[SeenSegment] = field(repr=False)
    words: tuple[str, ...] = field(default=(), repr=False)
    image: np.ndarray | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Checks shapes and numbers.

        Raises:
            ObservationError: Naming what is wrong.
        """
        _require_pose(self.map_from_camera)
        covariance = np.asarray(self.pose_covariance)
        if covariance.shape != (6, 6) or not np.isfinite(covariance).all() or (np.diag(covariance) < 0).any():
            raise ObservationError(
                "the pose's covariance is not a 6 x 6 matrix of finite numbers with a diagonal of 0 or more; set it "
                "with pose_covariance(translation_std, rotation_std)"
            )
        size = (self.camera.height, self.camera.width)
        for what, pixels in (("depth", self.depth), ("image", self.image)):
            if pixels is not None and pixels.shape[:2] != size:
                raise ObservationError(
                    f"the {what} image has {pixels.shape[1]} x {pixels.shape[0]} pixels, the camera {size[1]} x "
                    f"{size[0]}; use PinholeCamera.resized, or register depth to the image"
                )
        if self.depth is not None and self.depth.dtype != np.float32:
            raise ObservationError(f"depth has the type {self.depth.dtype}; expected float32 in meters")
        if not -(2**63) <= self.stamp < 2**63:
            raise ObservationError("the stamp does not fit 64 bits; expected nanoseconds")
        _require_embeddings(self.segments)


def pose_covariance(translation_std: float = 0.02, rotation_std: float = 0.01) -> np.ndarray:
    """Covariance `(6, 6)` of a pose whose errors are the same in all directions.

    Args:
        translation_std: Standard deviation in meters.
        rotation_std: Standard deviation in radians.
    """
    return np.diag([translation_std**2] * 3 + [rotation_std**2] * 3).astype(np.float64)


def observation_of(
    result: PanopticResult,
    depth: np.ndarray,
    camera: PinholeCamera,
    map_from_camera: np.ndarray,
    *,
    stamp: int,
    camera_name: str = "",
    covariance: np.ndarray | None = None,
    words: Sequence[str] = (),
    image: np.ndarray | None = None,
    erosion: int = 0,
) -> Observation:
    """Makes an observation of a labeled frame.

    Args:
        result: The labels.
        depth: float32 `(H, W)`, meters, NaN where unknown, of the labels' size.
        camera: The camera, for images of this size.
        map_from_camera: float64 `(4, 4)`, from the optical frame to the map.
        stamp: Nanoseconds.
        camera_name: Which camera it is.
        covariance: Of the pose; None: that of `pose_covariance()`.
        words: Names of the classes of the result's vocabulary.
        image: The image, for pictures of objects.
        erosion: As for `segment_geometry`.

    Raises:
        ObservationError: See `Observation`.
    """
    pose = np.asarray(map_from_camera, np.float64)
    points = segment_points(depth, camera, result, erosion)
    geometry = geometry_of(points)
    bounds = {number: np.stack(bounds_along(pose[:3, :3], part)) for number, part in points.items()}
    segments = [
        SeenSegment(
            id=item.id,
            class_id=item.class_id,
            name=item.name,
            is_thing=item.is_thing,
            score=item.score,
            embedding=item.embedding,
            area=item.area,
            box=item.box,
            geometry=geometry.get(item.id),
            cut=is_cut(item.box, camera.width, camera.height),
            bounds=bounds.get(item.id),
        )
        for item in result.segments
    ]
    return Observation(
        camera_name=camera_name,
        stamp=stamp,
        map_from_camera=pose,
        pose_covariance=pose_covariance() if covariance is None else covariance,
        camera=camera,
        depth=depth,
        segments=segments,
        words=tuple(words),
        image=image,
    )


def is_cut(box: tuple[int, int, int, int], width: int, height: int) -> bool:
    """Whether a box in an image of this size reaches the image's border."""
    left, top, right, bottom = box
    return left < _BORDER or top < _BORDER or right > width - _BORDER or bottom > height - _BORDER


def _require_pose(pose: np.ndarray) -> None:
    pose = np.asarray(pose)
    if pose.shape != (4, 4) or not np.isfinite(pose).all():
        raise ObservationError("the camera's pose is not a 4 x 4 matrix of finite numbers")
    turn = pose[:3, :3]
    rigid = np.allclose(turn @ turn.T, np.eye(3), atol=1e-3) and np.linalg.det(turn) > 0
    if not rigid or not np.allclose(pose[3], (0, 0, 0, 1)):
        raise ObservationError("the camera's pose is not a rotation and a translation; normalize its quaternion")
    if np.abs(pose[:3, 3]).max() > MAX_COORDINATE:
        raise ObservationError(f"the camera's position is beyond {MAX_COORDINATE:g} m; check the map's frame and unit")


def _require_embeddings(segments: Sequence[SeenSegment]) -> None:
    for segment in segments:
        shape = segment.embedding.shape
        if len(shape) != 1 or not 1 <= shape[0] <= MAX_DIMENSION:
            raise ObservationError(
                f"segment {segment.id} has an embedding of shape {shape}; expected one row of at most {MAX_DIMENSION} "
                "numbers: let the node publish embeddings (publish_embeddings)"
            )
