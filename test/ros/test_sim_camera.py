"""The simulated robot's camera: what belongs to a frame agrees, and the same seed gives the same stream."""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped
from rclpy.exceptions import InvalidParameterValueException
from rclpy.parameter import Parameter
from rclpy.qos import ReliabilityPolicy
from ros_harness import ROOT, Peer, Process, Published, drain, set_parameters, wait_until
from sensor_msgs.msg import CameraInfo, Image

import fcclip_ros.msg as msg
from fcclip_core.datasets.drive_recording import Recording
from fcclip_core.errors import SettingsError
from fcclip_core.simulation.bundled_drive import bundled_drive
from fcclip_core.simulation.coco_files import make_folders, save_annotations, save_frame
from fcclip_core.simulation.frames import Frame, TruthSegment
from fcclip_core.simulation.names import train_vocabulary, world_vocabulary
from fcclip_ros import sim_camera as sim_camera_module
from fcclip_ros.conversions.images import to_rgb
from fcclip_ros.qos import LATCHED, OUTPUT, TRANSFORMS, image_profile
from fcclip_ros.sim_camera import SimCamera, pose_message

CAMERA = image_profile(ReliabilityPolicy.RELIABLE)
TOPICS: dict[str, tuple[type, Any]] = {
    "image": (Image, CAMERA),
    "depth": (Image, CAMERA),
    "camera_info": (CameraInfo, CAMERA),
    "pose": (PoseStamped, OUTPUT),
    "truth/panoptic": (Image, OUTPUT),
    "truth/segments": (msg.SegmentArray, OUTPUT),
}


FIRST_FRAMES = """
import hashlib
from fcclip_core.simulation.drive import make_drive
from fcclip_core.simulation.render import Renderer
with Renderer() as renderer:
    for seed in (7000, 7001):
        drive = make_drive(seed)
        for time in (0.0, 0.5):
            frame = renderer.render(drive.scene, drive.camera(time), (64, 48))
            print(hashlib.sha256(frame.image.tobytes()).hexdigest())
"""


@pytest.fixture(scope="module")
def renders() -> list[str]:
    """Digests of two frames of two scenes, from another process: Mesa stays out of this one. Skips without GL."""
    done = subprocess.run([sys.executable, "-c", FIRST_FRAMES], cwd=ROOT, capture_output=True, text=True)
    if "SimulationError" in done.stderr:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def sim_camera(*settings: str) -> tuple[str, ...]:
    given = [argument for setting in settings for argument in ("-p", setting)]
    return ("-m", "fcclip_ros.sim_camera", "--ros-args", *given)


def listen(peer: Peer, namespace: str = "") -> dict[str, queue.Queue]:
    return {name: peer.listen(kind, f"{namespace}/{name}", qos) for name, (kind, qos) in TOPICS.items()}


def by_stamp(messages: queue.Queue) -> dict[tuple[int, int], Any]:
    return {(m.header.stamp.sec, m.header.stamp.nanosec): m for _, m in drain(messages)}


def whole_frames(topics: dict[str, queue.Queue]) -> list[dict[str, Any]]:
    """The frames of which every topic has arrived, in the order of their stamps."""
    arrived = {name: by_stamp(messages) for name, messages in topics.items()}
    stamps = sorted(set.intersection(*(set(found) for found in arrived.values())))
    return [{name: found[stamp] for name, found in arrived.items()} for stamp in stamps]


def pixels(message: Image, dtype: type) -> np.ndarray:
    return np.frombuffer(message.data, dtype).reshape(message.height, message.width)


