"""Pictures from folders, videos and bags as a camera topic."""

from __future__ import annotations

import math
import threading
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.parameter import Parameter
from rclpy.qos import ReliabilityPolicy
from ros_harness import Peer, Process, Published, drain, fake_node, flat_image, set_parameters, status_of, wait_until
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from fcclip_core.errors import ImageError, SettingsError
from fcclip_ros.conversions.images import to_rgb
from fcclip_ros.image_source import ImageSource, camera_info, jpeg_message
from fcclip_ros.qos import image_profile
from fcclip_ros.sources import fit, move, open_source

RED, GREEN, BLUE = (220, 20, 20), (20, 220, 20), (20, 20, 220)
QOS = image_profile(ReliabilityPolicy.RELIABLE)


def save_photos(folder: Path, *colors: tuple[int, int, int], size: tuple[int, int] = (24, 32)) -> Path:
    folder.mkdir(exist_ok=True)
    for number, color in enumerate(colors):
        PIL.Image.fromarray(flat_image(*size, color)).save(folder / f"{number}.png")
    return folder


def save_video(path: Path, *colors: tuple[int, int, int]) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (32, 24))
    for color in colors:
        writer.write(flat_image(24, 32, color[::-1]))
    writer.release()
    return path


def save_bag(path: Path, plugin: StoragePlugin, topics: tuple[str, ...], *colors: tuple[int, int, int]) -> Path:
    """Raw bgr8 images on every topic, and a last one that is broken."""
    store = get_typestore(Stores.ROS2_JAZZY)
    kinds = {name: store.types[f"{name}"] for name in ("sensor_msgs/msg/Image", "std_msgs/msg/Header")}
    stamp = store.types["builtin_interfaces/msg/Time"](sec=1, nanosec=2)
    header = kinds["std_msgs/msg/Header"](stamp=stamp, frame_id="recorded")
    with Writer(path, version=9, storage_plugin=plugin) as writer:
        for topic in topics:
            connection = writer.add_connection(topic, "sensor_msgs/msg/Image", typestore=store)
            for number, color in enumerate((*colors, None)):
                data = flat_image(24, 32, (color or RED)[::-1]).ravel()
                message = kinds["sensor_msgs/msg/Image"](
                    header=header,
                    height=24,
                    width=32,
                    encoding="bgr8" if color else "nonsense",
                    is_bigendian=0,
                    step=96,
                    data=data,
                )
                writer.write(connection, number, store.serialize_cdr(message, "sensor_msgs/msg/Image"))
    return path


def colors_of(frames: list) -> list:
    named = {"red": RED, "green": GREEN, "blue": BLUE}
    means = [frame.reshape(-1, 3).mean(axis=0) for frame in frames if not isinstance(frame, ImageError)]
    return [min(named, key=lambda name, m=mean: float(np.abs(m - named[name]).sum())) for mean in means]


def test_photographs_come_in_the_order_of_their_names_and_upright(tmp_path: Path) -> None:
    folder = save_photos(tmp_path, RED, GREEN)
    (folder / "1b.jpg").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("not a photograph")
    lying = PIL.Image.fromarray(flat_image(24, 32, BLUE))
    exif = lying.getexif()
    exif[0x0112] = 6  # The camera was turned by a quarter.
    lying.save(folder / "2.jpg", exif=exif)
    frames = list(open_source(str(folder)).frames())
    assert colors_of(frames) == ["red", "green", "blue"]
    assert frames[-1].shape == (32, 24, 3)
    (error,) = (frame for frame in frames if isinstance(frame, ImageError))
    assert "1b.jpg is not a readable image" in str(error)


def test_a_single_photograph_and_a_video(tmp_path: Path) -> None:
    photo = save_photos(tmp_path, GREEN) / "0.png"
    assert colors_of(list(open_source(str(photo)).frames())) == ["green"]
    video = open_source(str(save_video(tmp_path / "clip.avi", RED, GREEN, GREEN, BLUE)))
    for _ in range(2):  # It can be played again.
        assert colors_of(list(video.frames())) == ["red", "green", "green", "blue"]


@pytest.mark.parametrize("plugin", [StoragePlugin.SQLITE3, StoragePlugin.MCAP], ids=["sqlite3", "mcap"])
def test_bags_of_both_kinds(plugin: StoragePlugin, tmp_path: Path) -> None:
    bag = save_bag(tmp_path / "bag", plugin, ("/camera/image",), RED, BLUE)
    frames = list(open_source(str(bag)).frames())
    assert colors_of(frames) == ["red", "blue"]
    assert isinstance(frames[-1], ImageError)


