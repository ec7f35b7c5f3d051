"""A node whose 3D outputs are given in another frame than the camera's, by transforms on /tf."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from broadcaster import MOUNTED, Broadcaster, transform_message
from depth_camera import DepthCamera, cloud_of, same_stamp, stamp_of, steps, valid_segments
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.action import ActionClient
from ros_harness import Peer, Process, drain, fake_node, running, set_parameters, status_of, wait_until
from sensor_msgs.msg import PointCloud2

from fcclip_core.geometry.cloud import POINT
from fcclip_ros import msg, srv
from fcclip_ros.action import WaitFor
from fcclip_ros.conversions.stamps import nanoseconds
from fcclip_ros.qos import OUTPUT

pytestmark = pytest.mark.usefixtures("tf2_ros")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, tf2_ros: ModuleType, vision_msgs: ModuleType) -> Iterator[Process]:
    """A node with a model that takes 2 ms, depth, and transforms."""
    parameters = ("-p", "use_depth:=true", "-p", "target_frame:=base_link", "-p", "transform_wait:=1.0")
    log = tmp_path_factory.mktemp("frames") / "node.log"
    with running(fake_node(0.002, *parameters), log, "reading depth from", "reading images from") as process:
        yield process


@pytest.fixture
def robot(node: Process, peer: Peer, tf2_msgs: ModuleType) -> Iterator[Broadcaster]:
    """The camera is mounted on the robot, and the node gives what it sees in the robot's frame."""
    broadcaster = Broadcaster(peer, tf2_msgs)
    broadcaster.static(transform_message("base_link", "camera", MOUNTED))
    yield broadcaster
    assert set_parameters(peer, target_frame="base_link")[0].successful


def centroid(segment: msg.Segment) -> list[float]:
    return [getattr(segment.geometry.centroid, axis) for axis in "xyz"]


def test_points_boxes_and_segments_are_in_the_robots_frame(
    robot: Broadcaster, peer: Peer, vision_msgs: ModuleType
) -> None:
    points = peer.listen(PointCloud2, "/fcclip/points", OUTPUT)
    segments = peer.listen(msg.SegmentArray, "/fcclip/segments", OUTPUT)
    detections = peer.listen(vision_msgs.Detection3DArray, "/fcclip/detections_3d", OUTPUT)
    found = DepthCamera(peer).publish_until(lambda: same_stamp(points, segments, detections), meters=steps())
    cloud_message, places, boxes = found
    assert places.header.frame_id == "camera", "of the image"
    assert cloud_message.header.frame_id == boxes.header.frame_id == "base_link"
    assert cloud_message.header.stamp == boxes.header.stamp == places.header.stamp
    cloud, hole = cloud_of(cloud_message), steps() == 0
    rows, columns = np.indices(hole.shape)
    np.testing.assert_array_equal(np.isnan(cloud["x"]), hole)
    np.testing.assert_allclose(cloud["x"][~hole], steps()[~hole], atol=1e-4)
    np.testing.assert_allclose(cloud["y"][~hole], (-(columns - 29.5) / 50 * steps())[~hole], atol=1e-4)
    np.testing.assert_allclose(cloud["z"][~hole], (0.3 - (rows - 19.5) / 50 * steps())[~hole], atol=1e-4)
    for segment, box, column, meters in zip(
        places.segments, boxes.detections, (9.5, 29.5, 49.5), (1.0, 2.0, 4.0), strict=True
    ):
        place = segment.geometry
        assert (place.valid, place.frame_id) == (True, "base_link")
        expected = [meters, -(column - 29.5) / 50 * meters, 0.3]
        np.testing.assert_allclose(centroid(segment), expected, atol=0.02 * meters)
        sides = [place.extents.x, place.extents.y, place.extents.z]
        np.testing.assert_allclose(sides, [0.0, 20 / 50 * meters, 40 / 50 * meters], atol=0.06 * meters)
        from_camera = np.linalg.norm(np.array(centroid(segment)) - [0.0, 0.0, 0.3])
        assert place.distance == pytest.approx(from_camera, rel=1e-5)
        assert box.results[0].pose.pose.position == place.centroid
        assert box.header.frame_id == "base_link"


def test_answers_say_the_frame_of_their_geometry(robot: Broadcaster, peer: Peer) -> None:
    segments = peer.listen(msg.SegmentArray, "/fcclip/segments", OUTPUT)
    client, eye = ActionClient(peer.node, WaitFor, "/fcclip/wait_for"), DepthCamera(peer)
    (_, middle, _) = eye.publish_until(lambda: valid_segments(segments), meters=steps()).segments
    request = srv.Find.Request(words=["plate"], minimum_score=0.0)
    answers = [peer.call(srv.Find, "/fcclip/find", request)]
    assert client.wait_for_server(10.0)
    sent = client.send_goal_async(WaitFor.Goal(words=["plate"], minimum_score=0.0))
    goal = wait_until(sent.result)
    result = goal.get_result_async()
    eye.publish_until(result.done, meters=steps())
    answers.append(result.result().result)
    for answer in answers:
        (plate,) = answer.found
        assert answer.header.frame_id == "camera"
        assert plate.cloud.header.frame_id == plate.segment.geometry.frame_id == "base_link"
        np.testing.assert_allclose(centroid(plate.segment), centroid(middle), atol=1e-6)
        np.testing.assert_allclose(np.frombuffer(plate.cloud.data, POINT)["x"], 2.0, atol=1e-4)


