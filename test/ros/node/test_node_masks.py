"""Segments as outlines and run lengths, and binary masks of classes, from a running node."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_masks
from ros_harness import (
    Peer,
    Process,
    camera,
    drain,
    fake_node,
    flat_image,
    pixels_of,
    publish_until,
    rgb_message,
    running,
    set_parameters,
    transition,
    wait_until,
)
from sensor_msgs.msg import Image

from fcclip_core.errors import SettingsError
from fcclip_ros import msg, srv
from fcclip_ros.node.mask_output import mask_topics
from fcclip_ros.qos import OUTPUT

# The fake model makes three bands of 20 columns each: cup, plate, floor.
HEIGHT, WIDTH = 40, 60


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A node that has masks of three classes, one of which its vocabulary lacks."""
    command = fake_node(0.002, "-p", "publish_masks:=['plate', 'wet floor (2 m)', 'floor']")
    with running(command, tmp_path_factory.mktemp("masks") / "node.log", "reading images from") as process:
        yield process


def test_contours_come_with_the_segments_while_they_are_asked_for(node: Process, peer: Peer) -> None:
    segments = peer.listen(msg.SegmentArray, "/fcclip/segments", OUTPUT)
    panoptic = peer.listen(Image, "/fcclip/panoptic", OUTPUT)
    publisher = camera(peer)
    # Black pixels have no segment: a hole in the plate, which is in columns 20 to 39.
    pixels = flat_image(HEIGHT, WIDTH)
    pixels[10:20, 25:30] = 0

    def frame(has: Callable[[msg.Segment], bool]) -> list[Any]:
        # Stamps are all the same here.
        newest = lambda heard: [m for _, m in list(heard.queue)][-1:]  # noqa: E731
        ready = lambda: newest(segments) and newest(panoptic) and all(map(has, newest(segments)[0].segments))  # noqa: E731
        publish_until(publisher, rgb_message(pixels), ready)
        return [*newest(segments), *newest(panoptic)]

    plain, _ = frame(lambda item: True)
    assert not any(item.polygons or item.rle for item in plain.segments)
    assert set_parameters(peer, publish_contours="polygons")[0].successful
    found, labels = frame(lambda item: len(item.polygons) > 0 and not item.rle)
    for item in found.segments:
        flat = [np.array(polygon.corners, float).tolist() for polygon in item.polygons]
        decoded = coco_masks.decode(coco_masks.merge(coco_masks.frPyObjects(flat, HEIGHT, WIDTH)))
        np.testing.assert_array_equal(decoded, pixels_of(labels, np.uint16) == item.id)
        assert decoded.sum() == item.area
    assert set_parameters(peer, publish_contours="rle")[0].successful
    found, labels = frame(lambda item: item.rle != "" and not item.polygons)
    for item in found.segments:
        decoded = coco_masks.decode({"size": [found.height, found.width], "counts": item.rle})
        np.testing.assert_array_equal(decoded, pixels_of(labels, np.uint16) == item.id)
    single = srv.SegmentImage.Request(image=rgb_message(pixels))
    answer = peer.call(srv.SegmentImage, "/fcclip/segment_image", single)
    assert [item.rle for item in answer.segments.segments] == [item.rle for item in found.segments]
    refused = set_parameters(peer, publish_contours="outline")[0]
    assert not refused.successful and 'it must be one of "", polygons, rle' in refused.reason
    assert set_parameters(peer, publish_contours="")[0].successful
    frame(lambda item: not item.rle and not item.polygons)


def masks_of(peer: Peer, *names: str) -> dict[str, queue.Queue]:
    return {name: peer.listen(Image, f"/fcclip/mask/{name}", OUTPUT) for name in names}


def test_a_mask_shows_the_pixels_of_its_class_with_the_images_header(node: Process, peer: Peer) -> None:
    heard = masks_of(peer, "plate", "floor")
    message = rgb_message(flat_image(HEIGHT, WIDTH), "front_camera")
    publish_until(camera(peer), message, lambda: all(not queue.empty() for queue in heard.values()))
    for name, columns in (("plate", slice(20, 40)), ("floor", slice(40, 60))):
        found = heard[name].get()[1]
        expected = np.zeros((HEIGHT, WIDTH), np.uint8)
        expected[:, columns] = 255
        np.testing.assert_array_equal(pixels_of(found), expected)
        assert (found.encoding, found.step, found.header) == ("mono8", WIDTH, message.header)


