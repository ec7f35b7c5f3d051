"""`fcclip view BAG`: what is in a bag is in the recording, at its stamps, with names and colors."""

from __future__ import annotations

import contextlib
import copy
import io
import resource
import sqlite3
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from bag_files import save
from builtin_interfaces.msg import Time
from depth_camera import HEIGHT, MATRIX, WIDTH, depth_message
from fake_segmenter import FakeSegmenter
from packed_depth import packed_depth
from ros_harness import rgb_message
from rosbags.rosbag2 import StoragePlugin
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from fcclip_core.cli import main
from fcclip_core.errors import ImageError
from fcclip_core.geometry.cloud import POINT
from fcclip_core.geometry.transform import RigidTransform
from fcclip_core.settings import InferenceSettings
from fcclip_core.vocabulary.classes import Vocabulary
from fcclip_core.vocabulary.palette import class_color
from fcclip_ros.bags.bag_segmentation import read_messages, topics_in
from fcclip_ros.conversions import messages, messages_3d
from fcclip_ros.conversions.camera_info import camera_from_info, camera_info_message
from fcclip_ros.conversions.frame import FrameDepth, LabeledFrame
from fcclip_ros.conversions.images import to_depth

pytest.importorskip("rerun", reason="rerun-sdk is not installed")
from rrd_files import Recording  # noqa: E402

VOCABULARY = Vocabulary.from_names(["cup", "plate", "floor"], stuff=["floor"])


def stamp_of(number: int) -> Time:
    return Time(sec=100, nanosec=100_000_000 * number)


STAMPS = [100_000_000_000 + 100_000_000 * number for number in range(3)]