def test_a_late_transform_is_waited_for_and_interpolated(robot: Broadcaster, peer: Peer) -> None:
    """The camera moves by 2 m and turns by 90 degrees about its axis; the image is from half way between both."""
    assert set_parameters(peer, target_frame="odom")[0].successful
    points, eye = peer.listen(PointCloud2, "/fcclip/points", OUTPUT), DepthCamera(peer)

    def late() -> None:
        stamp = nanoseconds(eye.publish(meters=steps()))
        time.sleep(0.02)
        quarter = math.sqrt(0.5)
        before = transform_message("odom", "base_link", ((0, 0, 0), (0, 0, 0, 1)), stamp_of((stamp - 40_000_000) / 1e9))
        after = transform_message(
            "odom", "base_link", ((2, 0, 0), (0, 0, quarter, quarter)), stamp_of((stamp + 40_000_000) / 1e9)
        )
        robot.moving(before, after)
        time.sleep(0.05)

    def cloud() -> PointCloud2 | None:
        late()
        found = [message for _, message in drain(points) if message.header.frame_id == "odom"]
        return found[-1] if found else None

    points_now, known = cloud_of(wait_until(cloud)), steps() != 0
    rows, columns = np.indices(known.shape)
    ahead, left = steps(), -(columns - 29.5) / 50 * steps()
    np.testing.assert_allclose(points_now["x"][known], (1 + (ahead - left) * math.sqrt(0.5))[known], atol=1e-3)
    np.testing.assert_allclose(points_now["y"][known], ((ahead + left) * math.sqrt(0.5))[known], atol=1e-3)
    np.testing.assert_allclose(points_now["z"][known], (0.3 - (rows - 19.5) / 50 * steps())[known], atol=1e-3)


def test_without_a_transform_there_are_labels_and_nothing_in_3d(node: Process, robot: Broadcaster, peer: Peer) -> None:
    segments = peer.listen(msg.SegmentArray, "/fcclip/segments", OUTPUT)
    points = peer.listen(PointCloud2, "/fcclip/points", OUTPUT)
    diagnostics, eye = peer.listen(DiagnosticArray, "/diagnostics", 10), DepthCamera(peer)
    eye.publish_until(lambda: valid_segments(segments), meters=steps())
    assert set_parameters(peer, target_frame="nowhere")[0].successful
    said = "3D outputs of a frame are left out: there is no transform from 'camera' to 'nowhere': "
    eye.publish_until(lambda: said in node.output, meters=steps())
    drain(segments), drain(points)
    eye.publish_until(lambda: segments.qsize() > 3, meters=steps())
    for _, message in drain(segments):
        assert not any(item.geometry.valid or item.geometry.frame_id for item in message.segments)
        assert len(message.segments) == 3
    assert points.empty(), "in no other frame either"
    values = status_of(diagnostics, lambda status, values: "nowhere" in values.get("transform problem", ""))
    assert (values["target frame"], int(values["frames without transform"]) > 3) == ("nowhere", True)
    line = next(line for line in node.output.splitlines() if said in line)
    assert "exist" in line and "check target_frame" in line, "what tf2 says, and what to do"


def test_the_frame_may_change_at_any_time(robot: Broadcaster, peer: Peer) -> None:
    points, eye = peer.listen(PointCloud2, "/fcclip/points", OUTPUT), DepthCamera(peer)

    def arrives_in(frame: str) -> Any:
        return lambda: [message for _, message in drain(points) if message.header.frame_id == frame]

    eye.publish_until(arrives_in("base_link"), meters=steps())
    assert peer.node.count_subscribers("/tf") == 1
    assert set_parameters(peer, target_frame="")[0].successful
    cloud = eye.publish_until(arrives_in("camera"), meters=steps())[-1]
    np.testing.assert_array_equal(cloud_of(cloud)["z"][0], steps()[0].astype(np.float32))
    wait_until(lambda: peer.node.count_subscribers("/tf") == peer.node.count_subscribers("/tf_static") == 0)
    assert set_parameters(peer, target_frame="base_link")[0].successful
    eye.publish_until(arrives_in("base_link"), meters=steps())


@pytest.mark.parametrize(
    ("name", "reason"), [("/map", "tf2 allows no leading slash"), ("my map", "expected the name of a frame")]
)
def test_what_can_be_no_frame_is_refused(robot: Broadcaster, peer: Peer, name: str, reason: str) -> None:
    (result,) = set_parameters(peer, target_frame=name)
    assert not result.successful
    assert f"target_frame is {name!r}; " in result.reason and reason in result.reason
