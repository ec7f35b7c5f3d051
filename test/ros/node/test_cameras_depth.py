"""Two cameras with places, lasting ids and finding: each has its own, and a batch mixes nothing up."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from depth_camera import HEIGHT, WIDTH, DepthCamera, valid_segments
from diagnostic_msgs.msg import DiagnosticArray
from fake_segmenter import FakeSegmenter
from ros_harness import Peer, camera, drain, flat_image, publish_until, rgb_message, wait_until
from sensor_msgs.msg import PointCloud2

from fcclip_core.geometry.cloud import POINT
from fcclip_core.settings import InferenceSettings
from fcclip_ros import msg, srv
from fcclip_ros.perception import Perception
from fcclip_ros.qos import OUTPUT

PARAMETERS = ("checkpoint:=fake", "cameras:=[front, left]", "vocabulary:=[cup, plate, floor]", "use_depth:=true")


@pytest.fixture
def start() -> Iterator[Callable[..., tuple[FakeSegmenter, Perception]]]:
    """Starts `fcclip` for the cameras front and left, and returns its model and the node."""
    nodes: list[Peer] = []

    def start(*more: str) -> tuple[FakeSegmenter, Perception]:
        segmenter = FakeSegmenter(InferenceSettings())
        given = [argument for parameter in (*PARAMETERS, *more) for argument in ("-p", parameter)]
        nodes.append(Peer(lambda **options: Perception(lambda *_, **__: segmenter, **options), ["--ros-args", *given]))
        nodes[-1].node.begin()
        wait_until(lambda: nodes[-1].node._lifecycle == "active")
        return segmenter, nodes[-1].node

    yield start
    for node in nodes:
        node.node.finish()
        node.close()


def segments_of(peer: Peer, name: str) -> queue.Queue:
    return peer.listen(msg.SegmentArray, f"/fcclip/{name}/segments", OUTPUT)


def test_one_camera_with_depth_and_one_without(
    start: Callable[..., tuple[FakeSegmenter, Perception]], peer: Peer
) -> None:
    start("track:=true")
    front, left = segments_of(peer, "front"), segments_of(peer, "left")
    points = {name: peer.listen(PointCloud2, f"/fcclip/{name}/points", OUTPUT) for name in ("front", "left")}
    diagnostics = peer.listen(DiagnosticArray, "/diagnostics", 10)
    eye = DepthCamera(peer, name="/front")
    eye.publish_until(lambda: valid_segments(front))

    # Four new things on one camera: they get new ids there, and the other camera begins with 1.
    seven = [msg.VocabularyClass(synonyms=[name]) for name in ("cup", "plate", "fork", "knife", "a", "b", "c")]
    request = srv.SetVocabulary.Request(classes=seven)
    assert peer.call(srv.SetVocabulary, "/fcclip/front/set_vocabulary", request).success
    changed = eye.publish_until(lambda: (m := valid_segments(front)) and len(m.segments) == 7 and m)
    ids = {item.name: item.id for item in changed.segments}
    assert len(set(ids.values())) == 7 < max(ids.values())
    # Clouds are published beside the stream, so the frame's own may come after its segments.
    clouds = lambda: [set(np.frombuffer(m.data, POINT)["segment_id"]) for _, m in drain(points["front"])]  # noqa: E731
    wait_until(lambda: set(ids.values()) in clouds())

    plain = rgb_message(flat_image(HEIGHT, WIDTH), "left_camera")
    publish_until(camera(peer, "/left/image"), plain, lambda: left.qsize() > 1)
    for _, message in drain(left):
        assert [item.id for item in message.segments] == [1, 2, 3]
        assert not any(item.geometry.valid for item in message.segments)
    assert points["left"].empty()

    find = lambda name, word: peer.call(  # noqa: E731
        srv.Find, "/fcclip/find", srv.Find.Request(words=[word], camera=name, minimum_score=0.0)
    )
    answer = find("front", "knife")
    assert (answer.found[0].segment.id, answer.found[0].segment.geometry.valid) == (ids["knife"], True)
    assert answer.found[0].cloud.width > 0
    assert find("", "knife").header == answer.header, "the first camera is meant"
    answer = find("left", "plate")
    assert (answer.header.frame_id, answer.found[0].segment.id, answer.found[0].cloud.width) == ("left_camera", 2, 0)
    assert (
        find("right", "plate").message
        == "there is no camera 'right'; expected one of the parameter cameras: front, left"
    )

    def status(name: str) -> dict[str, str]:
        newest = diagnostics.get(timeout=10)[1].status
        return {item.key: item.value for s in newest if s.name.endswith(name) for item in s.values}

    assert find("left", "").message.startswith("words:")
    drain(diagnostics)
    wait_until(lambda: status("left")["depth problem"] == "no depth on /left/depth, best_effort, 0 publishers")
    values = status("front")
    assert (values["depth problem"], values["depth input"]) == ("", "/front/depth, reliable, 1 publisher")
    assert (values["requests refused"], status("left")["requests refused"]) == ("1", "2")


def test_frames_of_one_batch_get_their_own_depth(
    start: Callable[..., tuple[FakeSegmenter, Perception]], peer: Peer
) -> None:
    model, node = start("depth_wait:=1.0")
    received = {camera.name: lambda c=camera: c.statistics.report().counts.received for camera in node._cameras}
    heard = {name: segments_of(peer, name) for name in ("front", "left")}
    distances = {"front": 1.0, "left": 3.0}
    eyes = {name: DepthCamera(peer, name=f"/{name}") for name in heard}
    frames: dict[str, dict[str, Any]] = {
        name: {"meters": np.full((HEIGHT, WIDTH), meters)} for name, meters in distances.items()
    }
    for name, eye in eyes.items():
        eye.publish_until(lambda name=name: valid_segments(heard[name]), **frames[name])
    # One frame is held in the network while both cameras get their next one; others may still be on their way.
    model.gate.clear()
    done, begun = len(model.batches), model.begun
    eyes["front"].publish(**frames["front"])
    wait_until(lambda: model.begun > begun)
    for name, eye in eyes.items():
        before = received[name]()
        eye.publish(**frames[name])
        wait_until(lambda name=name, before=before: received[name]() > before)
    for messages in heard.values():
        drain(messages)
    model.gate.set()
    wait_until(lambda: 2 in model.batches[done:])
    placed: dict[str, list[msg.SegmentArray]] = {name: [] for name in heard}

    def both_have_places() -> bool:
        for name, messages in heard.items():
            found = [message for _, message in drain(messages)]
            placed[name] += [m for m in found if all(item.geometry.valid for item in m.segments)]
        return all(placed.values())

    wait_until(both_have_places)
    for name, messages in placed.items():
        for message in messages:
            assert [item.geometry.centroid.z for item in message.segments] == pytest.approx([distances[name]] * 3)
