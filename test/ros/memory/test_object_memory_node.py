"""The node object_memory with a pose topic: frames in, objects, answers and sentences out."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Point, Point32, Polygon
from memory_world import Robot, camera_pose, serve_words
from ros_harness import Peer, Process, drain, running, set_parameters, state, transition, wait_until
from std_srvs.srv import Trigger

from fcclip_ros import msg, srv
from fcclip_ros.qos import LATCHED

MUG, PLATE = (1.0, 0.2, 0.4), (1.5, -0.3, 0.4)
THINGS = {"mug": MUG, "plate": PLATE}
RENAMED = {"red mug": MUG, "plate": PLATE}
COMMAND = ("-m", "fcclip_ros.object_memory", "--ros-args", "-p", "pose_source:=topic", "-p", "publish_rate:=20.0")
READY = ("reading poses from", "reading segments from", "reading depth from", "reading camera_info from")
NODE = "/object_memory"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, domain: None) -> Iterator[Process]:
    log = tmp_path_factory.mktemp("memory") / "node.log"
    with running(COMMAND, log, *READY) as process:
        yield process


@pytest.fixture
def robot(node: Process, peer: Peer) -> Iterator[Robot]:
    """A robot whose memory is empty."""
    forget_all(peer)
    yield Robot(peer)


def forget_all(peer: Peer) -> None:
    """Empties the memory, and waits until nothing is latched any more that a test could take for its own."""
    messages = peer.listen(msg.RememberedObjectArray, f"{NODE}/objects", LATCHED)
    assert peer.call(srv.ForgetObjects, f"{NODE}/forget", srv.ForgetObjects.Request(all=True)).success
    wait_until(lambda: (new := drain(messages)) and new[-1][1].total == 0)


def see_until(robot: Robot, condition: Callable[[], Any], things: dict[str, Any] = THINGS, **given: Any) -> Any:
    """Frames, a little apart as a camera's, until a condition holds."""

    def seen() -> Any:
        robot.see(things, **given)
        time.sleep(0.03)
        return condition()

    return wait_until(seen)


def listed(peer: Peer) -> Callable[[], dict[str, msg.RememberedObject]]:
    """A function that returns the newest objects by their names."""
    messages, newest = peer.listen(msg.RememberedObjectArray, f"{NODE}/objects", LATCHED), {}

    def objects() -> dict[str, msg.RememberedObject]:
        for _, message in drain(messages):
            newest["message"] = message
        return {item.name: item for item in newest["message"].objects} if newest else {}

    return objects


def recall(peer: Peer, *words: str, **given: Any) -> srv.Recall.Response:
    return peer.call(srv.Recall, f"{NODE}/recall", srv.Recall.Request(words=list(words), **given))


def test_what_is_seen_is_listed_where_it_is(robot: Robot, peer: Peer) -> None:
    objects = listed(peer)
    found = see_until(robot, lambda: len(seen := objects()) == 2 and seen)
    for name, place in THINGS.items():
        item = found[name]
        position = item.pose.pose.position
        # The center lies behind the visible front, by about half of the width.
        np.testing.assert_allclose([position.x, position.y, position.z], place, atol=0.09)
        assert item.state == msg.RememberedObject.CONFIRMED and item.existence > 0.8
        assert (list(item.names), item.looks >= 3, item.is_thing) == ([name], True, True)
        assert item.name_looks[0] == item.looks and item.pose.covariance[0] > 0
        assert item.first_seen.sec == robot.start and item.embedding_type == ""


def test_words_that_nobody_named_are_embedded_and_found(robot: Robot, peer: Peer) -> None:
    asked = serve_words(peer)
    objects = listed(peer)
    see_until(robot, lambda: len(objects()) == 2)
    answer = recall(peer, "red mug")
    assert answer.success and answer.header.frame_id == "map"
    (found,) = answer.answers
    assert found.object.name == "mug" and found.probability > 0.8
    assert answer.message.startswith('"red mug": mug (object ')
    assert {"red mug", "plate", "lamp"} <= set(sum(asked, [])), "what competes is embedded too"
    assert found.crop.format == "jpeg" and bytes(found.crop.data[:2]) == b"\xff\xd8"
    assert found.has_approach and found.approach.header.frame_id == "map"
    place, goal = found.approach.pose.position, found.goal.pose
    np.testing.assert_allclose([place.x, place.y, place.z], camera_pose()[:3, 3], atol=1e-6)
    np.testing.assert_allclose([goal.position.x, goal.position.y, goal.position.z], 0, atol=1e-6)
    np.testing.assert_allclose([goal.orientation.z, goal.orientation.w], [0, 1], atol=1e-6)
    before = len(asked)
    assert recall(peer, "red mug").answers[0].object.id == found.object.id
    assert len(asked) == before, "what is known is not asked for again"


