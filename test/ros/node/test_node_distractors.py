"""Distractors on no topic, in no answer: a node of real messages with classes that compete and are never published."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from depth_camera import DepthCamera
from diagnostic_msgs.msg import DiagnosticArray
from ros_harness import (
    Peer,
    Process,
    drain,
    fake_node,
    flat_image,
    rgb_message,
    running,
    set_parameters,
    status_of,
)
from sensor_msgs.msg import Image, PointCloud2

from fcclip_core.geometry.cloud import POINT
from fcclip_ros import msg, srv
from fcclip_ros.qos import LATCHED, OUTPUT

HIDDEN = ("secret lamp", "secret tree")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, vision_msgs: ModuleType) -> Iterator[Process]:
    """A fake model: a band of the image for each class, those that compete among them."""
    arguments = ("-p", "use_depth:=true", "-p", "track:=true", "-p", "publish_overlay_rate:=100.0")
    background = ("-p", "background:='secret lamp; secret tree; cups; red plate'")
    log = tmp_path_factory.mktemp("distractors") / "node.log"
    with running(
        fake_node(0.002, *arguments, *background), log, "reading depth from", "reading images from"
    ) as process:
        yield process


def classes(**distractors: bool) -> list[msg.VocabularyClass]:
    return [msg.VocabularyClass(synonyms=[name], distractor=flag) for name, flag in distractors.items()]


def set_words(peer: Peer, **distractors: bool) -> Any:
    request = srv.SetVocabulary.Request(classes=classes(**distractors))
    answer = peer.call(srv.SetVocabulary, "/fcclip/set_vocabulary", request)
    assert answer.success, answer.message
    return answer


def says_hidden(message: Any) -> bool:
    """Whether the name of a distractor stands anywhere in a message."""
    return any(word in str(message) for word in ("secret", "ghost"))


def test_no_output_and_no_answer_shows_a_distractor(node: Process, peer: Peer, vision_msgs: ModuleType) -> None:
    topics: dict[str, tuple[type, Any]] = {
        "panoptic": (Image, OUTPUT),
        "semantic": (Image, OUTPUT),
        "confidence": (Image, OUTPUT),
        "overlay": (Image, OUTPUT),
        "points": (PointCloud2, OUTPUT),
        "segments": (msg.SegmentArray, OUTPUT),
        "detections": (vision_msgs.Detection2DArray, OUTPUT),
        "detections_3d": (vision_msgs.Detection3DArray, OUTPUT),
        "vocabulary": (msg.Vocabulary, LATCHED),
        "label_info": (vision_msgs.LabelInfo, LATCHED),
    }
    heard = {name: peer.listen(kind, f"/fcclip/{name}", qos) for name, (kind, qos) in topics.items()}
    answer = set_words(peer, cup=False, ghost=True, plate=False)
    ids = dict(zip(("cup", "ghost", "plate"), answer.ids, strict=True))
    assert ids["ghost"] == 0 and ids["cup"] and ids["plate"]

    # Five bands of 12 columns: cup, ghost, plate, secret lamp, secret tree; "cups" and "red plate" fell away.
    eye = DepthCamera(peer)
    frame_topics = [name for name in topics if name not in ("vocabulary", "label_info")]
    got: dict[str, dict[tuple[int, int], Any]] = {name: {} for name in frame_topics}

    def complete() -> list[tuple[int, int]]:
        for name in frame_topics:
            for _, message in drain(heard[name]):
                got[name][(message.header.stamp.sec, message.header.stamp.nanosec)] = message
        newest = {m for m, item in got["segments"].items() if item.vocabulary_version == answer.version}
        return sorted(newest.intersection(*(got[name] for name in frame_topics)))

    stamp = eye.publish_until(complete)[-1]
    frame = {name: got[name][stamp] for name in frame_topics}
    names = [item.name for item in frame["segments"].segments]
    assert names == ["cup", "plate"]
    width, height = frame["panoptic"].width, frame["panoptic"].height
    column = np.minimum(np.arange(width) * 5 // width, 4)
    shown = np.isin(column, (0, 2))
    panoptic = np.frombuffer(frame["panoptic"].data, np.uint16).reshape(height, width)
    semantic = np.frombuffer(frame["semantic"].data, np.uint8).reshape(height, width)
    confidence = np.frombuffer(frame["confidence"].data, np.uint8).reshape(height, width)
    for pixels in (panoptic, semantic, confidence):
        assert (pixels[:, ~shown] == 0).all() and (pixels[:, shown] > 0).all()
    assert set(np.unique(semantic)) == {0, ids["cup"], ids["plate"]}
    points = np.frombuffer(frame["points"].data, POINT).reshape(height, width)
    assert (points["semantic_id"] == semantic).all() and (points["segment_id"][:, ~shown] == 0).all()
    overlay = np.frombuffer(frame["overlay"].data, np.uint8).reshape(height, width, 3)
    middle = [int(np.flatnonzero(column == band).mean()) for band in range(5)]
    plain = overlay[height // 2, middle[1]]
    assert (overlay[height // 2, middle[3]] == plain).all() and (overlay[height // 2, middle[0]] != plain).any()
    assert len(frame["detections"].detections) == 2 and len(frame["detections_3d"].detections) == 2
    latched = {name: drain(heard[name])[-1][1] for name in ("vocabulary", "label_info")}
    assert [item.synonyms[0] for item in latched["vocabulary"].classes] == ["cup", "plate"]
    for message in (*frame.values(), *latched.values()):
        assert not says_hidden(message)

    for words in (["cup"], ["spoon"]):
        found = peer.call(srv.Find, "/fcclip/find", srv.Find.Request(words=words, minimum_score=0.0, limit=0))
        assert found.success and not says_hidden(found)
        assert len(found.found) > len(frame["segments"].segments), "what distractors won can be asked for"
    image = rgb_message(flat_image())
    for request in (
        srv.SegmentImage.Request(image=image),
        srv.SegmentImage.Request(image=image, classes=classes(bowl=False, ghost=True)),
    ):
        answer = peer.call(srv.SegmentImage, "/fcclip/segment_image", request)
        assert answer.success and not says_hidden(answer)
        assert 0 in np.frombuffer(answer.panoptic.data, np.uint16)


def test_get_vocabulary_shows_them_and_the_diagnostics_count_them(node: Process, peer: Peer) -> None:
    set_words(peer, cup=False, ghost=True)
    answer = peer.call(srv.GetVocabulary, "/fcclip/get_vocabulary")
    assert [item.synonyms[0] for item in answer.vocabulary.classes] == ["cup"]
    assert [item.synonyms[0] for item in answer.distractors] == ["ghost", *HIDDEN, "red plate"]
    assert all(item.distractor and item.id == 0 for item in answer.distractors)
    statuses = peer.listen(DiagnosticArray, "/diagnostics", 10)
    values = status_of(statuses, lambda status, values: values.get("distractors") == "4")
    assert values["vocabulary classes"] == "1"


def test_only_some_classes_are_published_and_a_score_may_be_too_low(node: Process, peer: Peer) -> None:
    segments = peer.listen(msg.SegmentArray, "/fcclip/segments", OUTPUT)
    ids = set_words(peer, cup=False, plate=False, tray=False).ids
    eye = DepthCamera(peer)

    def names_are(*names: str) -> Any:
        newest = [message for _, message in drain(segments)][-1:]
        return [m for m in newest if sorted(item.name for item in m.segments) == list(names)]

    eye.publish_until(lambda: names_are("cup", "plate", "tray"))
    assert set_parameters(peer, publish_only=["tray"])[0].successful
    try:
        (message,) = eye.publish_until(lambda: names_are("tray"))
        assert message.segments[0].class_id == ids[2], "ids stay what they were"
        refused = set_parameters(peer, vocabulary=["lamp", "bed"])[0]
        assert not refused.successful and "nothing would be published" in refused.reason
        answer = peer.call(
            srv.SetVocabulary, "/fcclip/set_vocabulary", srv.SetVocabulary.Request(classes=classes(lamp=False))
        )
        assert not answer.success and "nothing would be published" in answer.message
    finally:
        assert set_parameters(peer, publish_only=[""])[0].successful
    eye.publish_until(lambda: names_are("cup", "plate", "tray"))
    # Scores of the fake model: 1/7, 2/7, 3/7 of three classes and what competes with them.
    wanted = [msg.VocabularyClass(synonyms=["cup"]), msg.VocabularyClass(synonyms=["plate"], minimum_score=0.9)]
    assert peer.call(srv.SetVocabulary, "/fcclip/set_vocabulary", srv.SetVocabulary.Request(classes=wanted)).success
    eye.publish_until(lambda: names_are("cup"))


def test_a_background_that_cannot_be_read_is_refused(peer: Peer, start_process: Any) -> None:
    node = start_process(*fake_node(0.0, "-p", "background:=coco"))
    node.wait_for("did you mean coco_panoptic?")