def frames(count: int = 3, frame_id: str = "optical", stride: int = 1) -> list[LabeledFrame]:
    """Labeled frames with depth: three upright bands, at other distances in each frame, with a hole."""
    segmenter = FakeSegmenter(InferenceSettings(output_stride=stride))
    snapshot = segmenter.set_vocabulary(VOCABULARY)
    dice, made = np.random.default_rng(3), []
    for number in range(count):
        header = Header(stamp=stamp_of(number), frame_id=frame_id)
        image = dice.integers(1, 256, (HEIGHT, WIDTH, 3), np.uint8)
        meters = np.repeat([[1.0, 2.0, 4.0]], WIDTH // 3, axis=1).repeat(HEIGHT, axis=0) + 0.1 * number
        meters[10:20, 5:10] = 0
        info = camera_info_message(header, WIDTH, HEIGHT, MATRIX)
        camera = camera_from_info(info, rectified=True).resized(WIDTH // stride, HEIGHT // stride)
        depth = FrameDepth(to_depth(depth_message(meters, header)), camera)
        encoded = segmenter.encode(image)
        made.append(LabeledFrame(header, image, segmenter.decode(encoded), snapshot, encoded, 0.0, depth))
    return made


def inputs(frame: LabeledFrame, camera: str = "") -> list[tuple[str, Any]]:
    return [
        (f"{camera}/image", rgb_message(frame.image, frame.header.frame_id, frame.header.stamp)),
        (f"{camera}/depth", depth_message(frame.depth.pixels / 1000, frame.header)),
        (f"{camera}/camera_info", camera_info_message(frame.header, WIDTH, HEIGHT, MATRIX)),
    ]


def labels(frame: LabeledFrame, node: str = "/fcclip") -> list[tuple[str, Any]]:
    """As a node without depth publishes them."""
    result, header = frame.result, frame.header
    return [
        (f"{node}/panoptic", messages.panoptic_message(result, header)),
        (f"{node}/semantic", messages.semantic_message(result, frame.snapshot.class_ids, header)),
        (f"{node}/segments", messages.segments_message(result, header)),
    ]


def labels_with_depth(frame: LabeledFrame) -> list[tuple[str, Any]]:
    *images, (topic, _) = labels(frame)
    segments = messages.segments_message(frame.result, frame.header, "", messages_3d.geometry_messages(frame))
    return [*images, (topic, segments), ("/fcclip/points", messages_3d.points_message(frame))]


def vocabulary(frame: LabeledFrame, node: str = "/fcclip") -> tuple[str, Any]:
    return f"{node}/vocabulary", messages.vocabulary_message(frame.snapshot, frame.header.stamp)


def view(tmp_path: Path, *arguments: object) -> Recording:
    saved = tmp_path / "view.rrd"
    assert main(["view", *map(str, arguments), "--save", str(saved)]) == 0
    return Recording(saved)


def complaint(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["view", *map(str, arguments)]) == 2
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("plugin", list(StoragePlugin))
def test_everything_that_a_node_said_is_shown(tmp_path: Path, plugin: StoragePlugin) -> None:
    run = frames()
    recorded = [vocabulary(run[0])]
    for frame in run:
        recorded += [*inputs(frame), *labels_with_depth(frame)]
    shown = view(tmp_path, save(tmp_path / "run", recorded, plugin))
    below = ("/view", "/view/image", "/view/labels", "/points", "/boxes")
    assert shown.entities() == {"/camera", *(f"/camera{name}" for name in below)}
    assert shown.has_layout
    ids = dict(zip(run[0].snapshot.vocabulary.names, run[0].snapshot.class_ids, strict=True))
    colors = dict(zip(run[0].snapshot.class_ids, run[0].snapshot.colors, strict=True))
    words = shown.words("/camera")
    assert words.pop(0)[0] == "unlabeled"
    assert words == {number: (name, colors[number]) for name, number in ids.items()}

    images, classes = (
        shown.pixels("/camera/view/image", "Image"),
        shown.pixels("/camera/view/labels", "SegmentationImage"),
    )
    clouds, cloud_classes = (
        shown.at_stamps("/camera/points", f"Points3D:{name}") for name in ("positions", "class_ids")
    )
    centers, halves = (shown.at_stamps("/camera/boxes", f"Boxes3D:{name}") for name in ("centers", "half_sizes"))
    names = shown.at_stamps("/camera/boxes", "Boxes3D:labels")
    for found in (images, classes, clouds, centers):
        assert list(found) == STAMPS
    for stamp, frame in zip(STAMPS, run, strict=True):
        assert (images[stamp] == frame.image).all()
        assert (classes[stamp][..., 0] == frame.result.class_map()).all()
        points = np.frombuffer(messages_3d.points_message(frame).data, POINT)
        known = points[np.isfinite(points["z"])]
        assert len(known) == HEIGHT * WIDTH - 50
        assert np.array_equal(clouds[stamp], np.stack([known[axis] for axis in "xyz"], axis=1))
        assert cloud_classes[stamp] == known["semantic_id"].tolist()
        things = [(item, frame.geometry[item.id]) for item in frame.result.segments if item.is_thing]
        assert names[stamp] == ["cup 0.25", "plate 0.50"]
        assert np.allclose(centers[stamp], [place.oriented_center for _, place in things])
        assert np.allclose(halves[stamp], [place.oriented_extents / 2 for _, place in things])
    (matrix,) = shown.at_stamps("/camera/view", "Pinhole:image_from_camera")[STAMPS[0]]
    assert np.allclose(np.reshape(matrix, (3, 3)).T, MATRIX)


def test_what_is_in_another_frame_than_the_image_is_not_shown_as_if_it_were_in_this(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A node with target_frame; the viewer has no transforms."""
    (frame,) = frames(1)
    transform = RigidTransform.from_quaternion((1, 2, 3), (0, 0, 0, 1))
    moved = replace(frame, depth=replace(frame.depth, frame_id="map", transform=transform))
    shown = view(tmp_path, save(tmp_path / "run", [*inputs(frame), *labels_with_depth(moved)]))
    said = " ".join(capsys.readouterr().err.split())
    for what in ("the cloud is", "boxes are"):
        assert f"{what} in the frame 'map', the image in 'optical'; without transforms only" in said
    assert "/camera/points" not in shown.entities()
    assert not any(shown.at_stamps("/camera/boxes", "Boxes3D:labels").values())
    assert list(shown.at_stamps("/camera/view/labels", "SegmentationImage:buffer"))


def test_labels_and_depth_in_different_bags_make_the_same_places(tmp_path: Path) -> None:
    """What a node with depth says itself is what is worked out from labels made without."""
    run = frames()
    whole = save(
        tmp_path / "whole", [message for frame in run for message in (*inputs(frame), *labels_with_depth(frame))]
    )
    camera = save(tmp_path / "camera", [item for frame in run for item in inputs(frame)], period=10**8 // 3)
    labeled = save(tmp_path / "labels", [item for frame in run for item in labels(frame)], period=10**8 // 3)
    expected, found = view(tmp_path, whole), view(tmp_path, labeled, camera)
    assert found.entities() == expected.entities()
    for entity, components in (
        ("/camera/points", ("Points3D:positions", "Points3D:class_ids")),
        ("/camera/boxes", ("Boxes3D:centers", "Boxes3D:half_sizes", "Boxes3D:quaternions", "Boxes3D:labels")),
    ):
        for component in components:
            one, other = (shown.at_stamps(entity, component) for shown in (expected, found))
            assert list(one) == list(other) == STAMPS
            for stamp in STAMPS:
                assert one[stamp] == other[stamp] or np.allclose(one[stamp], other[stamp])


def test_labels_smaller_than_the_image_lie_over_it_and_make_the_same_places(tmp_path: Path) -> None:
    run = frames(stride=2)
    said = save(tmp_path / "said", [item for frame in run for item in (*inputs(frame), *labels_with_depth(frame))])
    alone = save(tmp_path / "alone", [item for frame in run for item in (*inputs(frame), *labels(frame))])
    expected, found = view(tmp_path, said), view(tmp_path, alone)
    for shown in (expected, found):
        classes = shown.pixels("/camera/view/labels", "SegmentationImage")
        for stamp, frame in zip(STAMPS, run, strict=True):
            assert (classes[stamp][..., 0] == frame.result.class_map().repeat(2, axis=0).repeat(2, axis=1)).all()
    for component in ("centers", "half_sizes"):
        one, other = (shown.at_stamps("/camera/boxes", f"Boxes3D:{component}") for shown in (expected, found))
        assert list(one) == list(other) == STAMPS
        assert all(np.allclose(one[stamp], other[stamp]) for stamp in STAMPS)


def test_a_bag_without_definitions_is_read_with_the_installed_ones(tmp_path: Path) -> None:
    """Humble's bags carry none."""
    (frame,) = frames(1)
    bag = save(tmp_path / "run", [vocabulary(frame), *labels_with_depth(frame)], StoragePlugin.SQLITE3)
    with contextlib.closing(sqlite3.connect(next(bag.glob("*.db3")))) as database:
        database.execute("DELETE FROM message_definitions")
        database.commit()
    assert len(view(tmp_path, bag).words("/camera")) == 1 + len(VOCABULARY.names)


def test_places_that_were_said_are_shown_though_depth_has_no_camera(tmp_path: Path) -> None:
    (frame,) = frames(1)
    *said, _ = labels_with_depth(frame)
    shown = view(tmp_path, save(tmp_path / "run", [*inputs(frame)[:2], *said]))
    assert shown.at_stamps("/camera/boxes", "Boxes3D:labels") == {STAMPS[0]: ["cup 0.25", "plate 0.50"]}
    assert "/camera/points" not in shown.entities()


@pytest.mark.parametrize("lag", [1, 12, 30])
def test_nothing_is_forgotten_of_a_recording_however_late_its_labels_come(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lag: int
) -> None:
    """Labels that were recorded so many frames after their depth, as a slow model gives them."""
    run = frames(30)
    recorded = []
    for number in range(len(run) + lag):
        recorded += inputs(run[number]) if number < len(run) else []
        recorded += labels(run[number - lag]) if number >= lag else []
    shown = view(tmp_path, save(tmp_path / "run", recorded))
    assert len(shown.at_stamps("/camera/points", "Points3D:positions")) == 30
    assert "have no depth" not in capsys.readouterr().err


def test_the_nearest_depth_is_taken_whichever_comes_first(tmp_path: Path) -> None:
    (frame,) = frames(1)
    near, far = (depth_message(np.full((HEIGHT, WIDTH), meters), Header(frame_id="optical")) for meters in (1.0, 3.0))
    far.header.stamp, near.header.stamp = (Time(sec=99, nanosec=number) for number in (985_000_000, 995_000_000))
    image, _, info = inputs(frame)
    recorded = [image, info, ("/depth", far), *labels(frame), ("/depth", near)]
    shown = view(tmp_path, save(tmp_path / "run", recorded))
    (points,) = shown.at_stamps("/camera/points", "Points3D:positions").values()
    assert np.allclose(np.asarray(points)[:, 2], 1.0)


def late(message: Any, seconds: float) -> Any:
    moved = stamp_of(0)
    nanoseconds = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec + round(seconds * 1e9)
    moved.sec, moved.nanosec = divmod(nanoseconds, 10**9)
    message.header.stamp = moved
    return message


def without(topic: str) -> Callable[[str, Any], list[tuple[str, Any]]]:
    return lambda name, message: [] if name == topic else [(name, message)]


def moved(seconds: float) -> Callable[[str, Any], list[tuple[str, Any]]]:
    return lambda name, message: [(name, late(message, seconds) if name == "/depth" else message)]


def standing(name: str, message: Any) -> list[tuple[str, Any]]:
    if name == "/depth":
        message.header.stamp = Time()
    return [(name, message)]


def elsewhere(name: str, message: Any) -> list[tuple[str, Any]]:
    if name == "/depth":
        message.header.frame_id = "lidar"
    return [(name, message)]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (moved(-0.033), "0 of 3 frames; the others have no depth: the nearest depth was 33 ms away, more than 20 ms"),
        (standing, "the stamps of depth do not advance, all are 0 s"),
        (elsewhere, "depth is in the frame 'lidar', the image in 'optical' (3 of 3)"),
        (without("/camera_info"), "no valid camera_info was recorded (3 of 3)"),
    ],
)
def test_why_frames_have_no_depth_is_counted_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[..., list], reason: str
) -> None:
    recorded = []
    for frame in frames():
        for name, message in inputs(frame):
            recorded += change(name, copy.deepcopy(message))
        recorded += labels(frame)
    shown = view(tmp_path, save(tmp_path / "run", recorded))
    assert reason in " ".join(capsys.readouterr().err.split())
    # Boxes are those of nothing, instead of those of another frame.
    assert list(shown.at_stamps("/camera/boxes", "Boxes3D:centers").values()) == [[], [], []]


