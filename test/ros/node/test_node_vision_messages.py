"""A node with depth where vision_msgs is installed: boxes, boxes in space, names of class ids."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from depth_camera import DepthCamera, same_stamp, steps
from ros_harness import (
    Peer,
    Process,
    camera,
    drain,
    fake_node,
    flat_image,
    publish_until,
    rgb_message,
    running,
    state,
    transition,
    wait_until,
)

from fcclip_ros import msg, srv
from fcclip_ros.qos import LATCHED, OUTPUT


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, vision_msgs: ModuleType) -> Iterator[Process]:
    """A node with a model that takes 2 ms, and depth."""
    log = tmp_path_factory.mktemp("vision") / "node.log"
    with running(
        fake_node(0.002, "-p", "use_depth:=true"), log, "reading depth from", "reading images from"
    ) as process:
        yield process


def set_words(peer: Peer, *words: str) -> list[int]:
    """Gives the node these classes and returns their ids."""
    request = srv.SetVocabulary.Request(classes=[msg.VocabularyClass(synonyms=[word]) for word in words])
    answer = peer.call(srv.SetVocabulary, "/fcclip/set_vocabulary", request)
    assert answer.success, answer.message
    return list(answer.ids)


def names_in(message: Any) -> dict[int, str]:
    names = {item.class_id: item.class_name for item in message.class_map}
    assert len(names) == len(message.class_map), "an id has two names"
    return names


def test_nothing_is_said_of_a_missing_package(node: Process) -> None:
    assert "vision_msgs" not in node.output


def test_detections_and_label_info(node: Process, peer: Peer, vision_msgs: ModuleType) -> None:
    detections = peer.listen(vision_msgs.Detection2DArray, "/fcclip/detections", OUTPUT)
    labels = peer.listen(vision_msgs.LabelInfo, "/fcclip/label_info", LATCHED)
    publisher, image = camera(peer), rgb_message(flat_image(10, 20), "front")
    classes = [msg.VocabularyClass(synonyms=["lamp"]), msg.VocabularyClass(synonyms=["sky"], is_thing=False)]
    answer = peer.call(srv.SetVocabulary, "/fcclip/set_vocabulary", srv.SetVocabulary.Request(classes=classes))
    expected = {0: "unlabeled", answer.ids[0]: "lamp", answer.ids[1]: "sky"}
    wait_until(lambda: any(expected.items() <= names_in(message).items() for _, message in drain(labels)))
    drain(detections)
    publish_until(publisher, image, lambda: not detections.empty())
    message = detections.get()[1]
    (lamp,) = message.detections  # The sky is no thing.
    assert message.header == lamp.header == image.header
    assert (lamp.id, lamp.results[0].hypothesis.class_id) == ("1", str(answer.ids[0]))
    assert (lamp.bbox.center.position.x, lamp.bbox.center.position.y) == (5.0, 5.0)
    assert (lamp.bbox.size_x, lamp.bbox.size_y) == (10.0, 10.0)


def test_detections_3d(node: Process, peer: Peer, vision_msgs: ModuleType) -> None:
    set_words(peer, "cup", "plate", "floor")
    detections = peer.listen(vision_msgs.Detection3DArray, "/fcclip/detections_3d", OUTPUT)
    segments = peer.listen(msg.SegmentArray, "/fcclip/segments", OUTPUT)
    found, places = DepthCamera(peer).publish_until(lambda: same_stamp(detections, segments), meters=steps())
    assert found.header == places.header
    assert [item.id for item in found.detections] == [str(segment.id) for segment in places.segments]
    for item, segment in zip(found.detections, places.segments, strict=True):
        assert item.header == found.header
        assert item.results[0].hypothesis.class_id == str(segment.class_id)
        assert item.results[0].hypothesis.score == pytest.approx(segment.score)
        assert item.results[0].pose.pose.position == segment.geometry.centroid
        assert (item.bbox.center, item.bbox.size) == (
            segment.geometry.oriented_center,
            segment.geometry.oriented_extents,
        )


def test_words_that_are_taken_out_keep_their_names_in_label_info(
    node: Process, peer: Peer, vision_msgs: ModuleType
) -> None:
    """Nav2's layer frees an obstacle at once whose id has no name."""
    labels = peer.listen(vision_msgs.LabelInfo, "/fcclip/label_info", LATCHED)
    words = peer.listen(msg.Vocabulary, "/fcclip/vocabulary", LATCHED)
    (cat, dog) = set_words(peer, "cat", "dog")
    (cable,) = set_words(peer, "cable")
    wanted = {0: "unlabeled", cat: "cat", dog: "dog", cable: "cable"}
    wait_until(lambda: any(wanted.items() <= names_in(message).items() for _, message in drain(labels)))
    in_force = lambda message: [item.synonyms[0] for item in message.classes] == ["cable"]  # noqa: E731
    wait_until(lambda: any(in_force(message) for _, message in drain(words)))


def test_a_node_that_is_configured_anew_names_none_of_its_earlier_ids(
    node: Process, peer: Peer, vision_msgs: ModuleType
) -> None:
    """Ids begin anew, so an earlier one may have another name."""
    set_words(peer, "robot arm", "gripper")
    assert all(transition(peer, label) for label in ("deactivate", "cleanup", "configure", "activate"))
    labels = peer.listen(vision_msgs.LabelInfo, "/fcclip/label_info", LATCHED)
    assert set(names_in(labels.get(timeout=10.0)[1]).values()) == {"unlabeled", "cup", "plate", "floor"}
    assert state(peer) == "active"
