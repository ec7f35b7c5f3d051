"""The memory node with transforms on /tf, two cameras, keyframes, and a map that jumps."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from broadcaster import MOUNTED, Broadcaster, transform_message
from diagnostic_msgs.msg import DiagnosticArray
from memory_world import Robot, camera_pose, path_message, serve_words, stamp_of
from ros_harness import Peer, Process, drain, running, wait_until
from test_object_memory_node import MUG, NODE, forget_all, listed, recall

from fcclip_ros.qos import LATCHED

pytestmark = pytest.mark.usefixtures("tf2_ros")

COMMAND = ("-m", "fcclip_ros.object_memory", "--ros-args", "-p", "publish_rate:=20.0", "-p", "path_topic:=/keyframes")
PARAMETERS = ("-p", "cameras:=[front, left]", "-p", "pose_wait:=0.5", "-p", "crop_side:=0")
STILL = (0, 0, 0, 1)
STARTS = itertools.count(1_000.0, 100.0)
"""Each test is later than those before."""


@pytest.fixture(scope="module")
def node(
    tmp_path_factory: pytest.TempPathFactory,
    tf2_ros: ModuleType,
    nav_msgs: ModuleType,
    vision_msgs: ModuleType,
    visualization_msgs: ModuleType,
) -> Iterator[Process]:
    log = tmp_path_factory.mktemp("memory") / "node.log"
    with running(
        (*COMMAND, *PARAMETERS), log, "reading keyframes from", "reading segments from /fcclip/left"
    ) as process:
        yield process


class Drive:
    """A robot with two cameras that look ahead, 0.3 m above its base, and its transforms."""

    def __init__(self, peer: Peer, tf2_msgs: ModuleType, start: float) -> None:
        self._broadcaster = Broadcaster(peer, tf2_msgs)
        self._broadcaster.static(transform_message("base_link", "camera", MOUNTED))
        self.cameras = {name: Robot(peer, name, start) for name in ("front", "left")}
        self.seconds = start
        self.map_from_odom = (0.0, 0.0, 0.0)

    def see(self, x: float = 0.0, things: dict[str, Any] | None = None, *, late: float = 0.0) -> float:
        """One frame of each camera from a place in odom; things are at places of the map."""
        self.seconds += 0.1
        pose = camera_pose(x + self.map_from_odom[0], self.map_from_odom[1])
        for robot in self.cameras.values():
            robot.see(things or {"mug": MUG}, pose=pose, stamp=self.seconds, publish_pose=False)
        time.sleep(late)
        stamp = stamp_of(self.seconds)
        self._broadcaster.moving(
            transform_message("map", "odom", (self.map_from_odom, STILL), stamp),
            transform_message("odom", "base_link", ((x, 0, 0), STILL), stamp),
        )
        time.sleep(0.03)
        return self.seconds


@pytest.fixture
def drive(node: Process, peer: Peer, tf2_msgs: ModuleType) -> Drive:
    forget_all(peer)
    return Drive(peer, tf2_msgs, next(STARTS))


def see_until(drive: Drive, condition: Any, **given: Any) -> Any:
    def seen() -> Any:
        drive.see(**given)
        return condition()

    return wait_until(seen)


def test_transforms_that_come_late_are_waited_for_and_two_cameras_see_one_object(
    drive: Drive, peer: Peer, vision_msgs: ModuleType, visualization_msgs: ModuleType
) -> None:
    objects = listed(peer)
    markers = peer.listen(visualization_msgs.MarkerArray, f"{NODE}/markers", LATCHED)
    boxes = peer.listen(vision_msgs.Detection3DArray, f"{NODE}/detections_3d", LATCHED)
    found = see_until(
        drive, lambda: objects().get("mug", False) and objects()["mug"].looks > 8 and objects(), late=0.05
    )
    assert list(found) == ["mug"], "one object, not one for each camera"
    assert found["mug"].camera in ("front", "left")
    place = found["mug"].pose.pose.position
    np.testing.assert_allclose([place.x, place.y, place.z], MUG, atol=0.09)
    texts = wait_until(lambda: [item.text for _, array in drain(markers) for item in array.markers if item.text])
    assert texts[-1] == f"mug #{found['mug'].id}"
    shown = wait_until(lambda: [item for _, array in drain(boxes) for item in array.detections])
    assert (shown[-1].id, shown[-1].results[0].hypothesis.class_id) == (str(found["mug"].id), "mug")
    assert shown[-1].header.frame_id == "map"


def test_a_goal_is_where_the_base_stood(drive: Drive, peer: Peer) -> None:
    serve_words(peer)
    objects = listed(peer)
    see_until(drive, lambda: "mug" in objects(), x=0.25)
    (found,) = recall(peer, "mug").answers
    place, goal = found.approach.pose.position, found.goal.pose.position
    np.testing.assert_allclose([place.x, place.y, place.z], [0.25, 0, 0.3], atol=1e-6)
    np.testing.assert_allclose([goal.x, goal.y, goal.z], [0.25, 0, 0], atol=1e-6)


def test_a_stamp_without_a_transform_is_said_and_counted(node: Process, drive: Drive, peer: Peer) -> None:
    diagnostics = peer.listen(DiagnosticArray, "/diagnostics", 10)
    drive.see()
    drive.cameras["front"].see({"mug": MUG}, stamp=drive.seconds + 50.0, publish_pose=False)
    said = "there is no transform from 'camera' to 'map'"
    wait_until(lambda: f"a frame is not remembered: {said}" in node.output)

    def counted() -> bool:
        statuses = [status for _, message in drain(diagnostics) for status in message.status]
        front = [status for status in statuses if status.name == "object_memory: camera front"]
        return any(
            item.key == "frames not remembered" and int(item.value) > 0 for status in front for item in status.values
        )

    wait_until(counted)


def test_a_jump_of_the_map_is_said_and_objects_follow_the_keyframes(
    node: Process, drive: Drive, peer: Peer, nav_msgs: ModuleType
) -> None:
    objects = listed(peer)
    keyframes = peer.node.create_publisher(nav_msgs.Path, "/keyframes", LATCHED)
    began = drive.seconds
    see_until(drive, lambda: "mug" in objects())
    before = objects()["mug"].pose.pose.position
    keyframes.publish(path_message(nav_msgs, {began: camera_pose(0.0), drive.seconds: camera_pose(0.0)}))
    time.sleep(0.3)
    # A loop closure: the map turns out to be 0.5 m further.
    keyframes.publish(path_message(nav_msgs, {began: camera_pose(0.5), drive.seconds: camera_pose(0.5)}))
    after = wait_until(lambda: (now := objects()["mug"].pose.pose.position).x > before.x + 0.2 and now)
    # The last frame may have been taken in after `before`.
    assert (after.x - before.x, after.y - before.y) == (pytest.approx(0.5, abs=0.01), pytest.approx(0.0, abs=0.01))
    drive.map_from_odom = (0.5, 0.0, 0.0)
    drive.see(things={"mug": (MUG[0] + 0.5, *MUG[1:])})
    wait_until(lambda: "the map jumped by 0.50 m and 0.0 degrees against odometry: objects follow the" in node.output)
    keyframes.publish(path_message(nav_msgs, {began: camera_pose(0.5)}, frame="odom"))
    wait_until(lambda: "the path of keyframes is in 'odom', map_frame is 'map'" in node.output)