def test_a_class_that_the_vocabulary_lacks_has_empty_masks_and_is_named_once(node: Process, peer: Peer) -> None:
    complaint = "/fcclip/mask/wet_floor_2_m is empty: the vocabulary has no class 'wet floor (2 m)'"
    wait_until(lambda: complaint in node.output)
    heard = masks_of(peer, "wet_floor_2_m")["wet_floor_2_m"]
    message, publisher = rgb_message(flat_image(HEIGHT, WIDTH)), camera(peer)
    publish_until(publisher, message, lambda: not heard.empty())
    assert not pixels_of(heard.get()[1]).any()

    def give(*classes: list[str]) -> None:
        words = [msg.VocabularyClass(synonyms=synonyms) for synonyms in classes]
        assert peer.call(srv.SetVocabulary, "/fcclip/set_vocabulary", srv.SetVocabulary.Request(classes=words)).success

    give(["plate"], ["floor"])
    give(["carpet", "wet floor (2 m)"], ["plate"], ["floor"])
    assert node.output.count(complaint) == 1
    give(["wet floor (2 m)"], ["plate"], ["floor"])
    full = lambda: [m for _, m in drain(heard) if pixels_of(m)[:, :20].all()]  # noqa: E731
    publish_until(publisher, message, full)
    give(["carpet", "wet floor (2 m)"], ["plate"], ["floor"])
    wait_until(lambda: node.output.count(complaint) == 2)
    assert "; it is a synonym of 'carpet', use that" in node.output
    empty = lambda: [m for _, m in drain(heard) if not pixels_of(m).any()]  # noqa: E731
    publish_until(publisher, message, empty)
    give(["cup"], ["plate"], ["floor"])


def test_masks_change_with_a_new_configuration_alone(node: Process, peer: Peer) -> None:
    refused = set_parameters(peer, publish_masks=["cup"])[0]
    assert not refused.successful and "publish_masks cannot change while the node is configured" in refused.reason
    assert transition(peer, "deactivate") and transition(peer, "cleanup")
    both = set_parameters(peer, publish_masks=["wet floor", "wet_floor"])[0]
    assert not both.successful
    assert "'wet floor' and 'wet_floor', which would both be published on mask/wet_floor" in both.reason
    assert set_parameters(peer, publish_masks=["cup"])[0].successful
    try:
        assert transition(peer, "configure") and transition(peer, "activate")
        heard = masks_of(peer, "cup", "plate")
        publish_until(camera(peer), rgb_message(flat_image(HEIGHT, WIDTH)), lambda: not heard["cup"].empty())
        assert pixels_of(heard["cup"].get()[1])[:, :20].all()
        assert heard["plate"].empty()
        assert peer.node.count_publishers("/fcclip/mask/plate") == 0
    finally:
        assert transition(peer, "deactivate") and transition(peer, "cleanup")
        set_parameters(peer, publish_masks=["plate", "wet floor (2 m)", "floor"])
        assert transition(peer, "configure") and transition(peer, "activate")


@pytest.mark.parametrize(
    ("name", "topic"),
    [
        ("cup", "cup"),
        ("wet floor", "wet_floor"),
        ("power cable (red)", "power_cable_red"),
        ("3d printer", "class_3d_printer"),
        ("_private", "private"),
        ("Tür", "T_r"),
        ("стол", "class"),
    ],
)
def test_every_name_has_a_topic_that_ros_takes(peer: Peer, name: str, topic: str) -> None:
    assert mask_topics([name]) == {name: topic}
    publisher = peer.node.create_publisher(Image, f"mask/{topic}", OUTPUT)
    peer.node.destroy_publisher(publisher)


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (["cup", "cup"], "'cup' and 'cup', which would both"),
        (["стол", "стул"], "would both be published on mask/class; remove one"),
        (["pallet, wooden pallet"], "expected the first synonym of a class"),
        (["x" * 200], "too long for a topic name"),
    ],
)
def test_names_that_cannot_have_a_topic_are_refused(names: list[str], complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint):
        mask_topics(names)