def test_a_bag_with_several_cameras_needs_a_topic(tmp_path: Path) -> None:
    bag = save_bag(tmp_path / "bag", StoragePlugin.MCAP, ("/left", "/right"), GREEN)
    with pytest.raises(ImageError, match=r"has 2 image topics \(/left, /right\); choose one with bag_topic"):
        next(open_source(str(bag)).frames())
    assert colors_of(list(open_source(str(bag), "/right").frames())) == ["green"]
    with pytest.raises(ImageError, match="has no images on /top; its image topics: /left, /right"):
        next(open_source(str(bag), "/top").frames())


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda folder: "", "source is empty; set it to a folder"),
        (lambda folder: folder / "nowhere", "nowhere does not exist; expected"),
        (lambda folder: folder, "has no images"),
        (lambda folder: _write(folder / "clip.mp4", b"no video"), "clip.mp4 cannot be read"),
        (lambda folder: _write(folder / "record.mcap", b"no bag"), "record.mcap is not a readable ROS 2 bag"),
        (lambda folder: _write(folder / "record.db3", b"no bag"), "record.db3 is not a readable ROS 2 bag"),
        (lambda folder: _write(folder / "metadata.yaml", b"no bag").parent, "is not a readable ROS 2 bag"),
        (lambda folder: "173", "webcam 173 delivers no image"),
    ],
)
def test_what_is_no_source_is_named(make: Callable[[Path], Any], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=complaint):
        next(open_source(str(make(tmp_path))).frames())


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_fit_covers_the_frame_and_cuts_both_sides_alike() -> None:
    picture = np.zeros((10, 40, 3), np.uint8)
    picture[:, 20:] = 200
    frame = fit(picture, 20, 20)
    assert frame.shape == (20, 20, 3)
    assert frame[:, :8].max() == 0 and frame[:, 12:].min() == 200
    assert fit(picture, 40, 10) is picture
    for width, height in ((7, 3), (1, 50), (33, 33)):
        assert fit(picture, width, height).shape == (height, width, 3)


def test_motion_stays_inside_the_picture_and_comes_back() -> None:
    rows, columns = np.mgrid[0:60, 0:80]
    picture = np.dstack([rows, columns, np.full_like(rows, 9)]).astype(np.uint8)
    assert move(picture, 0.0, 5) is picture
    views = [move(picture, 0.2, frame).astype(int) for frame in range(120)]
    for view in views:
        # Neighbors in the view are neighbors in the picture, at a scale between 0.8 and 0.9.
        step = (view[59, 79, :2] - view[0, 0, :2]) / (59, 79)
        assert (step > 0.78).all() and (step < 0.93).all()
        assert (view[:, :, 2] == 9).all()
    assert len({view.tobytes() for view in views}) > 100
    assert np.array_equal(move(picture, 0.2, 120), views[0])


def test_camera_info_has_the_angle_of_view() -> None:
    header = Header(frame_id="front")
    info = camera_info(header, 640, 480, 90.0)
    assert (info.width, info.height, info.header, info.distortion_model) == (640, 480, header, "plumb_bob")
    assert info.k == pytest.approx([320, 0, 320, 0, 320, 240, 0, 0, 1])
    assert info.p == pytest.approx([320, 0, 320, 0, 0, 320, 240, 0, 0, 0, 1, 0])
    assert camera_info(header, 100, 50, 60.0).k[0] == pytest.approx(50 / math.tan(math.pi / 6))


def test_the_jpeg_reads_back() -> None:
    message = jpeg_message(flat_image(16, 16, GREEN), 95, Header(frame_id="x"))
    assert isinstance(message.data, array) and message.format == "rgb8; jpeg compressed bgr8"
    assert np.abs(to_rgb(message).astype(int) - GREEN).max() < 8


def image_source(source: Path | str, *parameters: str) -> tuple[str, ...]:
    given = [argument for parameter in (f"source:={source}", *parameters) for argument in ("-p", parameter)]
    return ("-m", "fcclip_ros.image_source", "--ros-args", *given)


