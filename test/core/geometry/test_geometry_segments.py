"""Where segments are: planes and boxes of known places, bad masks, bad depth, and a recorded drive's truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from labeled_maps import labeled
from scipy.spatial.transform import Rotation

from fcclip_core.datasets.drive_recording import Recording
from fcclip_core.files.resources import config_path
from fcclip_core.geometry.camera import PinholeCamera
from fcclip_core.geometry.depth import depth_in_meters
from fcclip_core.geometry.segments import MIN_POINTS, SegmentGeometry, eroded, segment_geometry

CAMERA = PinholeCamera(320, 240, 280.0, 280.0, 159.5, 119.5)
WALL = 4.0


def plate(
    middle: tuple[float, float, float], turn: Rotation, width: float, height: float
) -> tuple[np.ndarray, np.ndarray]:
    """Depth and mask of a rectangle before a wall; `turn` takes the frame's x, y, z to its width, height, normal."""
    rays = np.stack([*CAMERA.rays(), np.ones((240, 320))], axis=-1)
    across, down, normal = turn.as_matrix().T
    z = (np.array(middle) @ normal) / (rays @ normal)
    off = rays * z[..., None] - np.array(middle)
    mask = (np.abs(off @ across) <= width / 2) & (np.abs(off @ down) <= height / 2) & (z > 0)
    return np.where(mask, z, WALL).astype(np.float32), mask


def measure(depth: np.ndarray, mask: np.ndarray) -> SegmentGeometry:
    return segment_geometry(depth, CAMERA, labeled(mask.astype(np.int32)))[1]


def test_a_plate_that_faces_the_camera() -> None:
    depth, mask = plate((0.3, -0.2, 2.0), Rotation.identity(), 0.5, 0.25)
    found = measure(depth, mask)
    np.testing.assert_allclose(found.centroid, [0.3, -0.2, 2.0], atol=0.004)
    np.testing.assert_allclose(found.center, [0.3, -0.2, 2.0], atol=0.004)
    np.testing.assert_allclose(found.extents, [0.5, 0.25, 0.0], atol=0.015)
    np.testing.assert_allclose(found.oriented_extents, [0.5, 0.25, 0.0], atol=0.015)
    np.testing.assert_allclose(found.oriented_center, [0.3, -0.2, 2.0], atol=0.01)
    assert found.distance == pytest.approx(math.hypot(0.3, 0.2, 2.0), abs=0.005)
    assert MIN_POINTS < found.points <= np.count_nonzero(mask)


@pytest.mark.parametrize("degrees", [(0, 0, 30), (0, 40, 0), (50, 0, 0), (25, -35, 60), (0, 0, 90)])
def test_a_turned_plate_has_its_own_box(degrees: tuple[float, float, float]) -> None:
    turn = Rotation.from_euler("xyz", degrees, degrees=True)
    depth, mask = plate((-0.1, 0.15, 1.8), turn, 0.6, 0.3)
    found = measure(depth, mask)
    np.testing.assert_allclose(found.oriented_extents, [0.6, 0.3, 0.0], atol=0.03)
    np.testing.assert_allclose(found.oriented_center, [-0.1, 0.15, 1.8], atol=0.015)
    axes = Rotation.from_quat(found.orientation).as_matrix().T
    along = np.abs(np.sum(axes * turn.as_matrix().T, axis=1))
    np.testing.assert_allclose(along, 1.0, atol=0.01, err_msg="width, height and normal")
    corners = [turn.apply([x * 0.3, y * 0.15, 0.0]) for x in (-1, 1) for y in (-1, 1)]
    np.testing.assert_allclose(found.extents, np.ptp(corners, axis=0), atol=0.07)  # corners are tails


def test_the_sides_of_a_box_belong_to_it() -> None:
    """Most pixels are on the front, which has no deviation; the side goes back by 0.4 m all the same."""
    depth = np.full((240, 320), WALL, np.float32)
    ids = np.zeros((240, 320), np.int32)
    depth[80:160, 100:200], ids[80:160, 100:240] = 1.5, 1
    depth[80:160, 200:240] = np.linspace(1.5, 1.9, 40)
    found = segment_geometry(depth, CAMERA, labeled(ids))[1]
    assert found.extents[2] == pytest.approx(0.4, abs=0.03)