def test_nothing_like_it_is_an_answer(robot: Robot, peer: Peer) -> None:
    serve_words(peer)
    objects = listed(peer)
    see_until(robot, lambda: len(objects()) == 2)
    answer = recall(peer, "elephant")
    assert answer.success and not answer.answers and answer.best_probability < 0.1
    assert answer.message.startswith('nothing like "elephant" is remembered; the best is ')


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"center": (1.0, 0.2), "radius": 0.3}, ["mug"]),
        ({"corners": [(0.5, -1.0), (2.5, -1.0), (2.5, 0.0), (0.5, 0.0)]}, []),
        ({"called": ["plate"]}, []),
        ({"max_age": 1.0}, []),
    ],
)
def test_filters_leave_out_what_does_not_pass(
    robot: Robot, peer: Peer, given: dict[str, Any], names: list[str]
) -> None:
    serve_words(peer)
    objects = listed(peer)
    see_until(robot, lambda: len(objects()) == 2)
    if "center" in given:
        given = {"center": Point(x=given["center"][0], y=given["center"][1]), "radius": given["radius"]}
    if "corners" in given:
        given = {"area": Polygon(points=[Point32(x=x, y=y) for x, y in given["corners"]])}
    answer = recall(peer, "mug", **given)
    assert [item.object.name for item in answer.answers] == names, answer.message


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"words": []}, "word"),
        ({"words": ["mug"], "limit": 0}, "limit is 0; it must be between 1 and 1000"),
        ({"words": ["mug"], "minimum_probability": 2.0}, "min_probability is 2; it must be between 0 and 1"),
        ({"words": ["mug"], "radius": -1.0}, "expected finite numbers and a radius above 0"),
        ({"words": ["mug"], "timeout": 0.0}, "timeout is 0; it must be a number of seconds above 0"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused_with_a_reason(
    robot: Robot, peer: Peer, request_: dict[str, Any], reason: str
) -> None:
    answer = peer.call(srv.Recall, f"{NODE}/recall", srv.Recall.Request(**request_))
    assert not answer.success and reason in answer.message


def test_a_name_of_its_own_finds_an_object_and_forgetting_loses_it(robot: Robot, peer: Peer) -> None:
    serve_words(peer)
    objects = listed(peer)
    mug = see_until(robot, lambda: len(objects()) == 2 and objects()["mug"])
    named = peer.call(srv.NameObject, f"{NODE}/name_object", srv.NameObject.Request(id=mug.id, name="anna's"))
    assert named.success and "anna's" in named.message
    (found,) = recall(peer, "anna's", minimum_probability=0.9).answers
    assert (found.object.id, found.object.own_name, found.probability) == (mug.id, "anna's", 1.0)
    gone = peer.call(srv.ForgetObjects, f"{NODE}/forget", srv.ForgetObjects.Request(ids=[mug.id]))
    assert (gone.success, gone.forgotten) == (True, 1)
    wait_until(lambda: list(objects()) == ["plate"])
    again = peer.call(srv.NameObject, f"{NODE}/name_object", srv.NameObject.Request(id=mug.id, name="x"))
    assert not again.success and f"there is no object {mug.id}" in again.message
    unsaid = peer.call(srv.ForgetObjects, f"{NODE}/forget", srv.ForgetObjects.Request())
    assert not unsaid.success and "nothing says what to forget" in unsaid.message


def test_what_is_taken_away_is_noticed(robot: Robot, peer: Peer) -> None:
    objects = listed(peer)
    see_until(robot, lambda: len(objects()) == 2)
    see_until(robot, lambda: list(objects()) == ["plate"], {"plate": PLATE})


def test_geometry_in_the_map_gives_the_same_places(robot: Robot, peer: Peer) -> None:
    objects = listed(peer)
    pose = camera_pose(0.2, 0.1)
    found = see_until(robot, lambda: len(objects()) == 2 and objects(), pose=pose, frame="map")
    position = found["mug"].pose.pose.position
    np.testing.assert_allclose([position.x, position.y, position.z], MUG, atol=0.09)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"embedding": False}, "its segments have no embeddings; set publish_embeddings of the perception node to"),
        ({"frame": "base_link"}, "the segments' geometry is in 'base_link', and poses from a topic do not say where"),
        ({"publish_pose": False, "stamp": 5_000.0}, "the newest pose is"),
        ({"pose_frame": "odom"}, "the poses are in the frame 'odom', map_frame is 'map'"),
    ],
)
def test_a_frame_that_cannot_be_remembered_is_said(
    node: Process, robot: Robot, peer: Peer, given: dict[str, Any], said: str
) -> None:
    diagnostics = peer.listen(DiagnosticArray, "/diagnostics", 10)
    set_parameters(peer, NODE, pose_wait=0.0)

    def reported() -> bool:
        statuses = [status for _, message in drain(diagnostics) for status in message.status]
        return any(said in status.message for status in statuses if status.name == "object_memory: camera")

    see_until(robot, reported, **given)
    set_parameters(peer, NODE, pose_wait=0.2)