def test_the_node_publishes_a_looping_camera_with_camera_info_and_jpegs(
    start_process: Callable[..., Process], peer: Peer, tmp_path: Path
) -> None:
    images = peer.listen(Image, "/image", QOS)
    infos = peer.listen(CameraInfo, "/camera_info", QOS)
    jpegs = peer.listen(CompressedImage, "/image/compressed", QOS)
    folder = save_photos(tmp_path / "photos", RED, GREEN, BLUE)
    node = start_process(
        *image_source(folder, "rate:=40.0", "hold_frames:=3", "compressed:=true", "width:=48", "height:=24"),
        *("-p", "frame_id:=front", "-p", "motion:=0.1", "-p", "horizontal_fov:=90.0", "-p", "wdith:=3"),
    )
    wait_until(lambda: images.qsize() > 5 and not infos.empty() and not jpegs.empty(), 30.0)
    shown = [message for _, message in drain(images)]
    assert set(colors_of([to_rgb(message) for message in shown])) <= {"red", "green", "blue"}
    first = shown[0]
    assert (first.width, first.height, first.encoding, first.header.frame_id) == (48, 24, "rgb8", "front")
    info = infos.get()[1]
    assert (info.header.frame_id, info.width, info.k[0]) == ("front", 48, pytest.approx(24.0))
    assert to_rgb(jpegs.get()[1]).shape == (24, 48, 3)
    assert "there is no parameter wdith, its value is ignored; did you mean width?" in node.output

    results = set_parameters(peer, "/image_source", rate=5.0, source="elsewhere", hold_frames=0)
    assert [result.successful for result in results] == [True, False, False]
    assert "source cannot change while the source is playing" in results[1].reason
    assert node.end() == 0


def test_each_picture_is_held_in_its_turn_round_after_round_at_the_rate(tmp_path: Path) -> None:
    """What is published, since a listener that is late may miss frames."""
    values = {"source": str(save_photos(tmp_path, RED, GREEN, BLUE)), "rate": 0.1, "hold_frames": 3}
    overrides = [Parameter(name, value=value) for name, value in values.items()]
    host = Peer(lambda **options: ImageSource(threading.Event(), parameter_overrides=overrides, **options))
    node, shown, infos = host.node, Published(), Published()
    try:
        assert node._timer.timer_period_ns == 10_000_000_000
        node._image, node._camera_info = shown, infos
        for _ in range(12):
            node._publish()
        assert node.set_parameters([Parameter("rate", value=40.0)])[0].successful
        assert node._timer.timer_period_ns == 25_000_000
    finally:
        host.close()
    colors = colors_of([to_rgb(message) for message in shown.messages[:12]])
    assert colors == ["red"] * 3 + ["green"] * 3 + ["blue"] * 3 + ["red"] * 3
    assert [m.header for m in shown.messages[:12]] == [m.header for m in infos.messages[:12]]


def test_without_loop_the_node_ends_with_its_video(
    start_process: Callable[..., Process], peer: Peer, tmp_path: Path
) -> None:
    images = peer.listen(Image, "/image", QOS)
    video = save_video(tmp_path / "clip.avi", RED, GREEN, BLUE)
    node = start_process(*image_source(video, "loop:=false", "rate:=4.0", "hold_frames:=4"))
    assert node.wait(30.0) == 0
    assert "the source has ended after 12 frames" in node.output
    assert not images.empty()


def test_the_node_says_why_it_cannot_start(start_process: Callable[..., Process]) -> None:
    node = start_process(*image_source("/nowhere"))
    assert node.wait(30.0) == 1
    assert "cannot start: /nowhere does not exist" in node.output
    assert "Traceback" not in node.output


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"width": 100}, "set both width and height, or neither"),
        ({"reliability": "auto"}, "reliability is 'auto'; it must be one of reliable, best_effort"),
        ({}, "source is empty"),
    ],
)
def test_parameters_that_contradict_are_refused(values: dict, complaint: str) -> None:
    overrides = [Parameter(name, value=value) for name, value in values.items()]
    with pytest.raises((ImageError, SettingsError), match=complaint):
        Peer(lambda **options: ImageSource(threading.Event(), parameter_overrides=overrides, **options))


@pytest.mark.slow
def test_the_perception_node_labels_what_it_publishes(
    start_process: Callable[..., Process], peer: Peer, tmp_path: Path
) -> None:
    diagnostics = peer.listen(DiagnosticArray, "/diagnostics", 10)
    start_process(*fake_node(0.01))
    bag = save_bag(tmp_path / "bag", StoragePlugin.MCAP, ("/camera/image",), *(RED, BLUE) * 20)
    start_process(*image_source(bag, "rate:=20.0", "reliability:=best_effort"))
    values = status_of(diagnostics, lambda s, v: int(v["frames labeled"]) > 20, 40.0)
    assert "best_effort, 1 publisher" in values["image input"]
    assert values["frames bad"] == "0"
