"""What perception.launch.py starts with which arguments; in the place of launch a few classes that remember."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from ros_harness import ROOT

from fcclip_ros.memory.parameters import PARAMETERS as MEMORY_PARAMETERS
from fcclip_ros.sim_camera import PARAMETERS

Describe = Callable[..., dict[str, SimpleNamespace]]


def record(**given: Any) -> SimpleNamespace:
    return SimpleNamespace(**given)


@pytest.fixture
def launch_file(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that the launch file defines."""
    standins = {
        "launch": {"LaunchContext": object, "LaunchDescription": list},
        "launch.actions": {
            "DeclareLaunchArgument": lambda name, **given: record(name=name, **given),
            "OpaqueFunction": record,
            "SetEnvironmentVariable": lambda name, value: (name, value),
        },
        "launch.substitutions": {"EnvironmentVariable": lambda name, **given: name},
        "launch_ros": {},
        "launch_ros.actions": {"Node": record},
        "ament_index_python": {},
        "ament_index_python.packages": {"get_package_share_directory": lambda package: str(ROOT)},
    }
    for name, content in standins.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    path = ROOT / "launch" / "perception.launch.py"
    names: dict[str, Any] = {}
    exec(compile(path.read_text(), path, "exec"), names)
    return names


@pytest.fixture
def describe(launch_file: dict[str, Any]) -> Describe:
    """Returns the nodes that start with these arguments, by name; an argument that does not exist is an error."""
    arguments = {argument.name: argument for argument in launch_file["declared_arguments"]()}

    def nodes(**given: str) -> dict[str, SimpleNamespace]:
        assert given.keys() <= arguments.keys()
        values = {name: argument.default_value for name, argument in arguments.items()} | given
        return {node.name: node for node in launch_file["nodes"](record(launch_configurations=values))}

    return nodes


def test_without_arguments_the_parameter_file_alone_decides(describe: Describe) -> None:
    """So the checkpoint of the file holds, and a newcomer need not name one."""
    nodes = describe()
    assert nodes.keys() == {"fcclip"}
    file, parameters = nodes["fcclip"].parameters
    assert Path(file) == ROOT / "config" / "perception.yaml"
    assert parameters == {}


def test_sim_starts_a_camera_on_the_topics_that_the_node_reads(describe: Describe) -> None:
    nodes = describe(sim="true")
    assert nodes.keys() == {"fcclip", "sim_camera"}
    assert nodes["fcclip"].parameters[1] == {}, "the words and weights of the parameter file hold"
    camera = nodes["sim_camera"]
    assert (camera.package, camera.executable) == ("fcclip_ros", "sim_camera")
    assert camera.parameters == [{"recording": "auto", "seed": 0, "rate": 10.0}]
    assert set(camera.remappings) <= set(nodes["fcclip"].remappings)


def test_sim_goes_where_the_node_was_told_to_read(describe: Describe) -> None:
    nodes = describe(
        sim="true", image_topic="/front/image_raw", depth_topic="/front/depth", rate="4", namespace="robot"
    )
    names = dict(nodes["sim_camera"].remappings)
    assert names["image"] == "/front/image_raw"
    assert names["depth"] == "/front/depth"
    assert names["camera_info"] == "/front/camera_info"
    assert nodes["sim_camera"].namespace == "robot"
    assert nodes["sim_camera"].parameters[0]["rate"] == 4.0


def test_sim_starts_a_camera_for_each_of_several(describe: Describe) -> None:
    nodes = describe(sim="true", cameras="[front, left]", image_topic="[/zed/image, /oak/image]", use_depth="true")
    assert nodes.keys() == {"fcclip", "sim_camera_front", "sim_camera_left"}
    front, left = (dict(nodes[f"sim_camera_{name}"].remappings) for name in ("front", "left"))
    assert (front["image"], left["image"]) == ("/zed/image", "/oak/image")
    assert (front["camera_info"], left["camera_info"]) == ("/zed/camera_info", "/oak/camera_info")
    assert (front["depth"], left["depth"]) == ("front/depth", "left/depth")
    assert (front["truth/segments"], left["pose"]) == ("front/truth/segments", "left/pose")
    settings = [nodes[f"sim_camera_{name}"].parameters[0] for name in ("front", "left")]
    assert [item["frame_id"] for item in settings] == ["front_optical_frame", "left_optical_frame"]
    assert settings[0]["seed"] != settings[1]["seed"]


def test_sim_sets_parameters_that_the_camera_has(describe: Describe) -> None:
    settings = describe(sim="true", cameras="[front]")["sim_camera_front"].parameters[0]
    assert settings.keys() <= {declaration.name for declaration in PARAMETERS}


@pytest.mark.parametrize(
    "other", [{"source": "photos"}, {"image_transport": "compressed"}, {"depth_transport": "compressedDepth"}]
)
def test_sim_with_what_it_does_not_go_with_is_refused(describe: Describe, other: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="sim:=true cannot be combined with source, nor with an image_transport"):
        describe(sim="true", **other)


def test_memory_brings_what_it_needs_of_the_perception_node(describe: Describe) -> None:
    nodes = describe(memory="true", memory_file="/maps/home.db", image_topic="/front/image", depth_topic="/front/depth")
    assert nodes.keys() == {"fcclip", "object_memory"}
    assert nodes["fcclip"].parameters[1] == {"use_depth": True, "publish_embeddings": "float16"}
    file, settings = nodes["object_memory"].parameters
    assert Path(file) == ROOT / "config" / "object_memory.yaml"
    assert settings == {"file": "/maps/home.db"}, "the frame of the parameter file holds"
    names = dict(nodes["object_memory"].remappings)
    assert (names["image"], names["depth"], names["pose"]) == ("/front/image", "/front/depth", "pose")
    assert names["camera_info"] == "/front/camera_info"


def test_a_remembering_robot_of_several_cameras_in_the_simulated_world(describe: Describe) -> None:
    nodes = describe(memory="true", sim="true", cameras="[front, left]")
    settings = nodes["object_memory"].parameters[1]
    assert settings == {"cameras": ["front", "left"], "map_frame": "world"}
    declared = {declaration.name for declaration in MEMORY_PARAMETERS}
    assert settings.keys() <= declared
    names = dict(nodes["object_memory"].remappings)
    camera = dict(nodes["sim_camera_left"].remappings)
    assert (names["left/pose"], names["left/depth"]) == (camera["pose"], camera["depth"])


def test_what_the_memory_cannot_read_is_left_out(describe: Describe) -> None:
    settings = describe(memory="true", image_transport="ffmpeg", map_frame="odom")["object_memory"].parameters[1]
    assert settings == {"crop_side": 0, "map_frame": "odom"}


def test_a_source_publishes_no_video(describe: Describe) -> None:
    with pytest.raises(ValueError, match="source publishes no video"):
        describe(source="photos", image_transport="ffmpeg")


def test_everything_that_is_described_is_in_the_description(launch_file: dict[str, Any]) -> None:
    description = launch_file["generate_launch_description"]()
    assert description[-1].function is launch_file["nodes"]
    assert "sim" in {item.name for item in description if hasattr(item, "name")}