@pytest.mark.parametrize("codec", ["png", "rvl"])
def test_compressed_depth_makes_the_places_of_raw_depth(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], codec: str
) -> None:
    run = frames()
    raw = [item for frame in run for item in (*inputs(frame), *labels(frame))]
    packed = [
        (f"{topic}/compressedDepth", packed_depth(run[number // 6].depth.pixels, "16UC1", codec, message.header))
        if topic == "/depth"
        else (topic, message)
        for number, (topic, message) in enumerate(raw)
    ]
    expected, found = view(tmp_path, save(tmp_path / "raw", raw)), view(tmp_path, save(tmp_path / codec, packed))
    for component in ("Points3D:positions", "Points3D:class_ids"):
        one, other = (shown.at_stamps("/camera/points", component) for shown in (expected, found))
        assert list(one) == list(other) == STAMPS
        assert all(np.array_equal(one[stamp], other[stamp]) for stamp in STAMPS)
    message = packed[1][1]
    message.data = message.data[:-30]
    capsys.readouterr()
    view(tmp_path, save(tmp_path / "damaged", packed))
    assert "computed for 2 of 3 frames" in " ".join(capsys.readouterr().err.split())


def test_depth_is_known_by_its_encoding_whatever_its_topic_is_called(tmp_path: Path) -> None:
    """Names that mislead: a color image of a "depth camera", and depth that does not say so."""
    run, recorded = frames(), []
    for frame in run:
        (_, image), (_, depth), (_, info) = inputs(frame)
        recorded += [("/depth_camera/color", image), ("/depth_camera/range", depth)]
        recorded += [("/depth_camera/camera_info", info)]
        recorded += labels(frame)
    shown = view(tmp_path, save(tmp_path / "run", recorded))
    assert (shown.pixels("/camera/view/image", "Image")[STAMPS[1]] == run[1].image).all()
    assert len(shown.at_stamps("/camera/points", "Points3D:positions")) == 3


def test_a_damaged_message_and_a_missing_part_are_said_and_the_rest_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = frames()
    bag = save(tmp_path / "run", [item for frame in run for item in (*inputs(frame), *labels(frame))])
    (bag / "metadata.yaml").unlink()
    shown = view(tmp_path, bag)
    assert list(shown.at_stamps("/camera/view/labels", "SegmentationImage:buffer")) == STAMPS
    text = " ".join(capsys.readouterr().err.split())
    assert text.count("there is no metadata.yaml, so the recorder was killed") == 1


def test_without_a_vocabulary_the_segments_name_the_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (frame,) = frames(1)
    shown = view(tmp_path, save(tmp_path / "run", labels(frame)))
    assert [shown.words("/camera")[number] for number in frame.snapshot.class_ids] == [
        (name, class_color(name)) for name in VOCABULARY.names
    ]
    assert "no images; add the bag that contains them" in " ".join(capsys.readouterr().err.split())
    # Nothing is known of places: boxes are empty, instead of those of another frame.
    assert shown.at_stamps("/camera/boxes", "Boxes3D:centers") == {STAMPS[0]: []}


def test_each_camera_has_entities_and_words_of_its_own(tmp_path: Path) -> None:
    front, left = frames(2)
    recorded = [vocabulary(front, "/fcclip/front")]
    recorded += [*inputs(front, "/front"), *labels(front, "/fcclip/front")]
    recorded += [*inputs(left, "/left"), *labels(left, "/fcclip/left")]
    bag = save(tmp_path / "run", recorded)
    shown = view(tmp_path, bag)
    assert {entity.split("/")[1] for entity in shown.entities()} == {"front", "left"}
    assert (shown.pixels("/left/view/image", "Image")[STAMPS[1]] == left.image).all()
    assert list(shown.at_stamps("/front/points", "Points3D:positions")) == STAMPS[:1]
    only = view(tmp_path, bag, "--camera", "left")
    assert {entity.split("/")[1] for entity in only.entities()} == {"left"}


def test_compressed_images_stay_as_they_are_and_clouds_may_be_thinned(tmp_path: Path) -> None:
    (frame,) = frames(1)
    file = io.BytesIO()
    PIL.Image.fromarray(frame.image).save(file, "jpeg")
    picture = CompressedImage(header=frame.header, format="jpeg", data=file.getvalue())
    bag = save(tmp_path / "run", [("/cam/image/compressed", picture), *labels_with_depth(frame)])
    shown = view(tmp_path, bag, "--point-step", 2)
    (blob,) = shown.at_stamps("/camera/view/image", "EncodedImage:blob")[STAMPS[0]]
    assert shown.at_stamps("/camera/view/image", "EncodedImage:media_type") == {STAMPS[0]: ["image/jpeg"]}
    assert bytes(blob) == file.getvalue()
    points = np.frombuffer(messages_3d.points_message(frame).data, POINT).reshape(HEIGHT, WIDTH)[::2, ::2]
    assert len(shown.at_stamps("/camera/points", "Points3D:positions")[STAMPS[0]]) == np.isfinite(points["z"]).sum()


def test_what_cannot_be_shown_is_said_and_the_rest_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, other = frames(2)
    cloud = messages_3d.points_message(other)
    cloud.fields = cloud.fields[:3]
    blind = camera_info_message(good.header, WIDTH, HEIGHT, np.zeros((3, 3)))
    recorded = [("/image", Image(encoding="nv16")), *inputs(good)[:1], ("/camera_info", blind)]
    bag = save(tmp_path / "run", [*recorded, *labels_with_depth(good), ("/fcclip/points", cloud)])
    shown = view(tmp_path, bag)
    assert list(shown.at_stamps("/camera/view/image", "Image:buffer")) == STAMPS[:1]
    assert list(shown.at_stamps("/camera/points", "Points3D:positions")) == STAMPS[:1]
    text = " ".join(capsys.readouterr().err.split())
    assert "/image: 1 messages cannot be shown: encoding 'nv16' is not supported" in text
    assert "/camera_info: 1 messages cannot be shown: camera_info has the focal lengths 0 and 0" in text
    assert "/fcclip/points: 1 messages cannot be shown: the cloud has the fields x, y, z; expected x, y, z, rgb" in text


def test_bags_that_show_nothing_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (frame,) = frames(1)
    saved = tmp_path / "view.rrd"
    camera = save(tmp_path / "camera", inputs(frame))
    robot = save(tmp_path / "robot", labels(frame, "/robot/fcclip"))
    broken = save(tmp_path / "broken", [("/fcclip/semantic", Image(encoding="32SC1"))])
    (tmp_path / "no.mcap").write_bytes(b"no bag")
    for bag, expected in (
        (camera, "no labels of /fcclip or another node; topics: /camera_info, /depth, /image; create a bag"),
        (robot, "but there are on /robot/fcclip/segments; select them with --node and --camera"),
        (
            broken,
            "none of 1 messages can be shown; /fcclip/semantic: 1 messages cannot be shown: labels in the encoding",
        ),
        (tmp_path / "no.mcap", "is not a readable ROS 2 bag"),
        (tmp_path / "missing", "is not a readable ROS 2 bag"),
    ):
        assert expected in complaint(capsys, bag, "--save", saved)
        assert not list(tmp_path.glob("*.rrd")) and not list(tmp_path.glob(".*.rrd"))


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_bag_that_was_cut_short_is_shown_as_far_as_it_is_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], share: float
) -> None:
    bag = save(tmp_path / "run", [item for frame in frames() for item in labels_with_depth(frame)])
    (file,) = (path for path in bag.iterdir() if path.name != "metadata.yaml")
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    shown = view(tmp_path, bag)
    assert STAMPS[0] in shown.at_stamps("/camera/view/labels", "SegmentationImage:buffer")
    text = " ".join(capsys.readouterr().err.split())
    assert "run.mcap was not closed by its recorder, or is truncated or damaged" in text and "`mcap recover`" in text
    file.write_bytes(whole[:100])
    assert "there are no labels of /fcclip" in complaint(capsys, bag, "--save", tmp_path / "view.rrd")


@pytest.mark.parametrize("plugin", list(StoragePlugin))
def test_a_damaged_bag_is_read_around_the_damage_or_refused(tmp_path: Path, plugin: StoragePlugin) -> None:
    bag = save(tmp_path / "run", [item for frame in frames() for item in labels_with_depth(frame)], plugin)
    (file,) = (path for path in bag.iterdir() if path.name != "metadata.yaml")
    whole, dice, heard = file.read_bytes(), np.random.default_rng(5), 0
    for _ in range(20):
        damaged, said = bytearray(whole), []
        for place in dice.integers(len(whole), size=40):
            damaged[place] = dice.integers(256)
        file.write_bytes(damaged)
        try:
            found = list(read_messages(bag, topics_in(bag, said.append), said.append))
            heard += bool(said) or any(isinstance(item.message, ImageError) for item in found)
        except ImageError as error:
            assert "is not a readable ROS 2 bag" in str(error)
            heard += 1
    assert heard > 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--point-step", "0"], "--point-step is 0"),
        (["--node", "fcclip"], "not a fully qualified node name"),
        (["--save", "/no/such/folder/view.rrd"], "there is no folder /no/such/folder"),
        (["--connect", "nowhere"], "--connect 'nowhere' is no URL of a viewer"),
        (["--connect", "rerun+http://127.0.0.1:x/proxy"], "is no URL of a viewer"),
        (
            ["--connect", "rerun+http://127.0.0.1:9/proxy"],
            "no viewer listens at --connect rerun+http://127.0.0.1:9/proxy",
        ),
        ([], "there is no display here; write a recording with --save"),
    ],
)
def test_wrong_options(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: Sequence[str],
    expected: str,
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert expected in complaint(capsys, tmp_path, *arguments)


def test_without_rerun_the_command_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)
    assert "pip install rerun-sdk" in complaint(capsys, tmp_path, "--save", tmp_path / "view.rrd")


def test_a_recording_that_the_disk_has_no_room_for_is_not_left_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rerun would say so in its log alone. Room runs out among the messages, and at the end, with the last bytes."""
    bag = save(tmp_path / "run", [item for frame in frames(2) for item in [*inputs(frame), *labels_with_depth(frame)]])
    view(tmp_path, bag)
    (whole,) = tmp_path.glob("*.rrd")
    size = whole.stat().st_size
    whole.unlink()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (size // 2, size - 200):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            said = complaint(capsys, bag, "--save", tmp_path / "full.rrd")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "full.rrd cannot be written: File too large; choose another place" in said
        assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_recording_does_not_replace_its_bag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (frame,) = frames(1)
    bag = save(tmp_path / "run", labels(frame))
    (file,) = bag.glob("*.mcap")
    before = file.read_bytes()
    (tmp_path / "link.rrd").symlink_to(file)
    for target in (file, tmp_path / "link.rrd"):
        assert "would replace an input of this call" in complaint(capsys, bag, "--save", target)
    assert file.read_bytes() == before
