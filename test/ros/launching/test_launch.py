"""perception.launch.py, launched for real; needs a full ROS 2 (launch, ros2cli) and this package built by colcon."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import PIL.Image
import pytest
from rcl_interfaces.srv import GetParameters
from ros_harness import Peer, Process, flat_image, publish_until, rgb_message, wait_until
from sensor_msgs.msg import CameraInfo, Image

from fcclip_ros.msg import SegmentArray
from fcclip_ros.qos import OUTPUT

# Looked for, not imported: launch takes over Python's logging, and other tests of this process read the log.
if importlib.util.find_spec("launch_ros") is None:
    pytest.skip("launch is not on PyPI; this test needs a full ROS 2", allow_module_level=True)
index = pytest.importorskip("ament_index_python.packages")
try:
    SHARE = Path(index.get_package_share_directory("fcclip_ros"))
except index.PackageNotFoundError:
    pytest.skip("fcclip_ros is not built: run colcon build and source install/setup.bash", allow_module_level=True)

Launch = Callable[..., Process]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """Starts the launch file with arguments; ended by SIGINT, since launch leaves its nodes alone on SIGTERM."""
    launched: list[Process] = []

    def start(**arguments: str) -> Process:
        command = [shutil.which("ros2"), "launch", "fcclip_ros", "perception.launch.py", "checkpoint:=recipe:tiny"]
        command += [f"{name}:={value}" for name, value in arguments.items()]
        launched.append(Process(command, tmp_path / f"launch_{len(launched)}.log"))
        return launched[-1]

    yield start
    for process in launched:
        try:
            process.end(signal.SIGINT)
        finally:
            process.kill()
            print(process.output)


def parameter(peer: Peer, name: str, node: str = "/fcclip") -> object:
    """Asks until the node answers: an answer to a client that the node has not discovered yet is lost."""
    request, end = GetParameters.Request(names=[name]), time.monotonic() + 90.0
    while True:
        with contextlib.suppress(AssertionError):
            (value,) = peer.call(GetParameters, f"{node}/get_parameters", request, timeout=5.0).values
            return value.string_value or list(value.string_array_value) or value.integer_value or value.bool_value
        assert time.monotonic() < end, f"{node} does not answer"


def children_of(process: Process) -> list[int]:
    parent = process.pid
    return [int(child) for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def environment_of_child(process: Process) -> dict[str, str]:
    (child,) = children_of(process)
    entries = Path(f"/proc/{child}/environ").read_text().split("\0")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


def test_a_camera_is_labeled_with_the_words_of_the_command_line(launch: Launch, peer: Peer) -> None:
    process = launch(
        namespace="robot",
        image_topic="/front/image_raw",
        vocabulary="['cup, mug', 'floor']",
        log_level="warn",
    )
    segments = peer.listen(SegmentArray, "/robot/fcclip/segments", OUTPUT)
    camera = peer.node.create_publisher(Image, "/front/image_raw", 1)
    publish_until(camera, rgb_message(flat_image(48, 64)), lambda: not segments.empty(), timeout=90.0)
    assert segments.get()[1].header.frame_id == "camera"
    assert parameter(peer, "vocabulary", "/robot/fcclip") == ["cup, mug", "floor"]
    assert process.end(signal.SIGINT, timeout=30.0) == 0
    assert "process has finished cleanly" in process.output
    assert "[robot.fcclip]: loaded" not in process.output


def test_arguments_left_out_keep_the_values_of_the_parameter_file(launch: Launch, peer: Peer, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("/**:\n  ros__parameters: {checkpoint: unused, vocabulary: warehouse, autostart: false}\n")
    launch(params_file=str(own))
    assert parameter(peer, "vocabulary") == "warehouse"
    assert parameter(peer, "checkpoint") == "recipe:tiny"
    assert parameter(peer, "autostart") is False


def test_compressed_images_come_from_the_topic_beside_the_raw_one(launch: Launch, peer: Peer) -> None:
    launch(image_topic="/front/image_raw", image_transport="compressed")
    wait_until(lambda: peer.node.count_subscribers("/front/image_raw/compressed") == 1, timeout=90.0)
    (endpoint,) = peer.node.get_subscriptions_info_by_topic("/front/image_raw/compressed")
    assert endpoint.topic_type == "sensor_msgs/msg/CompressedImage"
    assert peer.node.count_subscribers("/front/image_raw") == 0


@pytest.mark.parametrize("transport", ["raw", "compressed"])
def test_photographs_take_the_place_of_a_camera(launch: Launch, peer: Peer, tmp_path: Path, transport: str) -> None:
    PIL.Image.new("RGB", (64, 48), "olive").save(tmp_path / "photo.png")
    segments = peer.listen(SegmentArray, "/fcclip/segments", OUTPUT)
    infos = peer.listen(CameraInfo, "/front/camera_info")
    launch(source=str(tmp_path), rate="20.0", image_topic="/front/image_raw", image_transport=transport)
    message = segments.get(timeout=90.0)[1]
    assert (message.width, message.height) == (64, 48)
    assert infos.get(timeout=10.0)[1].width == 64


@pytest.mark.parametrize("gl", ["", "glfw"], ids=["rendered", "recorded"])
def test_a_simulated_camera_takes_the_place_of_a_camera(
    launch: Launch, peer: Peer, monkeypatch: pytest.MonkeyPatch, gl: str
) -> None:
    if gl:
        monkeypatch.setenv("MUJOCO_GL", gl)
    segments = peer.listen(SegmentArray, "/fcclip/segments", OUTPUT)
    process = launch(sim="true", use_depth="true")
    message = segments.get(timeout=90.0)[1]
    assert message.header.frame_id == "camera_optical_frame"
    assert (message.width, message.height) == (320, 240)
    process.wait_for("reading depth from /depth")
    assert ("playing the bundled drive" in process.output) or not gl
    assert process.end(signal.SIGINT, timeout=30.0) == 0


def test_each_of_several_cameras_reads_its_own_topic(launch: Launch, peer: Peer, tmp_path: Path) -> None:
    PIL.Image.new("RGB", (64, 48), "olive").save(tmp_path / "photo.png")
    segments = [peer.listen(SegmentArray, f"/fcclip/{name}/segments", OUTPUT) for name in ("front", "left")]
    launch(cameras="[front, left]", image_topic="[/zed/image, /oak/image_raw]", source=str(tmp_path), rate="5.0")
    for messages in segments:
        assert messages.get(timeout=90.0)[1].width == 64
    assert peer.node.count_publishers("/zed/image") == peer.node.count_publishers("/oak/image_raw") == 1


def test_rviz_shows_the_topics_of_each_camera(launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program in the place of RViz says what it was started with."""
    prefix = tmp_path / "prefix"
    program = prefix / "lib" / "rviz2" / "rviz2"
    index = prefix / "share" / "ament_index" / "resource_index" / "packages" / "rviz2"
    for path in (program, index):
        path.parent.mkdir(parents=True)
    index.touch()
    program.write_text('#!/bin/sh\necho "RVIZ $*"\n')
    program.chmod(0o755)
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{prefix}:{os.environ['AMENT_PREFIX_PATH']}")
    cameras = {"cameras": "[front, left]", "image_topic": "[/zed/image, /oak/image_raw]", "namespace": "robot"}
    process = launch(**cameras, autostart="false", rviz="true", fixed_frame="base_link")
    for name, topic in (("front", "/zed/image"), ("left", "/oak/image_raw")):
        process.wait_for(f"__node:=rviz_{name}", 60.0)
        (line,) = (line for line in process.output.splitlines() if "RVIZ" in line and f"rviz_{name}" in line)
        assert f"-d {SHARE / 'config' / 'fcclip.rviz'} -f base_link " in line
        rules = [f"image:={topic}", "__ns:=/robot"]
        rules += [f"fcclip/{output}:=fcclip/{name}/{output}" for output in ("overlay", "points", "detections_3d")]
        assert all(f" {rule}" in line for rule in rules)