@pytest.mark.usefixtures("renders")
def test_what_belongs_to_a_frame_has_one_stamp_and_agrees(start_process: Callable[..., Process], peer: Peer) -> None:
    topics = listen(peer)
    node = start_process(*sim_camera("rate:=8.0", "width:=120", "height:=80", "seed:=5", "frame_id:=eye", "wdith:=3"))
    wait_until(lambda: all(messages.qsize() > 8 for messages in topics.values()), 60.0)
    # Late on purpose: it is latched.
    words = peer.listen(msg.Vocabulary, "/truth/vocabulary", LATCHED).get(timeout=10.0)[1]
    results = set_parameters(peer, "/sim_camera", rate=5.0, height=0)
    assert [result.successful for result in results] == [False, False]
    assert "rate cannot change while the camera is driving" in results[0].reason
    assert node.end() == 0
    assert "there is no parameter wdith, its value is ignored; did you mean width?" in node.output

    classes = {item.id: item for item in words.classes}
    assert [item.synonyms[0] for item in words.classes] == list(world_vocabulary().names)
    seen = {item.synonyms[0] for item in words.classes if item.seen == item.SEEN}
    assert seen == set(train_vocabulary().names)

    frames = whole_frames(topics)
    assert len(frames) > 4
    for frame in frames:
        frame_ids = {name: message.header.frame_id for name, message in frame.items()}
        assert frame_ids.pop("pose") == "world"
        assert set(frame_ids.values()) == {"eye"}
        sizes = {(frame[name].width, frame[name].height) for name in TOPICS if name != "pose"}
        assert sizes == {(120, 80)}
        assert [frame[name].encoding for name in ("image", "depth", "truth/panoptic")] == ["rgb8", "32FC1", "16UC1"]
        check_truth(pixels(frame["truth/panoptic"], np.uint16), frame["truth/segments"], classes)
        check_places(frame)
    assert any(segment.is_thing for segment in frames[0]["truth/segments"].segments)
    first, last = (np.array(pixels(frames[index]["depth"], np.float32)) for index in (0, -1))
    assert not np.array_equal(first, last), "the camera stands still"


def check_truth(ids: np.ndarray, message: msg.SegmentArray, classes: dict[int, Any]) -> None:
    assert message.vocabulary_version == 1
    assert [segment.id for segment in message.segments] == [number for number in np.unique(ids) if number]
    for segment in message.segments:
        rows, columns = np.nonzero(ids == segment.id)
        box = segment.box
        assert (segment.area, segment.score) == (len(rows), 1.0)
        assert (box.x_offset, box.y_offset) == (columns.min(), rows.min())
        assert (box.width, box.height) == (np.ptp(columns) + 1, np.ptp(rows) + 1)
        assert (segment.name, segment.is_thing) == (
            classes[segment.class_id].synonyms[0],
            classes[segment.class_id].is_thing,
        )


def check_places(frame: dict[str, Any]) -> None:
    """Depth, intrinsics and pose together put every pixel of a room between its floor and its ceiling."""
    depth, info, pose = pixels(frame["depth"], np.float32), frame["camera_info"], frame["pose"].pose
    rows, columns = np.indices(depth.shape)
    rays = np.linalg.inv(np.reshape(info.k, (3, 3))) @ np.stack([columns, rows, np.ones_like(rows)]).reshape(3, -1)
    x, y, z, w = (getattr(pose.orientation, name) for name in "xyzw")
    up = np.array([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)])
    height = pose.position.z + up @ (rays * depth.ravel())
    assert height.min() > -0.02 and height.max() < 3.02
    assert height.min() < 0.02, "no pixel is on the floor"


def test_the_same_seed_gives_the_same_frames_in_any_process(
    start_process: Callable[..., Process], peer: Peer, renders: list[str]
) -> None:
    """Two nodes play two scenes of two frames, round after round."""
    settings = ("rate:=2.0", "width:=64", "height:=48", "seed:=7", "scenes:=2", "frames_per_scene:=2")
    streams = [peer.listen(Image, f"/{name}/image", CAMERA) for name in "ab"]
    nodes = [start_process(*sim_camera(*settings), "-r", f"__ns:=/{name}") for name in "ab"]
    shown: list[set[str]] = [set(), set()]

    def all_shown() -> bool:
        for digests, images in zip(shown, streams, strict=True):
            digests |= {hashlib.sha256(to_rgb(message).tobytes()).hexdigest() for _, message in drain(images)}
        return all(len(digests) >= 4 for digests in shown)

    wait_until(all_shown, 60.0)
    assert [node.end() for node in nodes] == [0, 0]
    assert shown == [set(renders), set(renders)]


@pytest.mark.usefixtures("renders")
def test_without_loop_the_node_ends_after_its_last_scene(start_process: Callable[..., Process]) -> None:
    node = start_process(
        *sim_camera("rate:=20.0", "width:=32", "height:=24", "scenes:=2", "frames_per_scene:=3", "loop:=false")
    )
    assert node.wait(60.0) == 0
    assert "the drive has ended after 6 frames" in node.output


