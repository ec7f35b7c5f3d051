"""What a planner asks of a node about pixels: some never labeled, outlines and run lengths, binary masks of classes."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from depth_camera import HEIGHT, WIDTH, DepthCamera, same_stamp, steps
from diagnostic_msgs.msg import DiagnosticArray
from PIL import Image as Picture
from pycocotools import mask as coco_masks
from ros_harness import (
    FAKE_NODE,
    WORDS,
    Peer,
    Process,
    camera,
    drain,
    fake_node,
    flat_image,
    publish_until,
    rgb_message,
    running,
    set_parameters,
    status_of,
    transition,
    wait_until,
)
from sensor_msgs.msg import Image, PointCloud2

from fcclip_core.errors import SettingsError
from fcclip_core.geometry.cloud import POINT
from fcclip_ros import msg, srv
from fcclip_ros.mask_output import mask_topics
from fcclip_ros.qos import OUTPUT

Start = Callable[..., Process]

# The fake model makes three bands of 20 columns each: cup, plate, floor. The arm hides the first and half the second.
ARM = np.zeros((HEIGHT, WIDTH), bool)
ARM[:, :30] = True


def saved(path: Path, mask: np.ndarray) -> str:
    Picture.fromarray(mask.astype(np.uint8)).save(path)
    return str(path)


@pytest.fixture(scope="module")
def arm_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A node with depth that ignores the arm, with a mask of half the images' size."""
    folder = tmp_path_factory.mktemp("arm")
    more = ("-p", "use_depth:=true", "-p", f"ignore_mask:={saved(folder / 'arm.png', ARM[::2, ::2])}")
    more += ("-p", "publish_masks:=['floor', 'cup']", "-p", "track:=true")
    with running(fake_node(0.002, *more), folder / "node.log", "reading depth from", "reading images from") as process:
        yield process


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A node that has masks of three classes, one of which its vocabulary lacks."""
    command = fake_node(0.002, "-p", "publish_masks:=['plate', 'wet floor (2 m)', 'floor']")
    with running(command, tmp_path_factory.mktemp("masks") / "node.log", "reading images from") as process:
        yield process


def pixels_of(message: Image, dtype: Any = np.uint8) -> np.ndarray:
    return np.frombuffer(message.data, dtype).reshape(message.height, message.width)


def test_ignored_pixels_are_in_no_output(arm_node: Process, peer: Peer) -> None:
    assert "50.0 % of the pixels are never labeled" in arm_node.output
    topics = {"panoptic": Image, "semantic": Image, "confidence": Image, "overlay": Image, "points": PointCloud2}
    topics |= {"mask/cup": Image, "mask/floor": Image, "segments": msg.SegmentArray}
    heard = {name: peer.listen(kind, f"/fcclip/{name}", OUTPUT) for name, kind in topics.items()}
    set_parameters(peer, publish_overlay_rate=120.0)
    found = DepthCamera(peer).publish_until(lambda: same_stamp(*heard.values()), metres=steps())
    frame = dict(zip(heard, found, strict=True))
    for name, dtype in (("panoptic", np.uint16), ("semantic", np.uint8), ("confidence", np.uint8)):
        np.testing.assert_array_equal(pixels_of(frame[name], dtype) == 0, ARM, name)
    assert not pixels_of(frame["mask/cup"]).any()
    assert pixels_of(frame["mask/floor"])[:, 40:].all() and not pixels_of(frame["mask/floor"])[:, :40].any()
    overlay = np.frombuffer(frame["overlay"].data, np.uint8).reshape(HEIGHT, WIDTH, 3)
    untouched = (overlay == (90, 80, 70)).all(axis=2)
    assert untouched[:, :20].mean() > 0.2, "as in the image, where no label of another segment lies"
    assert not untouched[:, 31:].any()
    cloud = np.frombuffer(frame["points"].data, POINT).reshape(HEIGHT, WIDTH)
    np.testing.assert_array_equal(np.isnan(cloud["z"]), ARM)
    np.testing.assert_array_equal(cloud["segment_id"] == 0, ARM)
    plate, floor = frame["segments"].segments
    assert (plate.name, plate.area, floor.name, floor.area) == ("plate", 10 * HEIGHT, "floor", 20 * HEIGHT)
    assert (plate.box.x_offset, plate.box.width, plate.box.height) == (30, 10, HEIGHT)
    assert plate.geometry.centroid.x == pytest.approx((34.5 - 29.5) / 50 * 2.0, abs=0.01)


def test_ignored_pixels_are_not_found(arm_node: Process, peer: Peer) -> None:
    segments = peer.listen(msg.SegmentArray, "/fcclip/segments", OUTPUT)
    DepthCamera(peer).publish_until(lambda: not segments.empty(), metres=steps())
    for words in (["plate"], ["something new"]):
        answer = peer.call(srv.Find, "/fcclip/find", srv.Find.Request(words=words, minimum_score=0.0, limit=0))
        assert answer.success, answer.message
        assert answer.found and all(item.segment.box.x_offset >= 30 for item in answer.found)
        assert all(len(item.cloud.data) == 24 * item.segment.area for item in answer.found)


def test_a_single_image_is_not_masked(arm_node: Process, peer: Peer) -> None:
    """It may be another camera's."""
    request = srv.SegmentImage.Request(image=rgb_message(flat_image(HEIGHT, WIDTH)))
    answer = peer.call(srv.SegmentImage, "/fcclip/segment_image", request)
    assert answer.success and pixels_of(answer.panoptic, np.uint16).all()


