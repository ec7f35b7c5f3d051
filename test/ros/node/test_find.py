"""~/find, ~/embed_text and ~/wait_for, seen from outside, with a fake model."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from action_msgs.msg import GoalStatus
from depth_camera import HEIGHT, DepthCamera, valid_segments
from fake_segmenter import Gate, fake_loader
from rclpy.action import ActionClient
from ros_harness import Background, Peer, camera, drain, flat_image, rgb_message, set_parameters, transition, wait_until
from sensor_msgs.msg import Image

from fcclip_core.geometry.cloud import POINT
from fcclip_ros import msg, srv
from fcclip_ros.action import WaitFor
from fcclip_ros.perception import Perception
from fcclip_ros.qos import OUTPUT, REQUESTS

WORDS = ["-p", "vocabulary:=['cup, mug', 'plate', 'floor']"]


@pytest.fixture
def start() -> Iterator[Callable[..., Peer]]:
    """Starts `fcclip` with a fake model, which cuts pictures into one upright band a class."""
    nodes: list[Peer] = []

    def start(*arguments: str, seconds: float = 0.0, encoding: float = 0.0, words_gate: Gate | None = None) -> Peer:
        def make(**options: Any) -> Perception:
            return Perception(fake_loader(seconds, encoding, words_gate), **options)

        nodes.append(Peer(make, ["--ros-args", "-p", "checkpoint:=fake", *WORDS, *arguments]))
        nodes[-1].node.begin()
        return nodes[-1]

    yield start
    for node in nodes:
        if node.node._lifecycle != "finalized":
            node.node.finish()
        node.close()


def active(node: Peer) -> Peer:
    wait_until(lambda: node.node._lifecycle == "active")
    return node


def show(peer: Peer, pixels: np.ndarray | None = None) -> None:
    """Lets the node label one picture."""
    heard, publisher = peer.listen(msg.SegmentArray, "/fcclip/segments", OUTPUT), camera(peer)
    wait_until(lambda: publisher.get_subscription_count() and heard.empty)
    end = time.monotonic() + 20
    while heard.empty():
        assert time.monotonic() < end
        publisher.publish(rgb_message(flat_image() if pixels is None else pixels))
        time.sleep(0.05)


class Shutter(Background):
    """Publishes pictures until it is told to stop."""

    def __init__(self, peer: Peer) -> None:
        super().__init__()
        self._publisher = camera(peer)

    def _run(self) -> None:
        while not self._stop.wait(0.03):
            self._publisher.publish(rgb_message(flat_image()))


def find(peer: Peer, *words: str, **more: Any) -> srv.Find.Response:
    return peer.call(srv.Find, "/fcclip/find", srv.Find.Request(words=list(words), **more))


def test_finds_a_class_of_the_stream_in_the_newest_picture(start: Callable[..., Peer], peer: Peer) -> None:
    active(start())
    show(peer)
    answer = find(peer, "plate")
    assert answer.success, answer.message
    assert (answer.height, answer.width, answer.header.frame_id) == (12, 24, "camera")
    (found,) = answer.found
    assert (found.segment.id, found.segment.class_id, found.segment.name) == (2, 2, "plate")
    assert found.score == answer.best_score == pytest.approx(2 / 4)
    # The middle third of the picture, cut out.
    box = found.segment.box
    assert (box.x_offset, box.y_offset, box.width, box.height) == (8, 0, 8, 12)
    assert (found.mask.height, found.mask.width, found.mask.encoding) == (12, 8, "mono8")
    assert set(found.mask.data) == {255}
    assert found.mask.header == answer.header
    assert found.cloud.width == 0


def test_other_words_join_the_streams_for_one_labeling(start: Callable[..., Peer], peer: Peer) -> None:
    active(start())
    show(peer)
    before = peer.call(srv.GetVocabulary, "/fcclip/get_vocabulary").vocabulary
    answer = find(peer, "red mug, red cup", distractors=["bowl"])
    assert answer.success, answer.message
    (found,) = answer.found
    # Five classes make five bands; the word's is the fourth, and too small to be one of the stream's three.
    assert (found.segment.id, found.segment.class_id, found.segment.name) == (0, 0, "red mug")
    assert found.score == pytest.approx(4 / 6)
    assert peer.call(srv.GetVocabulary, "/fcclip/get_vocabulary").vocabulary == before


def test_limit_and_minimum_score(start: Callable[..., Peer], peer: Peer) -> None:
    active(start())
    show(peer)
    assert [item.score > 0 for item in find(peer, "plate", limit=0, minimum_score=0.0).found] == [True, False, False]
    nothing = find(peer, "plate", minimum_score=0.6)
    assert (nothing.success, nothing.found, nothing.best_score) == (True, [], pytest.approx(0.5))


def test_a_fresh_picture_arrives_after_the_request(start: Callable[..., Peer], peer: Peer) -> None:
    active(start())
    show(peer)
    late = find(peer, "plate", fresh=True, timeout=0.2)
    assert not late.success
    assert "no frame was labeled within 0.2 s" in late.message
    publisher = camera(peer)
    wait_until(lambda: publisher.get_subscription_count())
    request = srv.Find.Request(words=["plate"], fresh=True, timeout=10.0)
    answer = peer.call_async(srv.Find, "/fcclip/find", request)
    end = threading.Timer(0.3, publisher.publish, (rgb_message(flat_image(24, 48), "later"),))
    end.start()
    found = answer(10.0)
    assert found.success, found.message
    assert (found.header.frame_id, found.width) == ("later", 48)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (srv.Find.Request(), "words is empty"),
        (srv.Find.Request(words=[" "]), "words: a class name is empty"),
        (srv.Find.Request(words=["cup"], distractors=["a,,b"]), "distractors: a class name is empty"),
        (srv.Find.Request(words=["cup"], minimum_score=1.5), "minimum_score is 1.5"),
        (srv.Find.Request(words=["cup"], timeout=-1.0), "timeout is -1"),
        (srv.Find.Request(words=["cup"], camera="left"), "there is no camera 'left'"),
        (srv.Find.Request(words=["cup"]), "no frame has been labeled yet"),
    ],
)
def test_says_what_is_wrong_with_a_request(
    start: Callable[..., Peer], peer: Peer, request_: srv.Find.Request, expected: str
) -> None:
    active(start())
    answer = peer.call(srv.Find, "/fcclip/find", request_)
    assert not answer.success
    assert expected in answer.message


def test_says_that_the_node_is_not_configured_or_not_active(start: Callable[..., Peer], peer: Peer) -> None:
    start("-p", "autostart:=false")
    assert "not configured" in find(peer, "cup").message
    assert transition(peer, "configure")
    assert "not active" in find(peer, "cup").message
    assert "not active" in find(peer, "cup", fresh=True).message
    assert peer.call(srv.EmbedText, "/fcclip/embed_text", srv.EmbedText.Request(names=["cup"])).success


def test_what_was_seen_before_the_node_was_deactivated_is_forgotten(start: Callable[..., Peer], peer: Peer) -> None:
    active(start())
    show(peer)
    assert transition(peer, "deactivate") and transition(peer, "activate")
    assert "no frame has been labeled yet" in find(peer, "cup").message


def test_new_words_do_not_hold_up_the_stream(start: Callable[..., Peer], peer: Peer) -> None:
    gate = Gate()
    active(start(words_gate=gate))
    gate.close()
    heard = peer.listen(msg.SegmentArray, "/fcclip/segments", OUTPUT)
    with Shutter(peer):
        wait_until(lambda: not heard.empty())
        answer = peer.call_async(srv.Find, "/fcclip/find", srv.Find.Request(words=["never heard of"]))
        assert gate.reached.wait(10.0)
        drain(heard)
        wait_until(lambda: heard.qsize() > 5)
        gate.open()
        assert answer(10.0).success


@pytest.mark.parametrize(
    ("words", "number", "columns", "depth"),
    [("plate", 2, slice(20, 40), 2.0), ("new word", 3, slice(45, 60), 4.0)],
    ids=["a class of the stream", "other words"],
)
def test_what_is_found_has_its_place_and_its_points(
    start: Callable[..., Peer], peer: Peer, words: str, number: int, columns: slice, depth: float
) -> None:
    """Bands at 1, 2 and 4 m; a new word gets the last of four, most of the third; no pixel of the holes has a point."""
    active(start("-p", "use_depth:=true"))
    meters = np.repeat([[1.0, 2.0, 4.0]], 20, axis=1).repeat(HEIGHT, axis=0)
    meters[10:20, [25, 50]] = 0
    segments = peer.listen(msg.SegmentArray, "/fcclip/segments", OUTPUT)
    DepthCamera(peer).publish_until(lambda: valid_segments(segments), meters=meters)
    answer = find(peer, words)
    (found,) = answer.found
    assert found.segment.id == number
    assert found.segment.geometry.valid
    assert found.segment.geometry.centroid.z == pytest.approx(depth, abs=1e-3)
    cloud = np.frombuffer(found.cloud.data, POINT)
    assert found.cloud.header == answer.header
    assert (found.cloud.height, found.cloud.width, found.cloud.is_dense) == (1, len(cloud), True)
    rows, places = np.nonzero(meters[:, columns])
    assert len(cloud) == len(rows) == HEIGHT * (columns.stop - columns.start) - 10
    np.testing.assert_allclose(cloud["z"], depth)
    np.testing.assert_allclose(cloud["x"], (places + columns.start - 29.5) / 50 * depth, rtol=1e-5, atol=1e-6)
    assert set(cloud["segment_id"]) == {number}
    assert set(cloud["semantic_id"]) == {found.segment.class_id}
    np.testing.assert_allclose(cloud["confidence"], found.score)


def test_text_is_embedded_row_by_row(start: Callable[..., Peer], peer: Peer) -> None:
    active(start())
    answer = peer.call(srv.EmbedText, "/fcclip/embed_text", srv.EmbedText.Request(names=["cup", "plate"]))
    assert answer.success
    assert (answer.dimension, answer.logit_scale, answer.model) == (4, 100.0, "fake tower")
    assert np.array(answer.embeddings).reshape(2, 4).tolist() == [[0, 0, 0, 1], [0, 1, 0, 0]]
    for names, expected in (([], "no name"), (["cup", ""], "empty")):
        refused = peer.call(srv.EmbedText, "/fcclip/embed_text", srv.EmbedText.Request(names=names))
        assert not refused.success
        assert expected in refused.message


class Waiter:
    """A client of ~/wait_for."""

    def __init__(self, peer: Peer, server: Peer) -> None:
        self._client = ActionClient(peer.node, WaitFor, "/fcclip/wait_for")
        assert self._client.wait_for_server(timeout_sec=20.0)
        # A goal that comes before the server knows the client is lost, and in one process never sent again.
        wait_until(lambda: server.node.count_clients("/fcclip/wait_for/_action/send_goal"), timeout=20.0)
        self.feedback: queue.Queue = queue.Queue()

    def send(self, *words: str, **more: Any) -> Any:
        """Returns the handle of a goal."""
        goal = WaitFor.Goal(words=list(words), **more)
        futures: list[Any] = []
        for _ in range(2):  # As with services, a goal may get lost on a busy machine.
            futures.append(self._client.send_goal_async(goal, lambda message: self.feedback.put(message.feedback)))
            with contextlib.suppress(AssertionError):
                wait_until(lambda: any(future.done() for future in futures))
                break
        handle = next(future.result() for future in futures if future.done())
        assert handle.accepted
        return handle

    def result(self, goal: Any, timeout: float = 10.0) -> tuple[int, WaitFor.Result]:
        future = goal.get_result_async()
        wait_until(future.done, timeout)
        return future.result().status, future.result().result


def test_waits_until_it_is_there_and_tells_how_far_it_is(start: Callable[..., Peer], peer: Peer) -> None:
    waiter = Waiter(peer, active(start()))
    # Three bands: "plate" scores 2/4. Its vocabulary changed to one where it is last of five, it scores 5/6.
    goal = waiter.send("plate", minimum_score=0.7)
    with Shutter(peer):
        so_far = [waiter.feedback.get(timeout=10) for _ in range(3)]
        assert [item.frames for item in so_far] == [1, 2, 3]
        assert so_far[-1].best_score == pytest.approx(0.5)
        classes = [msg.VocabularyClass(synonyms=[name]) for name in ("a", "b", "c", "d", "plate")]
        assert peer.call(
            srv.SetVocabulary, "/fcclip/set_vocabulary", srv.SetVocabulary.Request(classes=classes)
        ).success
        status, result = waiter.result(goal)
    assert (status, result.success) == (GoalStatus.STATUS_SUCCEEDED, True)
    assert result.best_score == pytest.approx(5 / 6)
    assert result.frames > 3
    assert [item.segment.name for item in result.found] == ["plate"]


def test_waiting_ends_when_the_time_is_up_also_without_a_camera(start: Callable[..., Peer], peer: Peer) -> None:
    waiter = Waiter(peer, active(start()))
    status, result = waiter.result(waiter.send("cup", minimum_score=0.9, timeout=0.3))
    assert (status, result.success, result.frames) == (GoalStatus.STATUS_ABORTED, False, 0)
    assert "not detected within 0.3 s" in result.message


def test_waiting_can_be_cancelled_and_preempted(start: Callable[..., Peer], peer: Peer) -> None:
    waiter = Waiter(peer, active(start()))
    with Shutter(peer):
        first = waiter.send("cup", minimum_score=0.9)
        waiter.feedback.get(timeout=10)
        second = waiter.send("floor", minimum_score=0.5)
        first.cancel_goal_async()
        status, result = waiter.result(first)
        assert (status, result.success, result.message) == (GoalStatus.STATUS_CANCELED, False, "canceled")
        assert waiter.result(second)[0] == GoalStatus.STATUS_SUCCEEDED


def test_many_wait_side_by_side(start: Callable[..., Peer], peer: Peer) -> None:
    waiter = Waiter(peer, active(start()))
    goals = [waiter.send("cup", minimum_score=0.9) for _ in range(16)]
    goals.append(waiter.send("cup", minimum_score=0.9))
    status, result = waiter.result(goals.pop(0))
    assert (status, result.success) == (GoalStatus.STATUS_ABORTED, False)
    assert result.message == "dropped in favor of a newer one: at most 16 goals may be pending"
    for goal in goals:
        # One after the other: a client keeps ten answers.
        wait_until(goal.cancel_goal_async().done)
    assert {waiter.result(goal)[0] for goal in goals} == {GoalStatus.STATUS_CANCELED}
    with Shutter(peer):
        assert waiter.result(waiter.send("floor", minimum_score=0.5))[0] == GoalStatus.STATUS_SUCCEEDED


@pytest.mark.parametrize("how", ["deactivate", "finish"])
def test_waiting_ends_with_the_node(start: Callable[..., Peer], peer: Peer, how: str) -> None:
    node = active(start())
    waiter = Waiter(peer, node)
    goal = waiter.send("cup", minimum_score=0.9)
    fresh = peer.call_async(srv.Find, "/fcclip/find", srv.Find.Request(words=["cup"], fresh=True, timeout=30.0))
    wait_until(lambda: len(node.node._cameras[0].search._pending) == 2)
    if how == "deactivate":
        assert transition(peer, "deactivate")
    else:
        node.node.finish()
    status, result = waiter.result(goal)
    assert (status, result.success) == (GoalStatus.STATUS_ABORTED, False)
    assert "no longer active" in result.message
    assert "no longer active" in fresh(10.0).message


@pytest.mark.parametrize(
    ("more", "expected"), [({}, "words is empty"), ({"words": ["cup"], "timeout": -1.0}, "timeout")]
)
def test_a_goal_that_makes_no_sense_is_answered_with_a_reason(
    start: Callable[..., Peer], peer: Peer, more: dict, expected: str
) -> None:
    waiter = Waiter(peer, active(start()))
    status, result = waiter.result(waiter.send(*more.pop("words", []), **more))
    assert (status, result.success) == (GoalStatus.STATUS_ABORTED, False)
    assert expected in result.message


def test_executor_answers_while_goals_wait_and_words_are_encoded(start: Callable[..., Peer], peer: Peer) -> None:
    gate = Gate()
    waiter = Waiter(peer, active(start(words_gate=gate)))
    gate.close()
    with Shutter(peer):
        goal = waiter.send("cup", minimum_score=0.9)
        waiter.feedback.get(timeout=10)
        answer = peer.call_async(srv.Find, "/fcclip/find", srv.Find.Request(words=["new word"]))
        assert gate.reached.wait(10.0)
        for _ in range(5):
            assert set_parameters(peer, publish_overlay_rate=3.0)[0].successful
        gate.open()
        assert answer(10.0).success
        goal.cancel_goal_async()
        assert waiter.result(goal)[0] == GoalStatus.STATUS_CANCELED


def test_tracked_ids_are_the_same_in_every_output(start: Callable[..., Peer], peer: Peer) -> None:
    active(start("-p", "track:=true"))
    segments, panoptic = (
        peer.listen(kind, f"/fcclip/{name}", OUTPUT)
        for kind, name in ((msg.SegmentArray, "segments"), (Image, "panoptic"))
    )
    with Shutter(peer):
        wait_until(lambda: segments.qsize() > 2 and panoptic.qsize() > 2)
        first = [item.id for item in segments.get()[1].segments]
        # Another vocabulary: other bands, which overlap the old ones by half or less.
        classes = [msg.VocabularyClass(synonyms=[name]) for name in ("cup", "spoon", "fork", "knife", "a", "b", "c")]
        assert peer.call(
            srv.SetVocabulary, "/fcclip/set_vocabulary", srv.SetVocabulary.Request(classes=classes)
        ).success
        changed = wait_until(lambda: next((m for _, m in drain(segments) if m.vocabulary_version == 2), None))
        stamps = wait_until(lambda: [m for _, m in drain(panoptic) if max(m.data) > 3])
        answer = find(peer, "knife")
    assert first == [1, 2, 3]
    ids = {item.name: item.id for item in changed.segments}
    assert len(set(ids.values())) == 7
    assert max(ids.values()) > 7, "ids of things that are gone are not given to others"
    assert set(np.frombuffer(stamps[-1].data, np.uint16)) == set(ids.values())
    assert answer.found[0].segment.id == ids["knife"]


@pytest.fixture
def memory() -> Iterator[Callable[..., queue.Queue]]:
    """Stands in for the memory node: answers ~/recall with objects of these probabilities, and keeps the questions."""
    nodes: list[Peer] = []

    def start(*probabilities: float, gate: Gate | None = None, problem: str = "") -> queue.Queue:
        asked: queue.Queue = queue.Queue()

        def answer(request: srv.Recall.Request, response: srv.Recall.Response) -> srv.Recall.Response:
            asked.put(request)
            if gate is not None:
                gate.pass_through()
            kept = [item for item in probabilities if item >= request.minimum_probability]
            response.success, response.message = not problem, problem or "what is remembered"
            response.header.frame_id, response.best_probability = "map", max(probabilities, default=0.0)
            response.answers = [msg.RecalledObject(probability=item) for item in kept]
            return response

        nodes.append(Peer())
        nodes[-1].node.create_service(srv.Recall, "/object_memory/recall", answer, qos_profile=REQUESTS)
        return asked

    yield start
    for node in nodes:
        node.close()


def test_what_is_remembered_needs_no_picture(
    start: Callable[..., Peer], memory: Callable[..., queue.Queue], peer: Peer
) -> None:
    asked, node = memory(0.9, 0.6, 0.2), active(start())
    waiter = Waiter(peer, node)
    wait_until(lambda: node.node._wait_for._memory._recall.service_is_ready())
    goal = waiter.send("cup", distractors=["jug"], minimum_score=0.5, limit=0, from_memory=True, max_age=60.0)
    status, result = waiter.result(goal)
    assert (status, result.success, result.message) == (GoalStatus.STATUS_SUCCEEDED, True, "what is remembered")
    assert [item.probability for item in result.remembered] == pytest.approx([0.9, 0.6])
    assert (result.header.frame_id, result.frames, len(result.found)) == ("map", 0, 0)
    assert result.best_score == pytest.approx(0.9)
    question = asked.get(timeout=5)
    assert (question.words, question.distractors, question.max_age, question.limit) == (["cup"], ["jug"], 60.0, 1000)


def test_what_is_not_remembered_is_waited_for(
    start: Callable[..., Peer], memory: Callable[..., queue.Queue], peer: Peer
) -> None:
    asked, node = memory(0.3), active(start())
    waiter = Waiter(peer, node)
    wait_until(lambda: node.node._wait_for._memory._recall.service_is_ready())
    with Shutter(peer):
        status, result = waiter.result(waiter.send("floor", minimum_score=0.5, from_memory=True))
    assert (status, result.success, asked.qsize()) == (GoalStatus.STATUS_SUCCEEDED, True, 1)
    assert ([item.segment.name for item in result.found], result.remembered) == (["floor"], [])
    assert result.frames >= 1


def test_a_goal_that_waits_for_the_memory_can_be_cancelled_and_ends_in_time(
    start: Callable[..., Peer], memory: Callable[..., queue.Queue], peer: Peer
) -> None:
    gate = Gate()
    gate.close()
    asked, node = memory(0.9, gate=gate), active(start())
    waiter = Waiter(peer, node)
    wait_until(lambda: node.node._wait_for._memory._recall.service_is_ready())
    goal = waiter.send("cup", from_memory=True)
    asked.get(timeout=5)
    goal.cancel_goal_async()
    assert waiter.result(goal, timeout=5.0)[0] == GoalStatus.STATUS_CANCELED
    status, result = waiter.result(waiter.send("cup", from_memory=True, timeout=0.3), timeout=5.0)
    assert (status, result.message) == (GoalStatus.STATUS_ABORTED, "not detected within 0.3 s")
    gate.open()


@pytest.mark.parametrize(
    "problem, given, expected",
    [
        (None, {}, "there is no service /object_memory/recall; start it (memory:=true), or set memory_node"),
        ("the node is not configured", {}, "the memory cannot answer: the node is not configured"),
        ("", {"max_age": -1.0}, "max_age is -1; it must be a number of seconds, at least 0"),
    ],
)
def test_without_an_answer_of_the_memory_a_goal_ends_with_the_reason(
    start: Callable[..., Peer],
    memory: Callable[..., queue.Queue],
    peer: Peer,
    problem: str | None,
    given: dict[str, Any],
    expected: str,
) -> None:
    if problem is not None:
        memory(0.9, problem=problem)
    node = active(start())
    waiter = Waiter(peer, node)
    if problem is not None:
        wait_until(lambda: node.node._wait_for._memory._recall.service_is_ready())
    status, result = waiter.result(waiter.send("cup", from_memory=True, **given))
    assert (status, result.success) == (GoalStatus.STATUS_ABORTED, False)
    assert expected in result.message
