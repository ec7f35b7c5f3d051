"""Segments as the perception node publishes them -> what the memory takes in, whatever frame their geometry is in."""

from __future__ import annotations

import numpy as np
import pytest
from memory_world import SIDE, camera_pose, row_of, segment

from fcclip_core.errors import ObservationError
from fcclip_ros import msg
from fcclip_ros.conversions.seen_segments import seen_segments

PLACE = np.array([1.0, 0.2, 0.4])
POSE = camera_pose(-0.5, 0.1)


def refuse(frame: str) -> np.ndarray:
    raise AssertionError(f"{frame} need not be looked up")


def frame_of(*segments: msg.Segment) -> msg.SegmentArray:
    message = msg.SegmentArray(height=48, width=64, segments=list(segments))
    message.header.frame_id = "camera"
    return message


def test_geometry_in_the_cameras_frame_is_taken_as_it_is() -> None:
    (found,) = seen_segments(frame_of(segment(3, "mug", PLACE, POSE)), "map", POSE, refuse)
    assert (found.id, found.name, found.is_thing, found.bounds) == (3, "mug", True, None)
    np.testing.assert_allclose(found.embedding, row_of("mug"), atol=1e-3)
    np.testing.assert_allclose(found.geometry.centroid, np.linalg.inv(POSE)[:3] @ [*PLACE, 1.0], atol=1e-6)


def test_geometry_in_the_map_becomes_the_same_and_keeps_the_maps_box() -> None:
    camera = segment(1, "mug", PLACE, POSE)
    mapped = segment(1, "mug", PLACE, POSE, frame="map")
    (one,) = seen_segments(frame_of(camera), "map", POSE, refuse)
    (other,) = seen_segments(frame_of(mapped), "map", POSE, lambda frame: np.linalg.inv(POSE))
    for name in ("centroid", "center", "extents", "oriented_center", "oriented_extents"):
        np.testing.assert_allclose(getattr(other.geometry, name), getattr(one.geometry, name), atol=1e-6)
    assert abs(other.geometry.orientation @ one.geometry.orientation) == pytest.approx(1.0)
    low, high = other.bounds + POSE[:3, 3]
    np.testing.assert_allclose((low + high) / 2, PLACE, atol=1e-9)
    np.testing.assert_allclose(high - low, [0.01, SIDE, SIDE], atol=1e-9)


def test_segments_without_embedding_or_place_are_left_out_or_have_none() -> None:
    placeless = segment(2, "mug", PLACE, POSE)
    placeless.geometry = msg.SegmentGeometry()
    without = segment(1, "mug", PLACE, POSE, embedding=False)
    (found,) = seen_segments(frame_of(without, placeless), "map", POSE, refuse)
    assert (found.id, found.geometry) == (2, None)


@pytest.mark.parametrize(("kind", "data"), [("float64", b"\0" * 16), ("float16", b"\0" * 3)])
def test_an_embedding_of_another_type_or_size_is_refused(kind: str, data: bytes) -> None:
    broken = segment(4, "mug", PLACE, POSE)
    broken.embedding_type, broken.embedding = kind, list(data)
    with pytest.raises(ObservationError, match=f"segment 4 has {len(data)} bytes of an embedding of the type '{kind}'"):
        seen_segments(frame_of(broken), "map", POSE, refuse)