@pytest.mark.usefixtures("renders")
def test_scenes_lie_apart_each_in_its_place(start_process: Callable[..., Process], peer: Peer) -> None:
    poses = peer.listen(PoseStamped, "pose", OUTPUT)
    node = start_process(*sim_camera("rate:=20.0", "width:=32", "height:=24", "scenes:=2", "frames_per_scene:=2"))
    wait_until(lambda: poses.qsize() >= 8, 60.0)  # two rounds
    assert {round(message.pose.position.x / 30.0) for _, message in drain(poses)} == {0, 1}
    assert node.end() == 0


def record(folder: Path) -> Path:
    """Three frames; number, depth and the ball's place go together."""
    make_folders(folder)
    records = []
    for index in range(3):
        ids = np.full((6, 8), 1, np.int32)
        ids[2:4, index : index + 2] = 2
        frame = Frame(
            image=np.full((6, 8, 3), 40 * index, np.uint8),
            segment_map=ids,
            segments=(TruthSegment(1, "grass", False), TruthSegment(2, "red ball", True)),
            depth=np.full((6, 8), 1.0 + index, np.float32),
            intrinsics=np.array([[7.0, 0, 3.5], [0, 7.0, 2.5], [0, 0, 1]]),
            pose=np.eye(4),
        )
        records.append(save_frame(folder, f"{index}", index + 1, frame))
    save_annotations(folder, records, "a test")
    return folder


def number_of(image: Image) -> int:
    return int(to_rgb(image)[0, 0, 0]) // 40


def test_a_recording_is_played_without_gl(
    start_process: Callable[..., Process], peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "MUJOCO_GL", "glfw")
    topics = listen(peer)
    node = start_process(*sim_camera("rate:=8.0", f"recording:={record(tmp_path)}"))
    wait_until(lambda: all(messages.qsize() > 7 for messages in topics.values()), 60.0)
    assert node.end() == 0
    assert (frames := whole_frames(topics))
    for shown in frames:
        number = number_of(shown["image"])
        assert round(float(pixels(shown["depth"], np.float32)[0, 0])) - 1 == number
        assert pixels(shown["truth/panoptic"], np.uint16)[2].argmax() == number
        assert [segment.name for segment in shown["truth/segments"].segments] == ["grass", "red ball"]


def test_a_recording_is_played_frame_by_frame_and_again_from_the_start(tmp_path: Path) -> None:
    """What is published, since a listener that is late may miss frames."""
    overrides = [Parameter("recording", value=str(record(tmp_path))), Parameter("rate", value=0.1)]
    host = Peer(lambda **options: SimCamera(threading.Event(), parameter_overrides=overrides, **options))
    shown = Published()
    try:
        host.node._image = shown
        for _ in range(7):
            host.node._worker.submit(host.node._publish, []).result(10.0)
        assert host.node.finish()
    finally:
        host.close()
    assert [number_of(message) for message in shown.messages] == [0, 1, 2, 0, 1, 2, 0]


def test_where_nothing_can_be_rendered_the_drive_of_the_package_is_played(
    start_process: Callable[..., Process], peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "MUJOCO_GL", "glfw")
    images = peer.listen(Image, "/image", CAMERA)
    node = start_process(*sim_camera("rate:=20.0", "recording:=auto"))
    recorded = {hashlib.sha256(frame.image.tobytes()).digest() for frame in whole_recording()}
    played = {hashlib.sha256(to_rgb(images.get(timeout=60.0)[1]).tobytes()).digest() for _ in range(3)}
    assert played <= recorded
    assert node.end() == 0
    assert "rendering is not possible, playing the bundled drive: " in node.output
    assert f"driving through the simulated world: recording {bundled_drive()}" in node.output


def whole_recording() -> list[Frame]:
    recording = Recording(bundled_drive())
    return [recording[index] for index in range(len(recording))]


@pytest.mark.usefixtures("renders")
def test_where_the_world_can_be_rendered_it_is(start_process: Callable[..., Process]) -> None:
    node = start_process(
        *sim_camera("rate:=20.0", "width:=32", "height:=24", "frames_per_scene:=2", "loop:=false", "recording:=auto")
    )
    assert node.wait(60.0) == 0
    assert "driving through the simulated world: 32 x 24 at 20.0 Hz" in node.output


