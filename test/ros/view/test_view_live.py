"""`fcclip view` on a running node: it shows what comes, says when nothing does, and ends well."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from depth_camera import DepthCamera
from ros_harness import Peer, Process, drain, fake_node, running, wait_until

from fcclip_ros import msg
from fcclip_ros.conversions.stamps import nanoseconds
from fcclip_ros.qos import OUTPUT

pytest.importorskip("rerun", reason="rerun-sdk is not installed")
from rrd_files import Recording  # noqa: E402

VIEW = ("-m", "fcclip_core.cli", "view")
Start = Callable[..., contextlib.AbstractContextManager[Process]]


@pytest.fixture
def node(tmp_path: Path) -> Start:
    """A node with a fake model and depth, in a process of its own."""
    count = iter(range(9))
    return lambda *options: running(
        fake_node(0.002, "-p", "use_depth:=true", *options), tmp_path / f"node_{next(count)}.log", "loaded"
    )


@pytest.fixture
def looking(tmp_path: Path) -> Iterator[Process]:
    with running((*VIEW, "--save", str(tmp_path / "live.rrd")), tmp_path / "view.log", "Ctrl-C ends") as process:
        yield process


def labeled(peer: Peer, looking: Process, topic: str, camera: DepthCamera, life: int = 1) -> set[int]:
    """Publishes until frames are labeled and seen, for the `life`th time; returns the stamps of ten."""
    segments = peer.listen(msg.SegmentArray, topic, OUTPUT)
    camera.publish_until(lambda: looking.output.count(f"receiving {topic}") == life, 60.0, rate=5.0)
    drain(segments)
    camera.publish_until(lambda: segments.qsize() >= 10, 60.0, rate=10.0)
    return {nanoseconds(message.header.stamp) for _, message in drain(segments)}


def test_frames_words_and_places_are_shown_until_ctrl_c(
    node: Start, looking: Process, peer: Peer, tmp_path: Path
) -> None:
    with node():
        camera = DepthCamera(peer)
        camera.publish_until(lambda: "reading image from /image, reliable" in looking.output, 60.0, rate=5.0)
        stamps = labeled(peer, looking, "/fcclip/segments", camera)
        assert looking.end(signal.SIGINT, timeout=30.0) == 0
    assert [path.name for path in tmp_path.glob("*.rrd")] == ["live.rrd"]
    shown = Recording(tmp_path / "live.rrd")
    below = ("/view", "/view/image", "/view/labels", "/points", "/boxes")
    assert shown.entities() == {"/camera", *(f"/camera{name}" for name in below)}
    assert [name for name, _ in shown.words("/camera").values()] == ["unlabeled", "cup", "plate", "floor"]
    boxes = shown.at_stamps("/camera/boxes", "Boxes3D:labels")
    for entity, component in (
        ("view/image", "Image:buffer"),
        ("view/labels", "SegmentationImage:buffer"),
        ("points", "Points3D:positions"),
        ("boxes", "Boxes3D:labels"),
    ):
        # Of messages in quick succession the newest counts, so that some may be missing.
        assert len(stamps & set(shown.at_stamps(f"/camera/{entity}", component))) >= 5
    assert boxes[max(boxes)] == ["cup 0.25", "plate 0.50", "floor 0.75"]


@pytest.mark.slow
def test_a_node_may_end_and_come_back(node: Start, looking: Process, peer: Peer, tmp_path: Path) -> None:
    camera, lives = DepthCamera(peer), []
    for life in (1, 2):
        with node():
            lives.append(labeled(peer, looking, "/fcclip/segments", camera, life))
            silences = looking.output.count("no messages for 5 s")
        if life == 1:
            wait_until(lambda said=silences: looking.output.count("no messages for 5 s") > said, 30.0)
    assert looking.end(signal.SIGTERM, timeout=30.0) == 0
    shown = set(Recording(tmp_path / "live.rrd").at_stamps("/camera/boxes", "Boxes3D:labels"))
    assert all(stamps & shown for stamps in lives)


@pytest.mark.slow
def test_silence_is_explained(node: Start, looking: Process) -> None:
    looking.wait_for("no messages for 5 s: there are no labels of /fcclip or another node; topics:", 30.0)
    with node():
        # The vocabulary is something, and after it there is silence again.
        looking.wait_for("/fcclip/segments (1 publisher)", 60.0)
        assert "is the node active, and is its camera publishing?" in looking.output


@pytest.mark.slow
def test_several_cameras_of_a_node_in_a_namespace(peer: Peer, node: Start, tmp_path: Path) -> None:
    options = ("-p", "cameras:=[front, left]", "-r", "__ns:=/robot", "-r", "left/image:=/oak/image")
    view = (*VIEW, "--node", "/robot/fcclip", "--image", "/robot/front/image", "--image", "/oak/image")
    stamps = {}
    with node(*options), running((*view, "--save", str(tmp_path / "live.rrd")), tmp_path / "view.log") as process:
        cameras = {"front": DepthCamera(peer, name="/robot/front"), "left": DepthCamera(peer, name="/oak")}
        for name, camera in cameras.items():
            stamps[name] = labeled(peer, process, f"/robot/fcclip/{name}/segments", camera)
        assert process.end(signal.SIGINT, timeout=30.0) == 0
    shown = Recording(tmp_path / "live.rrd")
    assert {entity.split("/")[1] for entity in shown.entities()} == {"front", "left"}
    for name in cameras:
        for entity, component in (("view/image", "Image:buffer"), ("boxes", "Boxes3D:labels")):
            assert stamps[name] & set(shown.at_stamps(f"/{name}/{entity}", component))


def test_a_picture_is_known_by_its_encoding_though_its_topic_is_named_after_depth(
    node: Start, looking: Process, peer: Peer
) -> None:
    topics = [part for name in ("image", "depth", "camera_info") for part in ("-r", f"{name}:=/depth_camera/{name}")]
    with node(*topics):
        camera = DepthCamera(peer, name="/depth_camera")
        camera.publish_until(lambda: "receiving /depth_camera/image" in looking.output, 60.0, rate=5.0)
        assert "receiving /depth_camera/depth" not in looking.output
        assert looking.end(signal.SIGINT, timeout=30.0) == 0
