"""config/fcclip.rviz: it shows what the node publishes, by displays that RViz2 has."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from fake_segmenter import fake_loader
from ros_harness import ROOT, Peer, wait_until

from fcclip_core.geometry.cloud import POINT
from fcclip_ros.node import outputs
from fcclip_ros.node.parameters import PARAMETERS
from fcclip_ros.perception import Perception
from fcclip_ros.sim_camera import PARAMETERS as SIMULATION

LAYOUT = yaml.safe_load((ROOT / "config" / "fcclip.rviz").read_text())
MANAGER = LAYOUT["Visualization Manager"]
DISPLAYS = {display["Name"]: display for display in MANAGER["Displays"]}
SHOWN_TYPES = {
    "rviz_default_plugins/Image": "sensor_msgs/msg/Image",
    "rviz_default_plugins/PointCloud2": "sensor_msgs/msg/PointCloud2",
    "rviz_default_plugins/MarkerArray": "visualization_msgs/msg/MarkerArray",
    "vision_msgs_rviz_plugins/Detection3DArray": "vision_msgs/msg/Detection3DArray",
}
"""Displays, as their plugins' descriptions name them -> the messages that each shows."""

WITHOUT_TOPIC = {"rviz_default_plugins/Axes", "rviz_default_plugins/TF"}


class ListingNode:
    """Writes down what publishers are made: name -> (type, quality of service)."""

    def __init__(self) -> None:
        self.made: dict[str, tuple[type, Any]] = {}

    def create_publisher(self, kind: type, name: str, profile: Any) -> None:
        self.made[name] = (kind, profile)

    create_lifecycle_publisher = create_publisher


def named(kind: type) -> str:
    return f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[str, Any]]:
    """Relative topic -> type and profile, of all that a node publishes for its camera, with every package there."""
    names = ("LabelInfo", "Detection2DArray", "Detection3DArray", "MarkerArray")

    def module(package: str) -> SimpleNamespace:
        return SimpleNamespace(**{name: type(name, (), {"__module__": package}) for name in names})

    monkeypatch.setattr(outputs, "optional_module", module)
    node = ListingNode()
    outputs.Outputs(node, "~/", SimpleNamespace())
    return {name.replace("~", "fcclip"): (named(kind), profile) for name, (kind, profile) in node.made.items()}


def test_every_display_is_one_that_rviz_has() -> None:
    for display in DISPLAYS.values():
        assert display["Class"] in (SHOWN_TYPES if "Topic" in display else WITHOUT_TOPIC)


def test_outputs_are_those_of_the_node(published: dict[str, tuple[str, Any]]) -> None:
    shown = {name: display for name, display in DISPLAYS.items() if "Topic" in display and name != "Camera"}
    for display in shown.values():
        topic = display["Topic"]
        kind, profile = published[topic["Value"]]
        assert SHOWN_TYPES[display["Class"]] == kind
        assert topic["Reliability Policy"].replace(" ", "_").upper() == profile.reliability.name
        assert topic["Durability Policy"].upper() == profile.durability.name
    topics = {display["Topic"]["Value"] for display in shown.values()}
    assert topics == {"fcclip/overlay", "fcclip/points", "fcclip/markers", "fcclip/detections_3d"}


def test_boxes_are_drawn_once_and_by_what_every_rviz_has() -> None:
    shown = {name for name, display in DISPLAYS.items() if "Topic" in display and display["Enabled"]}
    assert "Boxes with names" in shown
    assert all(DISPLAYS[name]["Class"].startswith("rviz_default_plugins/") for name in shown)


def test_the_camera_is_the_nodes() -> None:
    peer = Peer(lambda **options: Perception(fake_loader(), **options))
    try:
        (camera,) = peer.node._cameras
        camera.input.start("raw", "best_effort")
        wait_until(lambda: camera.input.describe() != "not subscribed")
        assert camera.input.describe().startswith(f"/{DISPLAYS['Camera']['Topic']['Value']}, ")
        camera.input.stop()
    finally:
        peer.close()
    # A best-effort subscription gets the images of every camera.
    assert DISPLAYS["Camera"]["Topic"]["Reliability Policy"] == "Best Effort"


def test_classes_are_told_apart_by_a_field_of_the_cloud() -> None:
    cloud = DISPLAYS["Points by class"]
    assert (cloud["Position Transformer"], cloud["Color Transformer"]) == ("XYZ", "Intensity")
    assert cloud["Channel Name"] in (POINT.names or ())
    assert cloud["Use rainbow"] is True
    assert DISPLAYS["Points as the camera sees them"]["Color Transformer"] == "RGB8"


def test_the_view_is_upright_and_looks_ahead() -> None:
    """RViz's orbit has z up; an optical frame's up is -y, and what there is to see lies along +z."""
    view = MANAGER["Views"]["Current"]
    yaw, pitch, distance = view["Yaw"], view["Pitch"], view["Distance"]
    eye = [view["Focal Point"][axis] for axis in "XYZ"]
    offsets = (math.cos(yaw) * math.cos(pitch), math.sin(yaw) * math.cos(pitch), math.sin(pitch))
    x, y, z = (start + distance * offset for start, offset in zip(eye, offsets, strict=True))
    assert abs(x) < 0.01
    assert y < -0.5
    assert z < -0.5


def test_the_fixed_frame_is_the_simulated_cameras() -> None:
    (frame,) = (item.default for item in SIMULATION if item.name == "frame_id")
    assert MANAGER["Global Options"]["Fixed Frame"] == frame


def test_docks_of_the_window_are_those_of_panels_and_images() -> None:
    """The window's state names its docks; a picture that is not in it would float."""
    state = bytes.fromhex(LAYOUT["Window Geometry"]["QMainWindow State"])
    docked = {panel["Name"] for panel in LAYOUT["Panels"]}
    docked |= {name for name, display in DISPLAYS.items() if display["Class"] == "rviz_default_plugins/Image"}
    for name in docked:
        assert name.encode("utf-16-be") in state
    # RViz leaves these two uninitialized where they are missing.
    assert LAYOUT["Window Geometry"]["Hide Left Dock"] is LAYOUT["Window Geometry"]["Hide Right Dock"] is False


def test_the_overlay_is_drawn_by_default() -> None:
    (rate,) = (item.default for item in PARAMETERS if item.name == "publish_overlay_rate")
    assert rate > 0
