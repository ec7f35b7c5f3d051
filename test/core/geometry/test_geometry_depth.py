"""Depth images -> meters, and the organized cloud."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fcclip_core.errors import DepthError
from fcclip_core.geometry.camera import PinholeCamera
from fcclip_core.geometry.cloud import POINT, organized_cloud
from fcclip_core.geometry.depth import depth_in_meters
from fcclip_core.geometry.segments import segment_geometry
from fcclip_core.results import PanopticResult, Segment

NAN = np.nan


def test_millimeters() -> None:
    meters = depth_in_meters(np.array([[0, 1], [1500, 65535]], np.uint16), (2, 2))
    assert meters.dtype == np.float32
    np.testing.assert_allclose(meters, [[NAN, 0.001], [1.5, 65.535]])


def test_what_is_no_distance_is_unknown() -> None:
    depth = np.array([[0.0, NAN, np.inf], [-np.inf, -1.0, 2.5]], np.float32)
    np.testing.assert_array_equal(depth_in_meters(depth, (3, 2)), np.array([[NAN, NAN, NAN], [NAN, NAN, 2.5]]))


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
@pytest.mark.parametrize("size", [(8, 6), (16, 12), (24, 18), (3, 2)])
def test_another_size_is_looked_up_at_the_nearest_pixel(size: tuple[int, int], dtype: type) -> None:
    """Each pixel gets the depth that its middle falls on; no value that was not there before."""
    depth = np.random.default_rng(3).permutation(np.arange(1, 49)).reshape(6, 8).astype(dtype)
    if size == (3, 2):
        depth = depth[:4, :6]
    width, height = size
    rows = ((np.arange(height) + 0.5) * depth.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * depth.shape[1] / width).astype(int)
    factor = 0.001 if dtype == np.uint16 else 1.0
    expected = depth[np.ix_(rows, columns)] * factor
    np.testing.assert_allclose(depth_in_meters(depth, size), expected, rtol=1e-6)


def test_rows_may_be_padded() -> None:
    padded = np.arange(24, dtype=np.float32).reshape(4, 6) + 1
    np.testing.assert_array_equal(depth_in_meters(padded[:, :4], (2, 2)), depth_in_meters(padded[:, :4].copy(), (2, 2)))


def test_another_aspect_ratio_is_refused() -> None:
    with pytest.raises(
        DepthError, match="depth has 848 x 480 pixels, but the image has 640 x 480, a different aspect ratio"
    ):
        depth_in_meters(np.ones((480, 848), np.uint16), (640, 480))


@pytest.mark.parametrize(
    "depth", [np.ones((4, 4, 1), np.uint16), np.ones((4, 4), np.float64), np.ones((0, 4), np.uint16)]
)
def test_what_is_no_depth_image_is_refused(depth: np.ndarray) -> None:
    with pytest.raises(DepthError, match="expected uint16"):
        depth_in_meters(depth, (4, 4))


def segment(number: int, class_id: int, score: float) -> Segment:
    return Segment(number, class_id, f"class {class_id}", score, True, 1, (0, 0, 1, 1), np.zeros(4, np.float32))


def test_the_cloud_has_a_point_for_every_pixel() -> None:
    dice = np.random.default_rng(5)
    # As a float, class 1 of segment 0x7f81 would be a NaN that arithmetic changes.
    segments = [segment(1, 300, 0.25), segment(0x7F81, 1, 0.875)]
    ids = dice.choice([0, 1, 0x7F81], (5, 7)).astype(np.int32)
    result = PanopticResult(ids, segments, 1, {})
    image = dice.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image[0, 0] = 255
    depth = dice.uniform(1, 4, (5, 7)).astype(np.float32)
    depth[2, 3] = NAN
    camera = PinholeCamera(7, 5, 6.0, 5.0, 3.2, 2.1)
    cloud = organized_cloud(image, depth, camera, result)
    assert (cloud.shape, cloud.dtype, cloud.dtype.itemsize) == ((5, 7), POINT, 24)
    scores = {0: 0.0, 1: 0.25, 0x7F81: 0.875}
    classes = {0: 0, 1: 300, 0x7F81: 1}
    for row, column in np.ndindex(5, 7):
        point, z = cloud[row, column], depth[row, column]
        place = [(column - 3.2) / 6.0 * z, (row - 2.1) / 5.0 * z, z]
        np.testing.assert_allclose([point["x"], point["y"], point["z"]], place, rtol=1e-5)
        red, green, blue = (int(value) for value in image[row, column])
        assert point["rgb"] == red << 16 | green << 8 | blue
        number = int(ids[row, column])
        assert (point["segment_id"], point["semantic_id"]) == (number, classes[number])
        assert point["confidence"] == np.float32(scores[number])
    assert np.isnan([cloud[2, 3][name] for name in "xyz"]).all()
    # RViz and PCL look at the color as a float; it must be a number.
    assert np.isfinite(np.ascontiguousarray(cloud["rgb"]).view(np.float32)).all()


def test_ignored_pixels_have_neither_place_nor_label_in_the_cloud() -> None:
    ids = np.ones((2, 3), np.int32)
    ignored = np.array([[True, False, False], [False, False, True]])
    result = PanopticResult(ids, [replace(segment(1, 2, 0.5), area=6, box=(0, 0, 3, 2))], 1, {})
    image, depth = np.full((2, 3, 3), 9, np.uint8), np.ones((2, 3), np.float32)
    cloud = organized_cloud(image, depth, PinholeCamera(3, 2, 1.0, 1.0, 1.0, 0.5), result.without_pixels(ignored))
    for name in "xyz":
        np.testing.assert_array_equal(np.isnan(cloud[name]), ignored)
    np.testing.assert_array_equal(cloud["semantic_id"] == 0, ignored)
    np.testing.assert_array_equal(cloud["segment_id"] == 0, ignored)
    assert (depth == 1).all(), "the depth itself stays"


def test_the_cloud_can_be_written_in_place() -> None:
    ids = np.ones((2, 3), np.int32)
    result = PanopticResult(ids, [segment(1, 2, 0.5)], 1, {})
    out = np.zeros((2, 3), POINT)
    image, depth = np.zeros((2, 3, 3), np.uint8), np.ones((2, 3), np.float32)
    assert organized_cloud(image, depth, PinholeCamera(3, 2, 1.0, 1.0, 1.0, 0.5), result, out) is out
    assert (out["z"] == 1).all() and (out["semantic_id"] == 2).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 65_500), (65_500, 1), (2, 40_000)])
def test_lines_and_single_pixels_have_depth_clouds_and_places(shape: tuple[int, int]) -> None:
    height, width = shape
    meters = depth_in_meters(np.full((-(-height // 2), -(-width // 2)), 2000, np.uint16), (width, height))
    camera = PinholeCamera(width, height, 500.0, 500.0, width / 2, height / 2)
    segment = Segment(1, 3, "cup", 0.5, True, height * width, (0, 0, width, height), np.zeros(4, np.float32))
    segment_map = np.ones(shape, np.int32)
    result = PanopticResult(segment_map, [segment], 1, {})
    points = organized_cloud(np.zeros((*shape, 3), np.uint8), meters, camera, result)
    assert points.shape == shape
    assert bool((points["z"] == 2).all())
    assert set(segment_geometry(meters, camera, result)) <= {1}