def naive_mean(depth: np.ndarray, mask: np.ndarray) -> np.ndarray:
    across, down = CAMERA.rays()
    return np.array([(plane * depth)[mask].mean() for plane in (across, down, np.ones_like(depth))])


@pytest.mark.parametrize("outliers", ["mask on the wall", "island", "flying pixels", "speckles"])
def test_outliers_do_not_move_a_segment(outliers: str) -> None:
    middle = (0.1, 0.05, 2.0)
    depth, mask = plate(middle, Rotation.identity(), 0.5, 0.4)
    dice = np.random.default_rng(2)
    if outliers == "mask on the wall":
        mask = mask | np.roll(mask, 8, axis=1)
    elif outliers == "island":
        mask[10:30, 10:40] = True
        depth[10:30, 10:40] = 2.1
    elif outliers == "flying pixels":
        rim = mask ^ (np.roll(mask, 2, 0) & np.roll(mask, -2, 0) & np.roll(mask, 2, 1) & np.roll(mask, -2, 1))
        depth[rim & mask] = dice.uniform(2.0, WALL, np.count_nonzero(rim & mask))
    else:
        hit = mask & (dice.random(mask.shape) < 0.2)
        depth[hit] = dice.uniform(0.3, 9.0, np.count_nonzero(hit))
    assert np.linalg.norm(naive_mean(depth, mask) - middle) > 0.05, "these are no outliers"
    found = measure(depth, mask)
    np.testing.assert_allclose(found.centroid, middle, atol=0.02)
    np.testing.assert_allclose(found.extents[:2], [0.5, 0.4], rtol=0.12)


def test_thin_segments_keep_their_rim() -> None:
    depth = np.full((240, 320), 2.0, np.float32)
    ids = np.zeros((240, 320), np.int32)
    ids[100, 50:150] = 1
    found = segment_geometry(depth, CAMERA, labeled(ids))[1]
    assert found.points >= 95
    assert found.extents[0] == pytest.approx(99 / 280 * 2, rel=0.03)


def test_erosion_takes_off_ring_by_ring_what_a_square_would() -> None:
    ids = np.zeros((60, 80), np.uint16)
    ids[10:50, 20:60], ids[0:10, 20:60] = 5, 9
    known = np.ones(ids.shape, bool)
    for pixels in (1, 2, 4):
        found = eroded(ids, known, pixels)
        expected = np.zeros_like(ids)
        expected[10 + pixels : 50 - pixels, 20 + pixels : 60 - pixels] = 5
        # The image's border above is no rim.
        expected[0 : 10 - pixels, 20 + pixels : 60 - pixels] = 9
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(eroded(ids, known, 0), ids)


def test_erosion_leaves_small_and_thin_segments_what_they_need() -> None:
    ids = np.zeros((60, 80), np.uint16)
    ids[5, 5:75] = 1  # one ring is all that it has
    ids[20:26, 10:16] = 2  # 36 pixels, 16 without the first ring, 4 without the second
    ids[40:43, 10:14] = 3  # MIN_POINTS in all
    ids[30:55, 40:65] = 4
    found = eroded(ids, np.ones(ids.shape, bool), 10)
    counts = np.bincount(found.ravel(), minlength=5)
    # 625 pixels: 225 remain without five rings, 169 (27 %) without six.
    assert counts[1:].tolist() == [70, 16, 12, 225]


def test_erosion_counts_pixels_with_depth_alone() -> None:
    ids = np.zeros((40, 40), np.uint16)
    ids[10:30, 10:30] = 1
    known = np.zeros(ids.shape, bool)
    known[10:30, 10:12] = True  # depth on two columns of the rim, none inside
    found = eroded(ids, known, 5)
    assert np.count_nonzero(found) == 18, "the second column without its ends"
    assert not found[~known].any()