def test_images_that_the_mask_does_not_fit_are_labeled_and_that_is_said_once(arm_node: Process, peer: Peer) -> None:
    panoptic = peer.listen(Image, "/fcclip/panoptic", OUTPUT)
    diagnostics = peer.listen(DiagnosticArray, "/diagnostics", 10)
    publisher = camera(peer)
    whole = lambda: [m for _, m in drain(panoptic) if m.width == 50 and pixels_of(m, np.uint16).all()]  # noqa: E731
    for _ in range(3):
        publish_until(publisher, rgb_message(flat_image(40, 50)), whole)
    complaint = "has 30 x 20 pixels, the image 50 x 40: another aspect ratio"
    status_of(diagnostics, lambda s, v: complaint in v["last error"], 20.0)
    assert arm_node.output.count("frames are labeled without the parameter ignore_mask") == 1
    masked = lambda: [m for _, m in drain(panoptic) if not pixels_of(m, np.uint16).all()]  # noqa: E731
    publish_until(publisher, rgb_message(flat_image(HEIGHT, WIDTH)), masked)


BAD_MASKS = {
    "no such file": ("/nowhere/arm.png", "", "/nowhere/arm.png cannot be used: there is no such file"),
    "two for one camera": ("['', '/nowhere/arm.png']", "", "ignore_mask has 2 files for 1 cameras"),
    "not the cameras' size": ("ARM", "640x640", "has 60 x 40 pixels, the image 640 x 640: another aspect ratio"),
}


@pytest.mark.parametrize(("value", "size", "complaint"), BAD_MASKS.values(), ids=BAD_MASKS.keys())
def test_a_wrong_mask_keeps_the_node_unconfigured_and_says_why(
    start_process: Start, tmp_path: Path, value: str, size: str, complaint: str
) -> None:
    value = saved(tmp_path / "arm.png", ARM) if value == "ARM" else value
    given = ["-p", f"ignore_mask:={value}", *(["-p", f"camera_size:='{size}'"] if size else [])]
    process = start_process(*fake_node(0.0, *given))
    process.wait_for("cannot configure: ")
    process.wait_for(complaint)
    assert "lifecycle set /fcclip configure" in process.output


def test_each_camera_has_a_mask_of_its_own(start_process: Start, tmp_path: Path, peer: Peer) -> None:
    files = ["", saved(tmp_path / "arm.png", ARM)]
    given = ("--ros-args", "-p", "checkpoint:=fake", "-p", "cameras:=['front', 'left']", *WORDS)
    given += ("-p", f"ignore_mask:={files!r}", "-p", "publish_masks:=['cup']")
    process = start_process(FAKE_NODE, "0.0", "0.0", *given)
    process.wait_for("reading images from /left/image")
    message = rgb_message(flat_image(HEIGHT, WIDTH))
    for name, cup in (("front", True), ("left", False)):
        mask = peer.listen(Image, f"/fcclip/{name}/mask/cup", OUTPUT)
        publish_until(camera(peer, f"/{name}/image"), message, lambda queue=mask: not queue.empty())
        assert pixels_of(mask.get()[1]).any() == cup, name


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
    assert "; it is a synonym of 'carpet', ask for that" in node.output
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
        (["стол", "стул"], "would both be published on mask/class; leave one out"),
        (["pallet, wooden pallet"], "a class goes by its first synonym alone"),
        (["x" * 200], "too long for a topic's name"),
    ],
)
def test_names_that_cannot_have_a_topic_are_refused(names: list[str], complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint):
        mask_topics(names)
