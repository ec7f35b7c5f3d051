"""A node with several cameras: topics, words, switches and diagnostics of their own, and no trouble shared."""

from __future__ import annotations

import queue
import time
from array import array
from collections.abc import Callable, Iterator

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from ros_harness import (
    BEST_EFFORT,
    FAKE_NODE,
    RELIABLE,
    WORDS,
    Peer,
    Process,
    camera,
    drain,
    flat_image,
    publish_until,
    rgb_message,
    running,
    wait_until,
)
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool

from fcclip_core.errors import SettingsError
from fcclip_ros import msg, srv
from fcclip_ros.declarations import camera_names
from fcclip_ros.node.parameters import PARAMETERS
from fcclip_ros.qos import LATCHED, OUTPUT

Start = Callable[..., Process]
PLAIN = rgb_message(flat_image())


def several(seconds: float, *ros_arguments: str) -> tuple[str, ...]:
    """Command line of a node with the cameras front and left."""
    cameras = ("--ros-args", "-p", "checkpoint:=fake", "-p", "cameras:=['front', 'left']", *WORDS)
    return (FAKE_NODE, str(seconds), "0.0", *cameras, *ros_arguments)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A node with two cameras, whose model takes 2 ms."""
    subscribed = (f"reading images from /{name}/image" for name in ("front", "left"))
    with running(several(0.002), tmp_path_factory.mktemp("cameras") / "node.log", *subscribed) as process:
        yield process


def statuses(messages: queue.Queue) -> dict[str, dict[str, str]]:
    """The newest diagnostics: title -> values, with the level and the message among them."""
    message = (drain(messages) or [messages.get(timeout=10)])[-1][1]
    return {
        status.name: {item.key: item.value for item in status.values} | {"message": status.message}
        for status in message.status
    }


def test_every_camera_has_topics_of_its_own(node: Process, peer: Peer) -> None:
    wait_until(lambda: "/fcclip/left/vocabulary" in {name for name, _ in peer.node.get_topic_names_and_types()})
    topics = {name for name, _ in peer.node.get_topic_names_and_types()}
    for name in ("panoptic", "semantic", "confidence", "segments", "overlay", "vocabulary"):
        assert {f"/fcclip/front/{name}", f"/fcclip/left/{name}"} <= topics
        assert f"/fcclip/{name}" not in topics
    segments = {name: peer.listen(msg.SegmentArray, f"/fcclip/{name}/segments", OUTPUT) for name in ("front", "left")}
    publishers = {name: camera(peer, f"/{name}/image") for name in segments}
    for name, publisher in publishers.items():
        message = rgb_message(flat_image(), f"{name}_frame")
        publish_until(publisher, message, lambda n=name: not segments[n].empty())
    time.sleep(0.2)
    for name, messages in segments.items():
        assert {message.header.frame_id for _, message in drain(messages)} == {f"{name}_frame"}


def test_words_for_one_camera_and_for_all(node: Process, peer: Peer) -> None:
    words = {name: peer.listen(msg.Vocabulary, f"/fcclip/{name}/vocabulary", LATCHED) for name in ("front", "left")}
    names = lambda queue_: [item.synonyms[0] for item in drain(queue_)[-1][1].classes]  # noqa: E731
    wait_until(lambda: not words["front"].empty() and not words["left"].empty())
    assert names(words["front"]) == names(words["left"]) == ["cup", "plate", "floor"]
    door = srv.SetVocabulary.Request(classes=[msg.VocabularyClass(synonyms=["door"])])
    answer = peer.call(srv.SetVocabulary, "/fcclip/left/set_vocabulary", door)
    assert answer.success, answer.message
    wait_until(lambda: not words["left"].empty())
    assert names(words["left"]) == ["door"]
    segments = peer.listen(msg.SegmentArray, "/fcclip/left/segments", OUTPUT)
    publish_until(camera(peer, "/left/image"), PLAIN, lambda: not segments.empty())
    labeled = segments.get()[1]
    assert [item.name for item in labeled.segments] == ["door"]
    assert labeled.vocabulary_version == answer.version
    get = lambda name: peer.call(srv.GetVocabulary, name).vocabulary  # noqa: E731
    assert get("/fcclip/left/get_vocabulary").version == answer.version
    assert get("/fcclip/get_vocabulary") == get("/fcclip/front/get_vocabulary")
    assert words["front"].empty()
    refused = peer.call(srv.SetVocabulary, "/fcclip/left/set_vocabulary", srv.SetVocabulary.Request())
    assert not refused.success and refused.version == answer.version
    floor = srv.SetVocabulary.Request(classes=[msg.VocabularyClass(synonyms=["floor"])])
    assert peer.call(srv.SetVocabulary, "/fcclip/set_vocabulary", floor).success
    wait_until(lambda: not words["left"].empty() and not words["front"].empty())
    assert names(words["front"]) == names(words["left"]) == ["floor"]


def test_one_camera_is_switched_off_and_on(node: Process, peer: Peer) -> None:
    front = peer.listen(msg.SegmentArray, "/fcclip/front/segments", OUTPUT)
    left = peer.listen(msg.SegmentArray, "/fcclip/left/segments", OUTPUT)
    publishers = camera(peer, "/front/image"), camera(peer, "/left/image")
    publish_until(publishers[0], PLAIN, lambda: not front.empty())
    publish_until(publishers[1], PLAIN, lambda: not left.empty())
    assert peer.call(SetBool, "/fcclip/left/enable", SetBool.Request(data=False)).success
    # What was in the network then has arrived when the next one of the other camera has.
    drain(front)
    publish_until(publishers[0], PLAIN, lambda: not front.empty())
    drain(left), drain(front)
    publishers[1].publish(PLAIN)
    publish_until(publishers[0], PLAIN, lambda: not front.empty())
    assert left.empty()
    assert peer.call(SetBool, "/fcclip/enable", SetBool.Request(data=True)).success
    publish_until(publishers[1], PLAIN, lambda: not left.empty())


def test_a_broken_camera_shows_in_its_own_diagnostics_alone(node: Process, peer: Peer) -> None:
    """Encodings that differ and may be wrong: the stream of the other camera goes on."""
    diagnostics = peer.listen(DiagnosticArray, "/diagnostics", 10)
    front = peer.listen(msg.SegmentArray, "/fcclip/front/segments", OUTPUT)
    good, broken = camera(peer, "/front/image"), camera(peer, "/left/image")
    publish_until(good, PLAIN, lambda: not front.empty())

    def said(values: dict[str, dict[str, str]]) -> bool:
        left = values["fcclip: segmentation of left"]
        return "encoding 'nv16' is not supported" in left["last error"]

    drain(front)
    end = time.monotonic() + 20
    while not said(found := statuses(diagnostics)):
        assert time.monotonic() < end
        for _ in range(5):
            broken.publish(Image(encoding="nv16", height=2, width=2))
            good.publish(PLAIN)
            time.sleep(0.05)
    assert set(found) == {"fcclip: segmentation of front", "fcclip: segmentation of left"}
    about = found["fcclip: segmentation of front"]
    assert (about["frames bad"], about["frames failed"], about["last error"]) == ("0", "0", "")
    assert about["message"].endswith(" frames/s of " + about["message"].split()[-1])
    assert not front.empty()
    # An encoding that differs from the other camera's is no fault.
    left = peer.listen(msg.SegmentArray, "/fcclip/left/segments", OUTPUT)
    mosaic = Image(encoding="bayer_rggb8", height=12, width=24, step=24, data=array("B", bytes([90] * 288)))
    publish_until(broken, mosaic, lambda: not left.empty())


def test_a_camera_dies_and_returns_with_another_reliability(node: Process, peer: Peer) -> None:
    front = peer.listen(msg.SegmentArray, "/fcclip/front/segments", OUTPUT)
    left = peer.listen(msg.SegmentArray, "/fcclip/left/segments", OUTPUT)
    steady = camera(peer, "/front/image")
    mortal = camera(peer, "/left/image", RELIABLE)
    publish_until(mortal, PLAIN, lambda: not left.empty())
    peer.node.destroy_publisher(mortal)
    drain(front)
    publish_until(steady, PLAIN, lambda: front.qsize() > 5)
    drain(left)
    returned = camera(peer, "/left/image", BEST_EFFORT)
    publish_until(returned, PLAIN, lambda: not left.empty())
    drain(front)
    publish_until(steady, PLAIN, lambda: not front.empty())


def test_frames_of_both_cameras_share_the_network(start_process: Start, peer: Peer) -> None:
    """The model takes longer than the frames need to come: what came meanwhile goes together, and nobody starves."""
    process = start_process(*several(0.1))
    process.wait_for("reading images from /left/image", 120.0)
    diagnostics = peer.listen(DiagnosticArray, "/diagnostics", 10)
    segments = {name: peer.listen(msg.SegmentArray, f"/fcclip/{name}/segments", OUTPUT) for name in ("front", "left")}
    publishers = {name: camera(peer, f"/{name}/image") for name in segments}
    wait_until(lambda: all(publisher.get_subscription_count() for publisher in publishers.values()))

    def together() -> bool:
        for publisher in publishers.values():
            publisher.publish(PLAIN)
        if min(messages.qsize() for messages in segments.values()) <= 8 or diagnostics.empty():
            return False
        found = statuses(diagnostics).values()
        return all(int(values["frames batched"]) > 0.5 * int(values["frames labeled"]) for values in found)

    publish_until(publishers["front"], PLAIN, together, 40.0, rate=30.0)
    received = [messages.qsize() for messages in segments.values()]
    assert min(received) >= 0.5 * max(received), received


def test_the_cameras_cannot_change(node: Process, peer: Peer) -> None:
    request = SetParameters.Request(parameters=[Parameter("cameras", value=["rear"]).to_parameter_msg()])
    (result,) = peer.call(SetParameters, "/fcclip/set_parameters", request).results
    assert not result.successful
    assert "read-only" in result.reason


def test_one_camera_keeps_its_plain_topics() -> None:
    (declaration,) = (item for item in PARAMETERS if item.name == "cameras")
    assert camera_names(declaration.default) == camera_names([]) == camera_names("") == ("",)
    assert camera_names(["front", " left "]) == camera_names("front; left") == ("front", "left")


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (["front left"], "'front left'; a camera's name becomes part of topics"),
        (["/front"], "letters, digits and underscores"),
        (["2nd"], "not begin with a digit"),
        (["front", "front"], "'front' twice"),
        ([1, 2], "a text or a list of texts"),
    ],
)
def test_names_that_cannot_be_part_of_a_topic_are_refused(names: list, complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint):
        camera_names(names)


def test_a_node_with_such_names_does_not_start(start_process: Start) -> None:
    process = start_process(FAKE_NODE, "0", "0", "--ros-args", "-p", "cameras:=['front left']")
    assert process.wait(60) == 1
    assert "cannot start: cameras has 'front left'" in process.output