@pytest.mark.parametrize("respawn", [True, False])
def test_a_node_that_ended_is_started_again_on_request(launch: Launch, peer: Peer, respawn: bool) -> None:
    process = launch(autostart="false", respawn=str(respawn).lower(), respawn_delay="0.5")
    parameter(peer, "autostart")
    (first,) = children_of(process)
    os.kill(first, signal.SIGKILL)
    process.wait_for("process has died")
    if respawn:
        wait_until(lambda: children_of(process) not in ([], [first]), timeout=30.0)
    else:
        assert process.wait(30.0) is not None, "nothing is left to launch"


def test_time_and_lifecycle_are_left_to_others_on_request(launch: Launch, peer: Peer) -> None:
    launch(use_sim_time="true", autostart="false")
    assert parameter(peer, "use_sim_time") is True
    assert parameter(peer, "autostart") is False


def test_images_get_room_in_shared_memory(launch: Launch, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTRTPS_DEFAULT_PROFILES_FILE")
    monkeypatch.setenv("FASTDDS_DEFAULT_PROFILES_FILE", "/their/own.xml")
    process = launch(autostart="false")
    parameter(peer, "autostart")
    environment = environment_of_child(process)
    assert environment["FASTRTPS_DEFAULT_PROFILES_FILE"] == str(SHARE / "config" / "fastdds.xml")
    assert environment["FASTDDS_DEFAULT_PROFILES_FILE"] == "/their/own.xml"
    assert (SHARE / "config" / "fastdds.xml").is_file()
