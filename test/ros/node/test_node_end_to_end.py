"""The node in a process of its own, with the real (tiny) model: every output and every service, seen from outside."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.srv import DescribeParameters
from rclpy.qos import ReliabilityPolicy
from ros_harness import (
    Camera,
    Peer,
    Process,
    drain,
    flat_image,
    publish_until,
    rgb_message,
    running,
    set_parameters,
    state,
    status_of,
    transition,
    wait_until,
)
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool

from fcclip_ros import msg, srv
from fcclip_ros.qos import LATCHED, OUTPUT, image_profile

PHOTO = np.random.default_rng(3).integers(0, 256, (96, 128, 3), np.uint8)
STAMP = Time(sec=1_700_000_000, nanosec=123_456_789)
IMAGES = {"panoptic": "16UC1", "semantic": "mono8", "confidence": "mono8", "overlay": "rgb8"}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """`fcclip` with seeded weights, started as users without a ROS install start it."""
    command = ["-m", "fcclip_ros.perception", "--ros-args", "-p", "checkpoint:=recipe:tiny"]
    # Seeded masks overlap at random; with the published threshold hardly one of them stays.
    settings = ["-p", "shorter_side:=96", "-p", "overlap_threshold:=0.0"]
    words = ["-p", "vocabulary:=['cup, mug', 'floor', 'wall']", "-p", "stuff:=['floor', 'wall']"]
    log = tmp_path_factory.mktemp("node") / "node.log"
    with running([*command, *settings, *words], log, "reading images from") as process:
        yield process
        assert process.end(signal.SIGINT) == 0


def listen_to_everything(peer: Peer) -> SimpleNamespace:
    heard = {name: peer.listen(Image, f"/fcclip/{name}", OUTPUT) for name in IMAGES}
    heard["segments"] = peer.listen(msg.SegmentArray, "/fcclip/segments", OUTPUT)
    heard["vocabulary"] = peer.listen(msg.Vocabulary, "/fcclip/vocabulary", LATCHED)
    heard["diagnostics"] = peer.listen(DiagnosticArray, "/diagnostics", 10)
    return SimpleNamespace(**heard)


def camera(peer: Peer) -> Any:
    return peer.node.create_publisher(Image, "/image", image_profile(ReliabilityPolicy.RELIABLE))


def pixels(message: Any) -> np.ndarray:
    dtype = np.uint16 if message.encoding in ("16UC1", "mono16") else np.uint8
    return np.frombuffer(message.data, dtype).reshape(message.height, message.width, -1).squeeze()


def test_every_output_of_one_frame_carries_its_header_and_they_agree(node: Process, peer: Peer) -> None:
    heard = listen_to_everything(peer)
    publisher, photo = camera(peer), rgb_message(PHOTO, "camera_optical", STAMP)
    queues = [heard.segments, *(getattr(heard, name) for name in IMAGES)]
    publish_until(publisher, photo, lambda: all(not messages.empty() for messages in queues))
    frame = {name: getattr(heard, name).get()[1] for name in IMAGES}
    segments = heard.segments.get()[1]
    vocabulary = heard.vocabulary.get(timeout=5)[1]
    names = {item.id: item.synonyms[0] for item in vocabulary.classes}

    for name, message in frame.items():
        assert message.header == photo.header, name
        assert (message.height, message.width, message.encoding) == (96, 128, IMAGES[name])
    assert segments.header == photo.header
    assert (segments.height, segments.width, segments.vocabulary_version) == (96, 128, vocabulary.version)
    assert list(names.values()) == ["cup", "floor", "wall"]
    assert [item.is_thing for item in vocabulary.classes] == [True, False, False]

    panoptic, semantic, confidence = (pixels(frame[name]) for name in ("panoptic", "semantic", "confidence"))
    assert len(segments.segments) > 0
    assert set(np.unique(panoptic)) - {0} == {segment.id for segment in segments.segments}
    for segment in segments.segments:
        mask = panoptic == segment.id
        rows, columns = np.nonzero(mask)
        box = segment.box
        assert mask.sum() == segment.area
        assert (box.x_offset, box.x_offset + box.width) == (columns.min(), columns.max() + 1)
        assert (box.y_offset, box.y_offset + box.height) == (rows.min(), rows.max() + 1)
        assert (semantic[mask] == segment.class_id).all()
        assert np.abs(confidence[mask] - 255 * segment.score).max() <= 0.5 + 1e-3
        assert names[segment.class_id] == segment.name
    assert (semantic[panoptic == 0] == 0).all() and (confidence[panoptic == 0] == 0).all()
    assert (pixels(frame["overlay"]) != PHOTO).any()


def test_the_vocabulary_is_changed_read_back_and_refused_by_service(node: Process, peer: Peer) -> None:
    heard = listen_to_everything(peer)
    publisher = camera(peer)
    before = peer.call(srv.GetVocabulary, "/fcclip/get_vocabulary").vocabulary
    request = srv.SetVocabulary.Request(
        classes=[
            msg.VocabularyClass(synonyms=["floor"], is_thing=False),
            msg.VocabularyClass(synonyms=["кружка, чашка"]),
            msg.VocabularyClass(synonyms=["sky"], is_thing=False, id=77),
        ]
    )
    answer = peer.call(srv.SetVocabulary, "/fcclip/set_vocabulary", request)
    assert (answer.success, answer.message, answer.version) == (True, "", before.version + 1)
    ids = list(answer.ids)
    # A name keeps its id, one that asks gets its own, and the others get one that nobody had.
    assert ids[0] == next(item.id for item in before.classes if item.synonyms[0] == "floor")
    assert ids[2] == 77
    assert ids[1] not in {item.id for item in before.classes}

    after = peer.call(srv.GetVocabulary, "/fcclip/get_vocabulary").vocabulary
    assert after.version == answer.version
    assert [list(item.synonyms) for item in after.classes] == [["floor"], ["кружка", "чашка"], ["sky"]]
    wait_until(lambda: any(m.version == answer.version for _, m in list(heard.vocabulary.queue)))
    newest = lambda: any(m.vocabulary_version == answer.version for _, m in list(heard.segments.queue))  # noqa: E731
    publish_until(publisher, rgb_message(PHOTO), newest)
    for _, message in drain(heard.segments):
        if message.vocabulary_version == answer.version:
            assert {segment.class_id for segment in message.segments} <= set(ids)

    for classes, complaint in (
        ([], "the vocabulary is empty"),
        ([msg.VocabularyClass(synonyms=["cup"])] * 2, "both have the name 'cup'"),
        ([msg.VocabularyClass(synonyms=["x" * 10_000])], "has 10000 characters"),
        ([msg.VocabularyClass(synonyms=["plate"], id=77)], "asks for id 77"),
    ):
        answer = peer.call(srv.SetVocabulary, "/fcclip/set_vocabulary", srv.SetVocabulary.Request(classes=classes))
        assert (answer.success, answer.version, list(answer.ids)) == (False, after.version, [])
        assert complaint in answer.message
    values = status_of(heard.diagnostics, lambda s, v: int(v["requests refused"]) >= 4)
    assert "set_vocabulary: request rejected: " in values["last error"]
    assert values["vocabulary version"] == str(after.version)


def test_a_single_image_is_segmented_with_its_own_words(node: Process, peer: Peer) -> None:
    before = peer.call(srv.GetVocabulary, "/fcclip/get_vocabulary").vocabulary
    request = srv.SegmentImage.Request(
        image=rgb_message(PHOTO, "elsewhere", STAMP), classes=[msg.VocabularyClass(synonyms=["bench"])]
    )
    own = peer.call(srv.SegmentImage, "/fcclip/segment_image", request)
    assert own.success and own.message == ""
    assert own.vocabulary.version == own.segments.vocabulary_version == 0
    assert {segment.name for segment in own.segments.segments} <= {"bench"}
    assert own.panoptic.header == own.semantic.header == own.confidence.header == request.image.header
    assert set(np.unique(pixels(own.semantic))) <= {0, own.vocabulary.classes[0].id}

    request.classes = []
    streams = peer.call(srv.SegmentImage, "/fcclip/segment_image", request)
    assert streams.vocabulary == before
    assert peer.call(srv.GetVocabulary, "/fcclip/get_vocabulary").vocabulary == before

    for broken, complaint in (
        (Image(), "encoding '' is not supported"),
        (Image(encoding="rgb8"), "has no pixels"),
        (Image(encoding="rgb8", height=4, width=4, step=3), "step is 3 bytes"),
        (Image(encoding="rgb8", height=4, width=4, step=12), "0 bytes of data"),
    ):
        answer = peer.call(srv.SegmentImage, "/fcclip/segment_image", srv.SegmentImage.Request(image=broken))
        assert not answer.success
        assert complaint in answer.message
    request.classes = [msg.VocabularyClass(synonyms=[" "])]
    assert "class 1: a class name is empty" in peer.call(srv.SegmentImage, "/fcclip/segment_image", request).message


def test_one_pixel_and_wide_images_are_segmented(node: Process, peer: Peer) -> None:
    for size in ((1, 1), (1, 300), (2, 2)):
        request = srv.SegmentImage.Request(image=rgb_message(flat_image(*size)))
        answer = peer.call(srv.SegmentImage, "/fcclip/segment_image", request)
        assert answer.success, answer.message
        assert (answer.panoptic.height, answer.panoptic.width) == size


def test_inference_is_switched_off_and_on(node: Process, peer: Peer) -> None:
    heard = listen_to_everything(peer)
    publisher = camera(peer)
    publish_until(publisher, rgb_message(PHOTO), lambda: not heard.segments.empty())
    assert peer.call(SetBool, "/fcclip/enable", SetBool.Request(data=False)).success
    status_of(heard.diagnostics, lambda s, v: v["enabled"] == "false" and "~/enable" in s.message)
    drain(heard.segments)
    for _ in range(20):
        publisher.publish(rgb_message(PHOTO))
    assert heard.segments.empty()
    assert peer.call(SetBool, "/fcclip/enable", SetBool.Request(data=True)).success
    publish_until(publisher, rgb_message(PHOTO), lambda: not heard.segments.empty())


def test_parameters_change_or_are_refused_with_a_reason(node: Process, peer: Peer) -> None:
    accepted = set_parameters(peer, alpha=0.25, overlap_threshold=0.1, ensemble="arithmetic", publish_overlay_rate=2.0)
    assert all(result.successful for result in accepted), accepted
    refused = set_parameters(
        peer, alpha=1.5, beta="much", max_size=64, checkpoint="x", device="cuda", ensemble="mean", nonsense=1
    )
    complaints = [
        "alpha out of range Min: 0.0, Max: 1.0",
        "type",
        "max_size is 64; it must be between shorter_side",
        "checkpoint cannot change while the node is configured",
        "device cannot change while the node is configured",
        "ensemble is 'mean'; it must be one of geometric",
        "undeclared",
    ]
    for result, complaint in zip(refused, complaints, strict=True):
        assert not result.successful
        assert complaint in result.reason
    described = peer.call(
        DescribeParameters,
        "/fcclip/describe_parameters",
        DescribeParameters.Request(names=["alpha", "image_transport"]),
    ).descriptors
    assert described[0].floating_point_range[0].to_value == 1.0
    assert described[1].additional_constraints == "one of: raw, compressed, ffmpeg"


def test_the_vocabulary_is_changed_by_parameter(node: Process, peer: Peer) -> None:
    version = lambda: peer.call(srv.GetVocabulary, "/fcclip/get_vocabulary").vocabulary  # noqa: E731
    before = version().version
    (accepted,) = set_parameters(peer, vocabulary=["door", "window, pane"])
    assert accepted.successful, accepted.reason
    wait_until(lambda: version().version == before + 1)
    assert [list(item.synonyms) for item in version().classes] == [["door"], ["window", "pane"]]
    for wrong, complaint in (
        ("/nowhere/words.yaml", "cannot read"),
        (["a", "a"], "both have the name"),
        ("", "vocabulary is empty"),
    ):
        (refused,) = set_parameters(peer, vocabulary=wrong)
        assert not refused.successful and complaint in refused.reason
    assert version().version == before + 1


def test_diagnostics_say_everything_once_a_second(node: Process, peer: Peer) -> None:
    heard = listen_to_everything(peer)
    # All the while: some seconds after the last image the status is a warning.
    with Camera(peer, 5.0, PHOTO):
        values = status_of(heard.diagnostics, lambda s, v: int(v["frames labeled"]) > 0 and s.level == b"\0", 20.0)
    assert values["state"] == "active"
    assert values["device"] == "cpu"
    assert "PyTorch" in values["backend"]
    assert values["checkpoint"] == "recipe:tiny"
    assert "/image, reliable, 1 publisher" in values["image input"]
    for stage in ("wait", "convert", "preprocess", "model", "classify", "merge", "publish", "total"):
        assert float(values[f"latency {stage} (ms)"].split()[0]) >= 0, stage
    drain(heard.diagnostics)
    # A busy machine may be late, never early.
    stamps = [heard.diagnostics.get(timeout=10)[1].header.stamp for _ in range(4)]
    assert stamps[3].sec + 1e-9 * stamps[3].nanosec - stamps[0].sec - 1e-9 * stamps[0].nanosec > 1.9


@pytest.mark.slow
def test_services_answer_while_the_real_model_works(node: Process, peer: Peer) -> None:
    assert all(result.successful for result in set_parameters(peer, shorter_side=480))
    segments = peer.listen(msg.SegmentArray, "/fcclip/segments", OUTPUT)
    answered = 0
    with Camera(peer, 30.0, np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)):
        wait_until(lambda: not segments.empty(), 60.0)
        drain(segments)
        while segments.qsize() < 10:
            peer.call(srv.GetVocabulary, "/fcclip/get_vocabulary")
            answered += 1
    assert set_parameters(peer, shorter_side=96)[0].successful
    # Behind the model no more than one would be answered a frame.
    assert answered > 20


def test_lifecycle_by_service(node: Process, peer: Peer) -> None:
    heard = listen_to_everything(peer)
    publisher = camera(peer)
    assert state(peer) == "active"
    assert transition(peer, "deactivate")
    drain(heard.segments)
    for _ in range(20):
        publisher.publish(rgb_message(PHOTO))
    assert heard.segments.empty()
    # The stream is off, a single image still works.
    assert peer.call(
        srv.SegmentImage, "/fcclip/segment_image", srv.SegmentImage.Request(image=rgb_message(PHOTO))
    ).success
    assert transition(peer, "cleanup")
    assert state(peer) == "unconfigured"
    answer = peer.call(srv.SegmentImage, "/fcclip/segment_image", srv.SegmentImage.Request(image=rgb_message(PHOTO)))
    assert "the node is not configured" in answer.message
    assert not transition(peer, "activate")  # Impossible from here; answered, and the node lives on.
    assert transition(peer, "configure")
    assert transition(peer, "activate")
    publish_until(publisher, rgb_message(PHOTO), lambda: not heard.segments.empty())
    assert state(peer) == "active"


def test_embeddings_of_segments_compare_with_those_of_words(node: Process, peer: Peer) -> None:
    """The numbers that a map would keep, taken apart as docs/how-to/mapping.md says."""
    heard, publisher = peer.listen(msg.SegmentArray, "/fcclip/segments", OUTPUT), camera(peer)
    plain = publish_until(publisher, rgb_message(PHOTO), lambda: drain(heard))[-1][1]
    assert all(segment.embedding_type == "" and len(segment.embedding) == 0 for segment in plain.segments)
    rows = {}
    for kind, dtype, width in (("float32", "<f4", 4), ("float16", "<f2", 2)):
        assert all(result.successful for result in set_parameters(peer, publish_embeddings=kind))
        drain(heard)
        found = publish_until(
            publisher,
            rgb_message(PHOTO),
            lambda kind=kind: [m for _, m in drain(heard) if m.segments and m.segments[0].embedding_type == kind],
        )[-1]
        rows[kind] = np.stack([np.frombuffer(bytes(segment.embedding), dtype) for segment in found.segments]).astype(
            "f4"
        )
        assert {len(segment.embedding) for segment in found.segments} == {width * rows[kind].shape[1]}
        np.testing.assert_allclose(np.linalg.norm(rows[kind], axis=1), 1.0, atol=2e-3)
    np.testing.assert_allclose(rows["float16"], rows["float32"], atol=5e-4)
    refused = set_parameters(peer, publish_embeddings="float64")[0]
    assert not refused.successful
    assert 'one of "", float16, float32' in refused.reason
    set_parameters(peer, publish_embeddings="")

    text = peer.call(srv.EmbedText, "/fcclip/embed_text", srv.EmbedText.Request(names=["cup", "mug", "zebra"]))
    assert text.success, text.message
    words = np.array(text.embeddings, np.float32).reshape(3, text.dimension)
    np.testing.assert_allclose(np.linalg.norm(words, axis=1), 1.0, atol=1e-5)
    assert text.dimension == rows["float32"].shape[1]
    assert (np.abs(rows["float32"] @ words.T) <= 1 + 1e-5).all()
    assert 0 < text.logit_scale <= 100.0 + 1e-3


def test_finds_words_in_the_newest_picture(node: Process, peer: Peer) -> None:
    heard, publisher = listen_to_everything(peer), camera(peer)
    publish_until(
        publisher, rgb_message(PHOTO, stamp=STAMP), lambda: not heard.panoptic.empty() and heard.segments.qsize()
    )
    vocabulary = peer.call(srv.GetVocabulary, "/fcclip/get_vocabulary").vocabulary
    known = vocabulary.classes[0].synonyms[0]
    for words in ([known], ["zebra", "striped horse"]):
        request = srv.Find.Request(words=words, distractors=["giraffe"], minimum_score=0.0, limit=0)
        answer = peer.call(srv.Find, "/fcclip/find", request)
        assert answer.success, answer.message
        assert answer.header.stamp == STAMP
        assert len(answer.found) > 0
        scores = [item.score for item in answer.found]
        assert scores == sorted(scores, reverse=True)
        assert answer.best_score == scores[0]
        for item in answer.found:
            box = item.segment.box
            assert (item.mask.height, item.mask.width) == (box.height, box.width)
            assert np.count_nonzero(pixels(item.mask)) == item.segment.area
    assert peer.call(srv.GetVocabulary, "/fcclip/get_vocabulary").vocabulary == vocabulary
