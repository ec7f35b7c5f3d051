"""Polygons and run lengths of segments, held against pycocotools, scikit-image and cases worked out by hand."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from labeled_maps import labeled
from pycocotools import mask as coco_masks
from skimage.measure import points_in_poly

from fcclip_core.errors import SettingsError
from fcclip_core.results import PanopticResult
from fcclip_core.segments.contours import check_contour_type, coco_segmentations, polygons, run_lengths

MAPS = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(
    lambda shape: arrays(np.int32, shape, elements=st.sampled_from([0, 3, 3, 3, 7, 500]))
)


def drawn(*rows: str) -> PanopticResult:
    """A result whose segment 1 is where the rows have `#`."""
    return labeled(np.array([[mark == "#" for mark in row] for row in rows]).astype(np.int32))


def test_corners_lie_on_the_edges_of_pixels_and_straight_lines_have_none() -> None:
    (outline,) = polygons(drawn(".....", ".###.", ".###."))[1]
    assert {tuple(corner) for corner in outline.tolist()} == {(1, 1), (4, 1), (4, 3), (1, 3)}
    assert len(outline) == 4
    (pixel,) = polygons(drawn("..#"))[1]
    assert {tuple(corner) for corner in pixel.tolist()} == {(2, 0), (3, 0), (3, 1), (2, 1)}


def test_parts_have_a_polygon_each_and_pixels_that_touch_at_a_corner_are_one_part() -> None:
    assert len(polygons(drawn("##.#", "##.#"))[1]) == 2
    assert len(polygons(drawn("#.", ".#"))[1]) == 1


def test_a_hole_is_joined_to_its_outline_by_a_slit_without_width() -> None:
    (ring,) = polygons(drawn("###", "#.#", "###"))[1]
    corners = ring.tolist()
    assert len(corners) == 4 + 4 + 2, "both ends of the slit come twice"
    edges = [(tuple(one), tuple(other)) for one, other in zip(corners, corners[1:] + corners[:1], strict=True)]
    slit = [edge for edge in edges if edge[::-1] in edges]
    assert len(slit) == 2, "there and back"
    x, y = ring.T.astype(float)
    assert abs(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2 == 8, "the area that the ring encloses"


def test_an_island_in_a_hole_is_a_part() -> None:
    result = drawn("#####", "#...#", "#.#.#", "#...#", "#####")
    assert len(polygons(result)[1]) == 2


@settings(max_examples=150, deadline=None)
@given(MAPS)
def test_polygons_cover_the_pixels_of_their_segment_and_no_other(ids: np.ndarray) -> None:
    height, width = ids.shape
    middles = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).reshape(-1, 2) + 0.5
    found = polygons(labeled(ids))
    assert found.keys() == set(ids[ids > 0].tolist())
    for number, parts in found.items():
        flat = [corners.ravel().astype(float).tolist() for corners in parts]
        decoded = coco_masks.decode(coco_masks.merge(coco_masks.frPyObjects(flat, height, width)))
        np.testing.assert_array_equal(decoded, ids == number, "as pycocotools fills them")
        crossed = np.sum([points_in_poly(middles, corners) for corners in parts], axis=0) % 2
        np.testing.assert_array_equal(crossed.reshape(height, width), ids == number, "by the even-odd rule")


@settings(max_examples=150, deadline=None)
@given(MAPS)
def test_run_lengths_are_those_of_pycocotools(ids: np.ndarray) -> None:
    for number, counts in run_lengths(labeled(ids)).items():
        expected = coco_masks.encode(np.asfortranarray(ids == number, np.uint8))
        assert counts.encode() == expected["counts"]
        decoded = coco_masks.decode({"size": list(ids.shape), "counts": counts})
        np.testing.assert_array_equal(decoded, ids == number)


def test_json_has_cocos_own_forms() -> None:
    result = drawn("##.", "##.")
    assert coco_segmentations(result, "") == {}
    (flat,) = coco_segmentations(result, "polygons")[1]
    assert len(flat) == 8 and all(type(value) is int for value in flat)
    assert coco_segmentations(result, "rle")[1] == {"size": [2, 3], "counts": "042"}


def test_a_frame_without_segments_has_no_contours() -> None:
    nothing = labeled(np.zeros((4, 5), np.int32))
    assert polygons(nothing) == run_lengths(nothing) == {}


def test_without_pycocotools_rle_is_refused_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    check_contour_type("polygons")
    with pytest.raises(SettingsError, match="pip install pycocotools, or use polygons"):
        check_contour_type("rle")