def test_a_clock_that_jumps_back_is_said_and_objects_are_kept(node: Process, robot: Robot, peer: Peer) -> None:
    objects = listed(peer)
    see_until(robot, lambda: len(objects()) == 2)
    ids = {item.id for item in objects().values()}
    early = Robot(peer, start=100.0)
    see_until(early, lambda: objects() and all(item.last_seen.sec < 1_000 for item in objects().values()))
    assert {item.id for item in objects().values()} == ids
    assert "the stamps of the segments jumped back" in node.output


def test_without_a_file_nothing_can_be_saved_and_it_says_so(robot: Robot, peer: Peer) -> None:
    answer = peer.call(Trigger, f"{NODE}/save")
    assert not answer.success and "the memory has no file to save to" in answer.message


def test_without_the_perception_node_new_words_are_refused_with_advice(robot: Robot, peer: Peer) -> None:
    wait_until(lambda: not peer.node.count_services("/fcclip/embed_text"))
    answer = recall(peer, "umbrella")
    assert not answer.success
    assert "there is no service /fcclip/embed_text; start it, or set perception_node to its name" in answer.message
    assert recall(peer, "mug").success, "what was learned before is known"


def test_objects_can_be_asked_for_while_inactive_and_not_while_unconfigured(robot: Robot, peer: Peer) -> None:
    serve_words(peer)
    objects = listed(peer)
    see_until(robot, lambda: len(objects()) == 2)
    assert transition(peer, "deactivate", NODE) and state(peer, NODE) == "inactive"
    assert recall(peer, "mug").answers
    assert transition(peer, "cleanup", NODE)
    answer = recall(peer, "mug")
    assert not answer.success and "the memory is not configured" in answer.message
    assert transition(peer, "configure", NODE) and transition(peer, "activate", NODE)
    see_until(robot, lambda: len(objects()) == 2)


def test_words_that_change_while_driving_leave_one_object_with_both_names(robot: Robot, peer: Peer) -> None:
    objects = listed(peer)
    see_until(robot, lambda: len(objects()) == 2)
    ids = {item.id for item in objects().values()}
    robot.vocabulary("red mug", "plate", version=1)
    see_until(robot, lambda: objects() and "red mug" in sum((item.names for item in objects().values()), []), RENAMED)
    found = [item for item in objects().values() if "red mug" in item.names]
    assert {item.id for item in objects().values()} == ids and "mug" in found[0].names


def test_a_running_node_needs_no_torch_and_ends_on_sigterm_in_time(
    start_process: Callable[..., Process], peer: Peer
) -> None:
    process = start_process(*COMMAND, "-r", "__node:=other", "-r", "pose:=other_pose")
    process.wait_for("reading segments from")
    # A network's libraries would take most of its memory and of the time of its start.
    assert "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text()
    assert process.end(signal.SIGTERM, timeout=20.0) == 0
    assert "Traceback" not in process.output
