"""Objects and answers as messages, and requests as questions."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from geometry_msgs.msg import Point, Point32, Polygon
from memory_world import HEIGHT, INTRINSICS, WIDTH, camera_pose, row_of, segment
from std_msgs.msg import Header

from fcclip_core.errors import SettingsError
from fcclip_core.geometry.camera import PinholeCamera
from fcclip_core.memory.asking import Answer
from fcclip_core.memory.object_memory import ObjectMemory
from fcclip_core.memory.objects import RememberedObject, State
from fcclip_core.memory.observation import Observation, pose_covariance
from fcclip_ros import msg, srv
from fcclip_ros.conversions.remembered_objects import (
    answer_message,
    area_of,
    goal_pose,
    object_detections,
    object_markers,
    object_message,
    question_of,
    time_message,
)
from fcclip_ros.conversions.seen_segments import seen_segments

HEADER = Header(frame_id="map")
SECOND = 1_000_000_000
MUG = (1.0, 0.2, 0.4)


@pytest.fixture(scope="module")
def mug() -> RememberedObject:
    """A mug that was seen four times, a tenth of a second apart."""
    memory, pose = ObjectMemory(), camera_pose()
    message = msg.SegmentArray(height=HEIGHT, width=WIDTH, segments=[segment(1, "mug", np.array(MUG), pose)])
    camera = PinholeCamera(WIDTH, HEIGHT, INTRINSICS[0, 0], INTRINSICS[1, 1], INTRINSICS[0, 2], INTRINSICS[1, 2])
    for number in range(4):
        found = seen_segments(message, "map", pose, lambda frame: np.eye(4))
        stamp = 100 * SECOND + number * SECOND // 10
        memory.observe(Observation("front", stamp, pose, pose_covariance(), camera, None, found, ("mug",)))
    (item,) = memory.objects()
    return item


def test_an_object_says_what_is_known_of_it(mug: RememberedObject) -> None:
    message = object_message(mug, embedding=True)
    assert (message.name, message.names, list(message.name_looks)) == ("mug", ["mug"], [4])
    assert message.name_scores[0] == pytest.approx(4 * 0.9, rel=1e-5)
    assert (message.state, message.looks, message.camera) == (msg.RememberedObject.CONFIRMED, 4, "front")
    assert (message.first_seen.sec, message.last_seen.nanosec) == (100, 300_000_000)
    np.testing.assert_allclose(np.reshape(message.pose.covariance, (6, 6))[:3, :3], mug.covariance)
    assert not np.reshape(message.pose.covariance, (6, 6))[3:].any()
    np.testing.assert_allclose(np.frombuffer(message.embedding, "<f4"), row_of("mug"), atol=1e-3)
    assert message.embedding_type == "float32" and object_message(mug).embedding_type == ""


def test_an_answer_has_where_the_camera_and_the_base_stood(mug: RememberedObject) -> None:
    # The camera is 0.1 m ahead of the base and 0.3 m above it.
    base_from_camera = camera_pose(0.1)
    message = answer_message(Answer(mug, 0.7, 2.5), HEADER, lambda name: base_from_camera if name == "front" else None)
    assert (message.probability, message.age, message.has_approach) == (pytest.approx(0.7), 2.5, True)
    np.testing.assert_allclose(message.approach.pose.position.z, 0.3)
    goal = message.goal.pose
    np.testing.assert_allclose([goal.position.x, goal.position.y, goal.position.z], [-0.1, 0, 0], atol=1e-9)
    np.testing.assert_allclose([goal.orientation.z, goal.orientation.w], [0, 1], atol=1e-9)
    assert len(message.crop.data) == 0, "no image was given"


def test_without_a_known_base_the_goal_is_the_camera_on_the_floor(mug: RememberedObject) -> None:
    assert mug.approach is not None
    place = goal_pose(mug.approach, None).position
    np.testing.assert_allclose([place.x, place.y, place.z], 0, atol=1e-9)


def test_markers_and_detections_are_in_the_map_around_the_object(
    mug: RememberedObject, visualization_msgs: ModuleType, vision_msgs: ModuleType
) -> None:
    array = object_markers([mug], HEADER, visualization_msgs)
    clear, box, name = array.markers
    assert clear.action == visualization_msgs.Marker.DELETEALL
    assert (box.ns, name.ns, box.id, name.text) == ("boxes", "names", mug.id, f"mug #{mug.id}")
    assert name.pose.position.z > mug.high[2] and box.header.frame_id == "map"
    assert (box.lifetime.sec, box.lifetime.nanosec) == (0, 0), "it stays until the next message"
    (detection,) = object_detections([mug], HEADER, vision_msgs).detections
    hypothesis = detection.results[0]
    assert (detection.id, hypothesis.hypothesis.class_id) == (str(mug.id), "mug")
    assert hypothesis.hypothesis.score == pytest.approx(mug.existence)
    np.testing.assert_allclose([detection.bbox.size.y, detection.bbox.size.z], mug.extents[1:])


def test_a_request_becomes_a_question() -> None:
    request = srv.Recall.Request(words=["mug, cup"], called=["mug"], max_age=60.0, include_gone=True, limit=3)
    question = question_of(request)
    assert question.query.words == ("mug", "cup")
    assert (question.max_age, question.limit, question.called, question.area) == (60.0, 3, ("mug",), None)
    assert set(question.states) == {State.CONFIRMED, State.GONE}
    assert question_of(srv.Recall.Request(words=["mug"])).max_age is None, "0 is any age"


def test_an_area_is_a_polygon_or_a_circle_and_not_both() -> None:
    corners = Polygon(points=[Point32(), Point32(x=1.0), Point32(x=1.0, y=1.0)])
    inside, outside = np.array([[0.9, 0.5, 7.0]]), np.array([[0.1, 0.5, 0.0]])
    polygon = area_of(srv.Recall.Request(area=corners))
    assert polygon.contains(inside)[0] and not polygon.contains(outside)[0]
    circle = area_of(srv.Recall.Request(center=Point(x=1.0, y=0.5), radius=0.2))
    assert circle.contains(inside)[0] and not circle.contains(outside)[0]
    assert area_of(srv.Recall.Request()) is None
    with pytest.raises(SettingsError, match="area and radius are both given"):
        area_of(srv.Recall.Request(area=corners, radius=1.0))


@pytest.mark.parametrize(("nanoseconds", "seconds"), [(1_500_000_000, 1), (-1, -1), (2**62, 2**31 - 1)])
def test_times_beyond_the_message_are_its_limits(nanoseconds: int, seconds: int) -> None:
    assert time_message(nanoseconds).sec == seconds
