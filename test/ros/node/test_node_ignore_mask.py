"""A node that leaves the robot's own arm unlabeled: every output, several cameras, masks that will not do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from depth_camera import HEIGHT, WIDTH, DepthCamera, same_stamp, steps, valid_segments
from diagnostic_msgs.msg import DiagnosticArray
from PIL import Image as Picture
from ros_harness import (
    FAKE_NODE,
    WORDS,
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
)
from sensor_msgs.msg import Image, PointCloud2

from fcclip_core.geometry.cloud import POINT
from fcclip_ros import msg, srv
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


def test_ignored_pixels_are_in_no_output(arm_node: Process, peer: Peer) -> None:
    assert "50.0 % of the pixels are never labeled" in arm_node.output
    topics = {"panoptic": Image, "semantic": Image, "confidence": Image, "overlay": Image, "points": PointCloud2}
    topics |= {"mask/cup": Image, "mask/floor": Image, "segments": msg.SegmentArray}
    heard = {name: peer.listen(kind, f"/fcclip/{name}", OUTPUT) for name, kind in topics.items()}
    set_parameters(peer, publish_overlay_rate=120.0)
    found = DepthCamera(peer).publish_until(lambda: same_stamp(*heard.values()), meters=steps())
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
    DepthCamera(peer).publish_until(lambda: valid_segments(segments), meters=steps())
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
    whole = lambda w: [m for _, m in drain(panoptic) if m.width == w and pixels_of(m, np.uint16).all()]  # noqa: E731
    complaint = "has 30 x 20 pixels, but the image has 50 x 40, a different aspect ratio"
    warned = lambda: [m for _, m in drain(diagnostics) if complaint in m.status[0].message]  # noqa: E731
    (status,) = publish_until(publisher, rgb_message(flat_image(40, 50)), warned)[-1].status
    assert status.level == status.WARN
    for width in (52, 50):
        publish_until(publisher, rgb_message(flat_image(40, width)), lambda w=width: whole(w))
    assert arm_node.output.count("frames are labeled without the parameter ignore_mask") == 1
    masked = lambda: [m for _, m in drain(panoptic) if not pixels_of(m, np.uint16).all()]  # noqa: E731
    publish_until(publisher, rgb_message(flat_image(HEIGHT, WIDTH)), masked)
    drain(diagnostics)
    well = lambda: [m for _, m in drain(diagnostics) if complaint not in m.status[0].message]  # noqa: E731
    publish_until(publisher, rgb_message(flat_image(HEIGHT, WIDTH)), well)


BAD_MASKS = {
    "no such file": ("/nowhere/arm.png", "", "/nowhere/arm.png cannot be used: there is no such file"),
    "two for one camera": ("['', '/nowhere/arm.png']", "", "ignore_mask has 2 files for 1 cameras"),
    "not the cameras' size": (
        "ARM",
        "640x640",
        "has 60 x 40 pixels, but the image has 640 x 640, a different aspect ratio",
    ),
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