@contextlib.contextmanager
def recorded_camera(**options: Any) -> Iterator[Peer]:
    """The node in this process, playing the drive of the package."""
    parameters = [Parameter("recording", value=str(bundled_drive())), Parameter("rate", value=20.0)]
    camera = Peer(lambda **more: SimCamera(threading.Event(), parameter_overrides=parameters, **more, **options))
    try:
        yield camera
    finally:
        camera.node.finish()
        camera.close()


def test_the_pose_is_on_tf_too(peer: Peer, tf2_msgs: ModuleType) -> None:
    arrived: list[tuple[str, Any]] = []
    peer.node.create_subscription(tf2_msgs.TFMessage, "/tf", lambda m: arrived.append(("tf", m)), TRANSFORMS)
    poses = peer.listen(PoseStamped, "/pose", OUTPUT)
    with recorded_camera():
        wait_until(lambda: arrived and poses.qsize() > 3)
        wanted = {(m.header.stamp.sec, m.header.stamp.nanosec): m for _, m in drain(poses)}
        shared = lambda: [m for _, m in arrived if stamp_of(m.transforms[0]) in wanted]  # noqa: E731
        wait_until(shared)
    (transform,) = shared()[0].transforms
    pose = wanted[stamp_of(transform)]
    assert (transform.header.frame_id, transform.child_frame_id) == ("world", "camera_optical_frame")
    assert transform.header == pose.header
    place, moved = pose.pose.position, transform.transform.translation
    assert (moved.x, moved.y, moved.z) == (place.x, place.y, place.z)
    assert transform.transform.rotation == pose.pose.orientation


def stamp_of(message: Any) -> tuple[int, int]:
    return message.header.stamp.sec, message.header.stamp.nanosec


def test_without_tf2_msgs_only_the_pose_is_published(
    peer: Peer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sim_camera_module, "optional_module", lambda name: None)
    poses = peer.listen(PoseStamped, "/pose", OUTPUT)
    with recorded_camera() as camera:
        assert poses.get(timeout=20.0)
        assert "/tf" not in dict(camera.node.get_topic_names_and_types())
    assert "tf2_msgs is not installed: no transform from world on /tf" in capfd.readouterr().err


def test_a_recording_that_is_none_is_explained(start_process: Callable[..., Process], tmp_path: Path) -> None:
    node = start_process(*sim_camera(f"recording:={tmp_path}"))
    assert node.wait(60.0) == 1
    assert "cannot start: " in node.output and "panoptic.json" in node.output
    assert "Traceback" not in node.output


def test_without_gl_the_node_says_what_to_install(
    start_process: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "MUJOCO_GL", "glfw")
    node = start_process(*sim_camera())
    assert node.wait(60.0) == 1
    assert "cannot start: " in node.output
    assert "sudo apt install libegl1" in node.output or "pip install mujoco" in node.output
    assert "Traceback" not in node.output


@pytest.mark.parametrize(
    ("values", "error", "complaint"),
    [
        ({"split": "test"}, SettingsError, "split is 'test'; it must be one of train, all"),
        ({"kind": "corridor"}, SettingsError, "kind is 'corridor'; it must be one of room, table, yard"),
        ({"reliability": "auto"}, SettingsError, "reliability is 'auto'; it must be one of reliable, best_effort"),
        ({"width": 8}, InvalidParameterValueException, "width"),
        ({"seed": -1}, InvalidParameterValueException, "seed"),
    ],
)
def test_bad_parameters_are_refused(values: dict, error: type[Exception], complaint: str) -> None:
    overrides = [Parameter(name, value=value) for name, value in values.items()]
    with pytest.raises(error, match=complaint):
        Peer(lambda **options: SimCamera(threading.Event(), parameter_overrides=overrides, **options))


def test_the_pose_is_the_transform_as_a_quaternion() -> None:
    # The camera looks along the world's x axis: its z is the world's x, its x the world's -y, its y the world's -z.
    pose = np.array([[0, 0, 1, 1], [-1, 0, 0, 2], [0, -1, 0, 3], [0, 0, 0, 1.0]])
    message = pose_message(pose)
    turn = message.orientation
    assert (message.position.x, message.position.y, message.position.z) == (1, 2, 3)
    # REP 103's well-known optical rotation, rpy = (-90, 0, -90) degrees.
    quaternion = np.array([turn.x, turn.y, turn.z, turn.w])
    np.testing.assert_allclose(quaternion * np.sign(turn.w), [-0.5, 0.5, -0.5, 0.5], atol=1e-12)