def test_erosion_keeps_depth_that_ran_over_an_edge_out_of_the_extents() -> None:
    """A plate whose rim has depth between its own and the wall's, near enough to pass for its side."""
    depth, mask = plate((0.0, 0.0, 2.0), Rotation.identity(), 0.5, 0.4)
    rim = mask.copy()
    rim[3:-3, 3:-3] &= ~np.all(
        [np.roll(mask, shift, (0, 1)) for shift in ((3, 3), (3, -3), (-3, 3), (-3, -3))], axis=0
    )[3:-3, 3:-3]
    depth[rim] = 2.3
    result = labeled(mask.astype(np.int32))
    as_it_is, without_rim = (segment_geometry(depth, CAMERA, result, pixels)[1] for pixels in (0, 3))
    assert as_it_is.extents[2] == pytest.approx(0.3, abs=0.01)
    assert without_rim.extents[2] == pytest.approx(0.0, abs=0.01)
    assert without_rim.centroid[2] == pytest.approx(2.0, abs=0.001)


def test_without_enough_depth_there_is_no_place() -> None:
    depth, mask = plate((0, 0, 2.0), Rotation.identity(), 0.5, 0.4)
    rows, columns = np.nonzero(mask)
    depth[rows[: -MIN_POINTS + 1], columns[: -MIN_POINTS + 1]] = np.nan
    assert segment_geometry(depth, CAMERA, labeled(mask.astype(np.int32))) == {}
    assert segment_geometry(depth, CAMERA, labeled(np.zeros((240, 320), np.int32))) == {}


def test_unknown_depth_is_left_out() -> None:
    depth, mask = plate((0.2, 0.0, 2.0), Rotation.identity(), 0.5, 0.4)
    depth[np.random.default_rng(4).random(depth.shape) < 0.7] = np.nan
    np.testing.assert_allclose(measure(depth, mask).centroid, [0.2, 0.0, 2.0], atol=0.01)


def test_segments_do_not_mix_and_large_ones_are_sampled() -> None:
    ids = np.ones((240, 320), np.int32)
    ids[:, 160:] = 7
    depth = np.where(ids == 1, 1.0, 3.0).astype(np.float32)
    found = segment_geometry(depth, CAMERA, labeled(ids))
    assert set(found) == {1, 7}
    assert [round(found[number].centroid[2], 6) for number in (1, 7)] == [1.0, 3.0]
    assert found[1].centroid[0] < 0 < found[7].centroid[0]
    assert found[7].points < 5000
    np.testing.assert_allclose(found[1].extents[:2], [160 / 280, 240 / 280], rtol=0.05)


def test_the_recorded_drive() -> None:
    """Masks that are off by a pixel and a half to each side, against the whole visible surface that the truth shows."""
    recording = Recording(config_path().parent / "demo" / "drive")
    errors, sizes = [], []
    for index in range(0, len(recording), 6):
        frame = recording[index]
        height, width = frame.segment_map.shape
        matrix = frame.intrinsics
        camera = PinholeCamera(width, height, matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2])
        depth = depth_in_meters(frame.depth, (width, height))
        shifted = np.roll(frame.segment_map, (1, -1), axis=(0, 1))
        found = segment_geometry(depth, camera, labeled(shifted))
        across, down = camera.rays()
        for segment in frame.segments:
            mask = frame.segment_map == segment.id
            if not segment.is_thing or np.count_nonzero(mask) < 100:
                continue
            truth = np.stack([across[mask], down[mask], np.ones(np.count_nonzero(mask))]) * depth[mask]
            place = found[segment.id]
            errors.append(np.linalg.norm(place.centroid - truth.mean(axis=1)))
            sizes.append(np.abs(place.extents / np.ptp(truth, axis=1) - 1))
    assert len(errors) > 15
    assert np.median(errors) < 0.02
    assert np.percentile(errors, 90) < 0.05
    assert np.median(sizes) < 0.2
