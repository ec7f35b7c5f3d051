"""Points, boxes and clouds in another frame: hand-computed mountings, scipy's rotations, and coordinates of a map."""

from __future__ import annotations

import math

import numpy as np
import pytest
from labeled_maps import labeled
from scipy.spatial.transform import Rotation

from fcclip_core.errors import DepthError
from fcclip_core.geometry.camera import PinholeCamera
from fcclip_core.geometry.cloud import organized_cloud
from fcclip_core.geometry.segments import SegmentGeometry, segment_geometry
from fcclip_core.geometry.transform import RigidTransform

CAMERA = PinholeCamera(320, 240, 280.0, 280.0, 159.5, 119.5)
LOOKING_AHEAD = (-0.5, 0.5, -0.5, 0.5)
"""An optical frame in a robot's: z is ahead (x), x is right (-y), y is down (-z)."""
MOUNTED = RigidTransform.from_quaternion((0.0, 0.0, 0.3), LOOKING_AHEAD)


def seen(middle: tuple[float, float, float], pitch: float, transform: RigidTransform | None) -> SegmentGeometry:
    """An upright plate of 0.4 m x 0.2 m, ahead of a camera that looks down by `pitch` degrees."""
    upright = Rotation.from_euler("x", pitch, degrees=True)
    rays = np.stack([*CAMERA.rays(), np.ones((240, 320))], axis=-1)
    across, down, normal = upright.as_matrix().T
    z = (np.array(middle) @ normal) / (rays @ normal)
    off = rays * z[..., None] - np.array(middle)
    mask = (np.abs(off @ across) <= 0.2) & (np.abs(off @ down) <= 0.1) & (z > 0)
    depth = np.where(mask, z, 9.0).astype(np.float32)
    return segment_geometry(depth, CAMERA, labeled(mask.astype(np.int32)), transform=transform)[1]


@pytest.mark.parametrize(
    ("translation", "quaternion", "point", "expected"),
    [
        ((0.0, 0.0, 0.3), LOOKING_AHEAD, (0.1, 0.2, 2.0), (2.0, -0.1, 0.1)),
        ((1.0, 2.0, 0.0), (0.0, 0.0, math.sqrt(0.5), math.sqrt(0.5)), (3.0, 0.5, 7.0), (0.5, 5.0, 7.0)),  # 90 degrees
        ((1.0, 2.0, 3.0), (0.0, 0.0, 0.0, 2.0), (4.0, 5.0, 6.0), (5.0, 7.0, 9.0)),  # not normalized
    ],
)
def test_a_point_by_hand(translation: tuple, quaternion: tuple, point: tuple, expected: tuple) -> None:
    transform = RigidTransform.from_quaternion(translation, quaternion)
    np.testing.assert_allclose(transform.apply(np.array(point)), expected, atol=1e-12)


def test_points_of_an_image_keep_shape_and_type() -> None:
    turn, points = Rotation.random(random_state=5), np.random.default_rng(1).normal(size=(3, 4, 6)).astype(np.float32)
    moved = RigidTransform.from_quaternion((1, -2, 3), turn.as_quat()).apply(points)
    assert moved.dtype == np.float32
    expected = turn.apply(points.reshape(3, -1).T) + [1, -2, 3]
    np.testing.assert_allclose(moved, expected.T.reshape(3, 4, 6), atol=1e-6)


@pytest.mark.parametrize("quaternion", [(0.0, 0.0, 0.0, 0.0), (math.nan, 0.0, 0.0, 1.0)])
def test_what_is_no_rotation_is_refused(quaternion: tuple) -> None:
    with pytest.raises(DepthError, match="expected finite numbers and a unit quaternion"):
        RigidTransform.from_quaternion((0, 0, 0), quaternion)


def test_a_segment_in_the_robots_frame() -> None:
    found, own = seen((0.1, 0.2, 2.0), 0.0, MOUNTED), seen((0.1, 0.2, 2.0), 0.0, None)
    np.testing.assert_allclose(found.centroid, [2.0, -0.1, 0.1], atol=0.004)
    np.testing.assert_allclose(found.center, [2.0, -0.1, 0.1], atol=0.004)
    np.testing.assert_allclose(found.extents, [0.0, 0.4, 0.2], atol=0.015)
    np.testing.assert_allclose(found.oriented_extents, [0.4, 0.2, 0.0], atol=0.015)
    np.testing.assert_allclose(found.oriented_center, [2.0, -0.1, 0.1], atol=0.01)
    longest = Rotation.from_quat(found.orientation).apply([1.0, 0.0, 0.0])
    np.testing.assert_allclose(np.abs(longest), [0.0, 1.0, 0.0], atol=0.02)
    assert found.distance == pytest.approx(own.distance, abs=1e-6), "from the camera, not from the robot's origin"
    assert found.points == own.points


def test_an_axis_aligned_box_stands_upright_although_the_camera_looks_down() -> None:
    """In the camera's frame the plate leans and its box is 0.1 m deep; along gravity it is flat."""
    pitch, middle = 30.0, (0.0, 0.0, 1.5)
    down = Rotation.from_euler("y", pitch, degrees=True) * Rotation.from_quat(LOOKING_AHEAD)
    in_map = seen(middle, pitch, RigidTransform(down.as_matrix(), np.array([0.0, 0.0, 1.0])))
    assert seen(middle, pitch, None).extents[2] == pytest.approx(0.2 * math.sin(math.radians(30)), abs=0.01)
    np.testing.assert_allclose(in_map.extents, [0.0, 0.4, 0.2], atol=0.015)
    ahead, below = 1.5 * math.cos(math.radians(30)), 1.5 * math.sin(math.radians(30))
    np.testing.assert_allclose(in_map.center, [ahead, 0.0, 1.0 - below], atol=0.005)


def test_a_box_is_as_exact_at_the_coordinates_of_utm() -> None:
    """float32 has steps of 0.5 m there."""
    origin = np.array([500_000.0, 5_800_000.0, 30.0])
    near = seen((0.1, 0.2, 2.0), 20.0, MOUNTED)
    far = seen((0.1, 0.2, 2.0), 20.0, RigidTransform(MOUNTED.rotation, MOUNTED.translation + origin))
    for name in ("centroid", "center", "oriented_center"):
        np.testing.assert_allclose(getattr(far, name) - origin, getattr(near, name), atol=1e-6, err_msg=name)
    np.testing.assert_array_equal(far.extents, near.extents)
    assert far.distance == near.distance


def test_a_cloud_is_transformed_and_stays_organized() -> None:
    rng = np.random.default_rng(2)
    depth = rng.uniform(1, 5, (240, 320)).astype(np.float32)
    depth[10:20, 30:40] = np.nan
    image = rng.integers(0, 256, (240, 320, 3), np.uint8)
    result = labeled(np.ones((240, 320), np.int32))
    own = organized_cloud(image, depth, CAMERA, result)
    moved = organized_cloud(image, depth, CAMERA, result, transform=MOUNTED)
    assert moved.shape == own.shape
    np.testing.assert_allclose(moved["x"], own["z"], atol=1e-5)
    np.testing.assert_allclose(moved["y"], -own["x"], atol=1e-5)
    np.testing.assert_allclose(moved["z"], 0.3 - own["y"], atol=1e-5)
    assert all(np.isnan(moved[axis][10:20, 30:40]).all() for axis in "xyz")
    for field in ("rgb", "segment_id", "semantic_id", "confidence"):
        np.testing.assert_array_equal(moved[field], own[field])
