"""Boxes and names as RViz draws them: in the camera's frame and upright, in the colors of their classes."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from broadcaster import MOUNTED
from builtin_interfaces.msg import Time
from fake_segmenter import FakeSegmenter
from rclpy.serialization import deserialize_message, serialize_message
from std_msgs.msg import Header

from fcclip_core.geometry.camera import PinholeCamera
from fcclip_core.geometry.transform import RigidTransform
from fcclip_core.results import PanopticResult, Segment
from fcclip_core.settings import InferenceSettings
from fcclip_core.vocabulary.classes import Vocabulary
from fcclip_ros.conversions.frame import FrameDepth, LabeledFrame
from fcclip_ros.conversions.markers import markers_message

HEADER = Header(stamp=Time(sec=12, nanosec=34), frame_id="camera")
CAMERA = PinholeCamera(60, 40, 50.0, 50.0, 29.5, 19.5)


def make_frame(depth: FrameDepth | None = None) -> LabeledFrame:
    """A cup 2 m before a camera, 20 x 10 pixels around its axis, a floor that is no thing, and a cup without depth."""
    segmenter = FakeSegmenter(InferenceSettings())
    segmenter.set_vocabulary(Vocabulary.from_names(["cup", "floor"], stuff=["floor"]))
    ids, meters = np.full((40, 60), 4, np.int32), np.full((40, 60), 3.0, np.float32)
    ids[15:25, 20:40], meters[15:25, 20:40] = 7, 2.0
    ids[30:38, 2:10], meters[30:38, 2:10] = 9, np.nan
    cup, floor = (row.id for row in segmenter.vocabulary.published)
    segments = [
        Segment(4, floor, "floor", 0.9, False, 2136, (0, 0, 60, 40), np.zeros(1)),
        Segment(7, cup, "cup", 0.75, True, 200, (20, 15, 40, 25), np.zeros(1)),
        Segment(9, cup, "cup", 0.5, True, 64, (2, 30, 10, 38), np.zeros(1)),
    ]
    result = PanopticResult(ids, segments, 1, {})
    depth = depth or FrameDepth(meters, CAMERA)
    image = np.zeros((40, 60, 3), np.uint8)
    return LabeledFrame(HEADER, image, result, segmenter.vocabulary, None, 0.0, replace(depth, pixels=meters))


def sent(visualization: ModuleType, frame: LabeledFrame, **options: Any) -> list[Any]:
    message = markers_message(frame, visualization, **options)
    return deserialize_message(serialize_message(message), visualization.MarkerArray).markers


def test_a_thing_has_a_box_and_a_name_and_what_was_there_is_deleted(visualization_msgs: ModuleType) -> None:
    frame, kind = make_frame(), visualization_msgs.Marker
    first, box, name = sent(visualization_msgs, frame)
    assert first.action == kind.DELETEALL
    assert [(item.ns, item.id, item.action) for item in (box, name)] == [("boxes", 7, kind.ADD), ("names", 7, kind.ADD)]
    assert all(item.header == HEADER and not item.frame_locked for item in (box, name))
    assert all(item.lifetime.sec == 5 for item in (box, name))
    assert (box.type, name.type) == (kind.CUBE, kind.TEXT_VIEW_FACING)
    assert name.text == "cup 0.75"
    at = box.pose.position
    np.testing.assert_allclose([at.x, at.y, at.z], [0.0, 0.0, 2.0], atol=0.03)
    np.testing.assert_allclose([box.scale.x, box.scale.y], [0.8, 0.4], atol=0.06)
    assert box.scale.z == pytest.approx(0.005), "flat, but RViz draws nothing that is 0 thick"
    colors = {row.id: row.color for row in frame.snapshot.published}
    color = colors[frame.result.segments[1].class_id]
    np.testing.assert_allclose([box.color.r, box.color.g, box.color.b], np.array(color) / 255, atol=1e-6)
    assert 0 < box.color.a < 1 == name.color.a


def test_in_an_optical_frame_a_name_is_above_at_smaller_y(visualization_msgs: ModuleType) -> None:
    _, _, name = sent(visualization_msgs, make_frame())
    at = name.pose.position
    np.testing.assert_allclose([at.x, at.y, at.z], [0.0, -0.3, 2.0], atol=0.04)


def test_in_the_target_frame_boxes_are_upright_and_names_above_at_larger_z(visualization_msgs: ModuleType) -> None:
    depth = FrameDepth(np.empty(0), CAMERA, "base_link", RigidTransform.from_quaternion(*MOUNTED))
    _, box, name = sent(visualization_msgs, make_frame(depth))
    for item in (box, name):
        assert (item.header.frame_id, item.header.stamp) == ("base_link", HEADER.stamp)
    at = box.pose.position
    np.testing.assert_allclose([at.x, at.y, at.z], [2.0, 0.0, 0.3], atol=0.03)
    at = name.pose.position
    np.testing.assert_allclose([at.x, at.y, at.z], [2.0, 0.0, 0.6], atol=0.04)


def test_names_have_ids_where_ids_are_stable(visualization_msgs: ModuleType) -> None:
    assert sent(visualization_msgs, make_frame(), show_ids=True)[2].text == "cup #7 0.75"


def test_a_frame_without_things_deletes_what_was_there(visualization_msgs: ModuleType) -> None:
    frame = make_frame()
    empty = replace(frame, result=replace(frame.result, segments=frame.result.segments[:1]))
    (only,) = sent(visualization_msgs, empty)
    assert only.action == visualization_msgs.Marker.DELETEALL
