"""A node with a fast fake model: words at random moments, bad frames, reliability, overlays."""

from __future__ import annotations

import random
import time
from array import array
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from fake_segmenter import POISON
from rclpy.qos import ReliabilityPolicy
from ros_harness import (
    BEST_EFFORT,
    RELIABLE,
    Camera,
    Peer,
    Process,
    camera,
    chosen_reliabilities,
    drain,
    fake_node,
    flat_image,
    publish_until,
    rgb_message,
    running,
    set_parameters,
    status_of,
    wait_until,
)
from sensor_msgs.msg import CompressedImage, Image

from fcclip_core.images.encoded_images import is_jpeg
from fcclip_ros import msg, srv
from fcclip_ros.qos import LATCHED, OUTPUT


@pytest.fixture(scope="module")
def quick_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A node with a model that takes 2 ms."""
    log = tmp_path_factory.mktemp("quick") / "node.log"
    with running(fake_node(0.002), log, "reading images from") as process:
        yield process


def test_two_hundred_vocabularies_at_random_moments(quick_node: Process, peer: Peer) -> None:
    """Every frame holds the ids, names and colors of the version that it carries, and of no other."""
    dice = random.Random(11)
    segments = peer.listen(msg.SegmentArray, "/fcclip/segments", OUTPUT)
    semantic = peer.listen(Image, "/fcclip/semantic", OUTPUT)
    announced = peer.listen(msg.Vocabulary, "/fcclip/vocabulary", LATCHED)
    versions: dict[int, dict[int, str]] = {}
    with Camera(peer, 60.0, flat_image()):
        wait_until(lambda: not segments.empty(), 20)
        for _ in range(200):
            names = dice.sample([f"name {number}" for number in range(40)], dice.randint(1, 8))
            request = srv.SetVocabulary.Request(classes=[msg.VocabularyClass(synonyms=[name]) for name in names])
            answer = peer.call(srv.SetVocabulary, "/fcclip/set_vocabulary", request)
            assert answer.success, answer.message
            versions[answer.version] = dict(zip(answer.ids, names, strict=True))
            time.sleep(dice.random() * 0.03)
        time.sleep(0.2)
    assert len(versions) == 200
    for _, message in drain(announced):
        if message.version in versions:
            assert {item.id: item.synonyms[0] for item in message.classes} == versions[message.version]
    labeled = {}
    for _, message in drain(segments):
        if message.vocabulary_version in versions:
            assert {item.class_id: item.name for item in message.segments} == versions[message.vocabulary_version]
            labeled[message.header.stamp.sec, message.header.stamp.nanosec] = message.vocabulary_version
    assert len(set(labeled.values())) > 50
    compared = 0
    for _, message in drain(semantic):
        version = labeled.get((message.header.stamp.sec, message.header.stamp.nanosec))
        if version is not None:
            compared += 1
            dtype = np.uint8 if message.encoding == "mono8" else np.uint16
            assert set(np.unique(np.frombuffer(message.data, dtype)).tolist()) == set(versions[version])
    assert compared > 50


def test_bad_frames_are_counted_named_and_survived(quick_node: Process, peer: Peer) -> None:
    segments = peer.listen(msg.SegmentArray, "/fcclip/segments", OUTPUT)
    diagnostics = peer.listen(DiagnosticArray, "/diagnostics", 10)
    publisher = camera(peer)
    wait_until(lambda: chosen_reliabilities(peer, "/image") == {RELIABLE})
    good = rgb_message(flat_image())
    publish_until(publisher, good, lambda: not segments.empty())
    for bad, kind, complaint in (
        (Image(encoding="nv16", height=2, width=2), "bad", "encoding 'nv16' is not supported"),
        (Image(encoding="rgb8"), "bad", "0 x 0, so it has no pixels"),
        (Image(encoding="rgb8", height=2, width=2, step=5), "bad", "step is 5 bytes"),
        (Image(encoding="rgb8", height=2, width=2, step=6, data=array("B", bytes(11))), "bad", "has 11 bytes of data"),
        (Image(encoding="yuyv", height=2, width=3, step=6, data=array("B", bytes(12))), "bad", "needs an even width"),
        (
            Image(encoding="mono8", height=1, width=400_000, step=400_000, data=array("B", bytes(400_000))),
            "bad",
            "400000 x 1 pixels; a side may have",
        ),
        (rgb_message(flat_image(value=POISON)), "failed", "RuntimeError: CUDA out of memory"),
    ):
        publisher.publish(bad)
        values = status_of(diagnostics, lambda s, v, text=complaint: text in v["last error"])
        assert int(values[f"frames {kind}"]) > 0
        drain(segments)
        publish_until(publisher, good, lambda: not segments.empty())
    assert "frame not labeled: " in quick_node.output
    counted = lambda v: sum(int(v[f"frames {kind}"]) for kind in ("labeled", "left out", "dropped", "bad", "failed"))  # noqa: E731
    status_of(diagnostics, lambda s, v: int(v["frames received"]) == counted(v))


def test_the_limit_of_pixels_is_a_live_parameter_and_holds_for_services(quick_node: Process, peer: Peer) -> None:
    segments = peer.listen(msg.SegmentArray, "/fcclip/segments", OUTPUT)
    diagnostics = peer.listen(DiagnosticArray, "/diagnostics", 10)
    publisher, message = camera(peer), rgb_message(flat_image(12, 24))
    publish_until(publisher, message, lambda: not segments.empty())
    assert set_parameters(peer, max_image_pixels=287)[0].successful
    publish_until(
        publisher, message, lambda: not diagnostics.empty() and "24 x 12 pixels" in str(diagnostics.get()[1].status)
    )
    answer = peer.call(srv.SegmentImage, "/fcclip/segment_image", srv.SegmentImage.Request(image=message))
    assert not answer.success and "raise max_image_pixels" in answer.message
    assert not set_parameters(peer, max_image_pixels=0)[0].successful
    assert set_parameters(peer, max_image_pixels=288)[0].successful
    drain(segments)
    publish_until(publisher, message, lambda: not segments.empty())
    assert peer.call(srv.SegmentImage, "/fcclip/segment_image", srv.SegmentImage.Request(image=message)).success


def test_thermal_images_are_read_once_a_range_is_set(quick_node: Process, peer: Peer) -> None:
    segments = peer.listen(msg.SegmentArray, "/fcclip/segments", OUTPUT)
    diagnostics = peer.listen(DiagnosticArray, "/diagnostics", 10)
    values = np.full((12, 24), 30_000, "<u2")
    message = Image(height=12, width=24, step=48, encoding="16UC1", data=array("B", values.tobytes()))
    publisher = camera(peer)
    wait_until(lambda: chosen_reliabilities(peer, "/image") == {RELIABLE})
    publisher.publish(message)
    status_of(diagnostics, lambda s, v: "set gray16_range if it is a thermal camera's" in v["last error"])
    assert not set_parameters(peer, gray16_range="30000 29000")[0].successful
    try:
        assert set_parameters(peer, gray16_range="29000 31000")[0].successful
        drain(segments)
        publish_until(publisher, message, lambda: not segments.empty())
    finally:
        assert set_parameters(peer, gray16_range="full")[0].successful


def test_frames_beyond_the_rate_are_left_out_while_it_holds(quick_node: Process, peer: Peer) -> None:
    diagnostics = peer.listen(DiagnosticArray, "/diagnostics", 10)

    def counts() -> dict[str, int]:
        drain(diagnostics)
        values = status_of(diagnostics, lambda status, about: True)
        return {name: int(values[f"frames {name}"]) for name in ("labeled", "left out")}

    with Camera(peer, 60.0, flat_image()):
        try:
            assert set_parameters(peer, max_rate=0.5)[0].successful
            before = counts()
            wait_until(lambda: counts()["left out"] > before["left out"] + 60, 20)
            after = counts()
            labeled, left_out = (after[name] - before[name] for name in ("labeled", "left out"))
            assert labeled <= 0.05 * left_out + 1, "one in 120, and the one that was in the model"
        finally:
            assert set_parameters(peer, max_rate=0.0)[0].successful
        wait_until(lambda: counts()["labeled"] > after["labeled"] + 20, 20)
    assert not set_parameters(peer, max_rate=-1.0)[0].successful


@pytest.mark.slow
def test_forty_eight_megapixels_go_through(quick_node: Process, peer: Peer) -> None:
    panoptic = peer.listen(Image, "/fcclip/panoptic", OUTPUT)
    assert set_parameters(peer, max_image_pixels=48_000_000)[0].successful
    message = rgb_message(flat_image(6000, 8000))
    publisher = camera(peer)
    for _ in range(10):
        publisher.publish(message)
        time.sleep(3.0)
        if not panoptic.empty():
            break
    received = panoptic.get(timeout=1)[1]
    assert (received.height, received.width, len(received.data)) == (6000, 8000, 96_000_000)
    answer = peer.call(srv.SegmentImage, "/fcclip/segment_image", srv.SegmentImage.Request(image=message), 60.0)
    assert answer.success, answer.message
    assert (answer.semantic.height, answer.semantic.width) == (6000, 8000)


def test_an_unsubscribed_output_costs_nothing_and_a_late_listener_gets_the_vocabulary(
    quick_node: Process, peer: Peer
) -> None:
    assert peer.listen(msg.Vocabulary, "/fcclip/vocabulary", LATCHED).get(timeout=10)[1].classes
    publisher = camera(peer)
    overlays = peer.listen(Image, "/fcclip/overlay", OUTPUT)
    publish_until(publisher, rgb_message(flat_image()), lambda: not overlays.empty())
    # Five a second at most, though far more frames are labeled.
    drain(overlays)
    segments = peer.listen(msg.SegmentArray, "/fcclip/segments", OUTPUT)
    began = time.monotonic()
    publish_until(publisher, rgb_message(flat_image()), lambda: overlays.qsize() >= 8, rate=50.0)
    assert time.monotonic() - began > 6 / 5.0
    assert segments.qsize() > overlays.qsize()


def test_compressed_outputs_are_those_of_the_raw_ones(quick_node: Process, peer: Peer) -> None:
    topics = ("panoptic", "semantic", "confidence")
    raw = {name: peer.listen(Image, f"/fcclip/{name}", OUTPUT) for name in topics}
    packed = {name: peer.listen(CompressedImage, f"/fcclip/{name}/compressed", OUTPUT) for name in (*topics, "overlay")}
    publish_until(camera(peer), rgb_message(flat_image()), lambda: not any(q.empty() for q in packed.values()))
    # Every frame is the same.
    for name, queue in raw.items():
        labels = cv2.imdecode(np.frombuffer(packed[name].get(timeout=5)[1].data, np.uint8), cv2.IMREAD_UNCHANGED)
        assert labels.max() > 0
        assert labels.tobytes() == bytes(queue.get(timeout=5)[1].data)
    assert is_jpeg(packed["overlay"].get(timeout=5)[1].data)


@pytest.mark.parametrize("reliability", [RELIABLE, BEST_EFFORT], ids=["reliable", "best_effort"])
def test_the_subscription_follows_the_publisher(
    quick_node: Process, peer: Peer, reliability: ReliabilityPolicy
) -> None:
    segments = peer.listen(msg.SegmentArray, "/fcclip/segments", OUTPUT)
    diagnostics = peer.listen(DiagnosticArray, "/diagnostics", 10)
    publisher = camera(peer, reliability=reliability)
    publish_until(publisher, rgb_message(flat_image()), lambda: not segments.empty())
    wanted = f"/image, {reliability.name.lower()}, 1 publisher"
    publish_until(publisher, rgb_message(flat_image()), lambda: not diagnostics.empty())
    status_of(diagnostics, lambda s, v: v["image input"] == wanted, 15.0)


def test_a_best_effort_publisher_that_joins_is_heard_too(quick_node: Process, peer: Peer) -> None:
    segments = peer.listen(msg.SegmentArray, "/fcclip/segments", OUTPUT)
    diagnostics = peer.listen(DiagnosticArray, "/diagnostics", 10)
    first = camera(peer)
    publish_until(first, rgb_message(flat_image(), "first"), lambda: not segments.empty())
    status_of(diagnostics, lambda s, v: "reliable, 1 publisher" in v["image input"], 15.0)
    second = camera(peer, reliability=BEST_EFFORT)
    heard = lambda: any(m.header.frame_id == "second" for _, m in drain(segments))  # noqa: E731
    publish_until(second, rgb_message(flat_image(), "second"), heard)
    status_of(diagnostics, lambda s, v: "best_effort, 2 publishers" in v["image input"], 15.0)


def test_what_is_questionable_in_words_is_answered_and_logged(quick_node: Process, peer: Peer) -> None:
    classes = [msg.VocabularyClass(synonyms=[name]) for name in ("cup", "\u0441up", "floor")]
    answer = peer.call(srv.SetVocabulary, "/fcclip/set_vocabulary", srv.SetVocabulary.Request(classes=classes))
    assert answer.success and "look alike" in answer.message
    quick_node.wait_for("look alike")
    clear = srv.SetVocabulary.Request(classes=classes[:1])
    assert peer.call(srv.SetVocabulary, "/fcclip/set_vocabulary", clear).message == ""
    request = srv.SegmentImage.Request(image=rgb_message(flat_image()), classes=classes)
    alone = peer.call(srv.SegmentImage, "/fcclip/segment_image", request)
    assert alone.success and "look alike" in alone.message
    result = set_parameters(peer, vocabulary=["lamp", "sky"], stuff=["ski"])
    assert all(item.successful for item in result)
    quick_node.wait_for("stuff names 'ski', which is no class of this vocabulary")


def test_a_tag_in_a_vocabulary_file_is_answered(quick_node: Process, peer: Peer, tmp_path: Path) -> None:
    path = tmp_path / "words.yaml"
    path.write_text("classes: [{name: cup, stuff: !!bool x}]")
    (result,) = set_parameters(peer, vocabulary=[str(path)])
    assert not result.successful and "line 1: the tag" in result.reason
