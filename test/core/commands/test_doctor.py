"""`fcclip doctor`: what is absent is said with its command, and the exit code follows what has to be mended."""

from __future__ import annotations

import json
import re
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

from checkout import ROOT
from fcclip_core import cli
from fcclip_core.backends import BACKENDS, jetson
from fcclip_core.commands import installation
from fcclip_core.commands.installation import MISSING, NOTE, OK, PROBLEM, Finding


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch):
    """Makes modules look absent."""

    def hide(*modules: str) -> None:
        real = installation.find_spec
        monkeypatch.setattr(installation, "find_spec", lambda name: None if name in modules else real(name))

    return hide


@pytest.fixture
def ros_like(monkeypatch: pytest.MonkeyPatch):
    """Makes rclpy look as if it lay at a path, and every probe answer as told."""

    def pretend(origin: str, release: str, answers: dict[str, tuple[object, str]]) -> None:
        spec = ModuleSpec("rclpy", None, origin=origin)
        monkeypatch.setattr(installation, "find_spec", lambda name: spec)
        monkeypatch.setattr(installation, "version", lambda name: release)
        monkeypatch.setattr(installation, "_probe", lambda code: answers.get(code, (True, "")))

    return pretend


def test_this_machine_can_run(capsys: pytest.CaptureFixture[str]) -> None:
    """The tests run here, so the doctor must not find anything that stands in the core's way."""
    code = cli.main(["doctor", "--json"])
    report = json.loads(capsys.readouterr().out)
    states = {finding["name"]: finding for finding in report["findings"]}
    assert states["torch"]["detail"] == torch.__version__.split("+")[0]
    assert states["Python"]["state"] == "ok"
    assert states["eager"]["state"] == "ok"
    assert {finding["group"] for finding in report["findings"]} == {
        "software",
        "hardware",
        "backends",
        "ROS 2",
        "weights",
    }
    assert all(f["state"] != "problem" for f in report["findings"] if f["group"] != "ROS 2")
    assert code == (0 if report["ready"] else 1)


def test_text_names_the_state_and_the_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [
        Finding("software", "timm", PROBLEM, "not installed", "pip install timm"),
        Finding("ROS 2", "x", OK, "[y]"),
    ]
    monkeypatch.setattr(installation, "examine", lambda: found)
    assert cli.main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "problem timm: not installed" in out
    assert "-> pip install timm" in out
    assert "x: [y]" in out  # brackets are not taken for markup
    assert "mended" in out


@pytest.mark.parametrize("module", installation.PACKAGES)
def test_a_missing_package_is_a_problem_with_its_command(module: str, without) -> None:
    without(module, "rclpy")
    findings = installation.examine()
    distribution = installation.PACKAGES[module]
    assert by_name(findings)[distribution].state == PROBLEM
    assert by_name(findings)[distribution].fix == f"pip install {distribution}"
    assert not installation.can_run(findings)


def test_every_requirement_is_looked_for() -> None:
    lines = (line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines())
    needed = [Requirement(line) for line in lines if line]
    names = {item.name for item in needed if item.marker is None or item.marker.evaluate()}
    assert names <= {*installation.PACKAGES.values(), *installation.ROS_SIDE_PACKAGES.values()}


def test_an_old_python_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "MINIMUM_PYTHON", (4, 0))
    finding = installation._python()
    assert finding.state == PROBLEM
    assert "4.0 or newer" in finding.detail


def test_without_ros_the_core_still_runs(without) -> None:
    without("rclpy")
    findings = by_name(list(installation._ros()))
    assert findings["rclpy"].state == MISSING
    assert findings["rclpy"].fix
    assert installation.can_run(list(findings.values()))


@pytest.mark.parametrize(
    ("origin", "release", "expected"),
    [
        ("/opt/ros/humble/local/lib/python3.10/dist-packages/rclpy/__init__.py", "3.3.16", "humble, full install"),
        (f"{__import__('sys').prefix}/lib/python3.11/site-packages/rclpy/__init__.py", "7.1.6", "jazzy, wheels"),
        (f"{__import__('sys').prefix}/lib/python3.11/site-packages/rclpy/__init__.py", "9.1.2", "kilted, wheels"),
    ],
)
def test_ros_is_told_by_version_and_place(ros_like, origin: str, release: str, expected: str) -> None:
    ros_like(origin, release, {installation._RMW_PROBE: ("rmw_cyclonedds_cpp", "")})
    findings = by_name(list(installation._ros()))
    assert f"{release}, distribution {expected}" in findings["rclpy"].detail
    assert findings["RMW"].state == NOTE
    assert findings["RMW"].detail.startswith("rmw_cyclonedds_cpp; every node of a robot must run the same RMW")
    assert "transport profile" not in findings  # Fast DDS alone needs one


def test_an_rmw_that_is_not_installed_is_a_problem(ros_like, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMW_IMPLEMENTATION", "rmw_nonsense")
    ros_like("/opt/ros/jazzy/x", "7.1.6", {installation._RMW_PROBE: (None, "no library librmw_nonsense.so")})
    findings = by_name(list(installation._ros()))
    assert findings["RMW"].state == PROBLEM
    assert "librmw_nonsense" in findings["RMW"].detail
    assert findings["RMW"].fix == "unset RMW_IMPLEMENTATION"


@pytest.mark.parametrize(("origin", "command"), [("/opt/ros/jazzy/x", "colcon build"), (None, "make setup")])
def test_unbuilt_messages_are_a_problem_with_the_right_command(ros_like, origin: str | None, command: str) -> None:
    origin = origin or f"{__import__('sys').prefix}/lib/rclpy/__init__.py"
    probes = {
        installation._RMW_PROBE: ("rmw_fastrtps_cpp", ""),
        installation._INTERFACES_PROBE: (None, "No module named 'fcclip_ros.msg'"),
    }
    ros_like(origin, "7.1.6", probes)
    findings = list(installation._ros())
    assert by_name(findings)["fcclip_ros messages"].state == PROBLEM
    assert command in by_name(findings)["fcclip_ros messages"].fix
    assert not installation.can_run(findings)


@pytest.mark.parametrize(
    ("value", "state"), [("", NOTE), ("/nowhere/profile.xml", PROBLEM), (str(ROOT / "config" / "fastdds.xml"), OK)]
)
def test_transport_profile_is_looked_at(monkeypatch: pytest.MonkeyPatch, value: str, state: str) -> None:
    monkeypatch.delenv("FASTDDS_DEFAULT_PROFILES_FILE", raising=False)
    monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", value)
    (finding,) = installation._transport("rmw_fastrtps_cpp")
    assert finding.state == state
    if state == NOTE:
        assert Path(finding.fix.split("=")[1]).is_file()


def test_optional_ros_packages_are_no_problem(ros_like, without) -> None:
    ros_like("/opt/ros/humble/x", "3.3.16", {installation._CV_BRIDGE_PROBE: (None, "_ARRAY_API not found")})
    findings = by_name(list(installation._optional_ros("humble")))
    assert findings["cv_bridge"].state == NOTE
    assert "_ARRAY_API not found" in findings["cv_bridge"].detail
    without("vision_msgs")
    findings = by_name(list(installation._optional_ros("humble")))
    assert findings["vision_msgs"].fix == "sudo apt install ros-humble-vision-msgs"
    assert findings["vision_msgs"].state == MISSING


def test_each_optional_ros_package_comes_with_the_command_that_there_is(without) -> None:
    without("tf2_ros", "visualization_msgs")
    findings = by_name(list(installation._optional_ros("humble")))
    assert findings["tf2_ros"].fix == "sudo apt install ros-humble-tf2-ros-py"
    assert findings["visualization_msgs"].fix == "sudo apt install ros-humble-visualization-msgs"
    findings = by_name(list(installation._optional_ros("")))
    assert ("no wheel exists" in findings["tf2_ros"].detail, findings["tf2_ros"].fix) == (True, "")
    assert findings["visualization_msgs"].fix == installation.WHEELS


@pytest.mark.parametrize(
    ("code", "answer", "error"),
    [
        ("print('noise'); print('[1, 2]')", [1, 2], ""),
        ("raise ImportError('libfoo.so not found')", None, "ImportError: libfoo.so not found"),
        ("import os; os.abort()", None, "exit code -6"),
    ],
)
def test_probe_survives_whatever_happens_inside(code: str, answer: object, error: str) -> None:
    assert installation._probe(code) == (answer, error)


def test_probe_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "PROBE_TIMEOUT", 0.5)
    assert installation._probe("import time; time.sleep(60)")[1].startswith("no answer")


def test_a_backend_without_its_library_is_missing_with_the_command(without) -> None:
    without("openvino", "tensorrt", "onnx")
    findings = by_name(list(installation._backends()))
    assert [*findings][:7] == ["eager", "onednn", "compiled", "openvino", "onnxruntime", "tensorrt", "tensorrt_rtx"]
    assert findings["eager"].state == findings["compiled"].state == OK
    assert findings["openvino"].state == findings["tensorrt"].state == findings["onnxruntime"].state == MISSING
    assert findings["openvino"].fix == "pip install openvino onnx"
    assert findings["tensorrt"].detail == "not installed: tensorrt, onnx"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A machine with every module, with a GPU of some compute capability or none, that may be a Jetson."""

    def pretend(gpu: tuple[int, int] | None, *, is_jetson: bool = False, **errors: str) -> dict[str, Finding]:
        """What is found; `errors` are the last lines of probes that speak of such a module."""

        def probe(code: str) -> tuple[object, str]:
            error = next((error for module, error in errors.items() if f"'{module}'" in code), "")
            names = re.findall(r"'(\w+)'", code.partition("for name in")[2])
            return (None, error) if error else (["1.2"] * len(names), "")

        release = tmp_path / "nv_tegra_release"
        if is_jetson:
            release.write_text("# R36 (release)")
        monkeypatch.setattr(jetson, "_RELEASE", release)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu is not None)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: gpu)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
        monkeypatch.setattr(installation, "_probe", probe)
        if installation.find_spec("tensorrt") is None:
            real = installation.find_spec
            found = ModuleSpec("tensorrt", None)
            monkeypatch.setattr(installation, "find_spec", lambda name: found if name == "tensorrt" else real(name))
        return by_name([*installation._backends(), *installation._graphics()])

    return pretend


def test_compiled_needs_triton_on_a_gpu_alone(machine, without) -> None:
    assert machine((8, 9))["compiled"].detail.endswith("triton 1.2")
    without("triton")
    assert machine(None)["compiled"].state == OK
    finding = machine((8, 9))["compiled"]
    assert (finding.state, finding.detail, finding.fix) == (MISSING, "not installed: triton", "pip install triton")


def test_compiled_needs_a_compiler(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nowhere/c++")
    finding = machine(None)["compiled"]
    assert (finding.state, finding.fix) == (MISSING, "sudo apt install g++")


def test_a_backend_that_is_there_and_does_not_import_is_not_ok(machine) -> None:
    """Its files were found, and nobody ever loaded them."""
    findings = machine((8, 9), tensorrt="ImportError: libnvinfer.so.10: cannot open", openvino="exit code -11")
    assert (findings["tensorrt"].state, findings["openvino"].state) == (MISSING, MISSING)
    assert findings["tensorrt"].detail == "cannot be imported: ImportError: libnvinfer.so.10: cannot open"
    assert findings["openvino"].detail == "cannot be imported: exit code -11"
    assert findings["openvino"].fix == "pip install --force-reinstall openvino onnx"


def test_a_library_that_does_not_start_is_quoted(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine((8, 9))
    imported = installation._probe

    def probe(code: str) -> tuple[object, str]:
        return (None, "a.b.BackendError: TensorRT 10 does not start") if "load_library" in code else imported(code)

    monkeypatch.setattr(installation, "_probe", probe)
    finding = by_name(list(installation._backends()))["tensorrt"]
    assert (finding.state, finding.detail) == (MISSING, "tensorrt 1.2, onnx 1.2; TensorRT 10 does not start")


def test_tensorrt_rtx_says_which_gpus_it_runs_on(machine, without) -> None:
    assert machine((8, 9))["tensorrt_rtx"].detail.endswith("starts, and runs on this GPU (8.9)")
    assert "it runs on compute capability 7.5, 8.6, 8.9 or 12.x" in machine(None)["tensorrt_rtx"].detail
    without("tensorrt_rtx")
    assert "it runs on compute capability 7.5, 8.6, 8.9 or 12.x" in machine((9, 0))["tensorrt_rtx"].detail


def test_the_library_itself_is_asked_about_the_gpu() -> None:
    """Not played: the probe loads TensorRT-RTX, which is no library for an H100."""
    pytest.importorskip("tensorrt_rtx")
    _, error = installation._probe(installation._TENSORRT_PROBE.format("tensorrt_rtx", (9, 0)))
    assert "TensorRT-RTX runs on" in error and "this GPU has 9.0" in error


def test_a_jetson_is_not_sent_to_pip_for_tensorrt(machine) -> None:
    machine((8, 7), is_jetson=True)
    assert installation._install(["tensorrt", "onnx"]) == "sudo apt install nvidia-jetpack && pip install onnx"
    assert installation._install(["tensorrt_rtx", "onnx"]) == ""
    assert "pip install torch" not in installation._install(["torch"])


def test_a_jetson_whose_torch_has_no_cuda_is_a_problem(machine) -> None:
    """pip replaced NVIDIA's torch by one for processors; everything works, and nobody sees why it is so slow."""
    finding = machine(None, is_jetson=True)["GPU"]
    assert finding.state == PROBLEM
    assert "does not use its GPU" in finding.detail
    assert finding.fix == jetson.INSTALL_TORCH
    assert "GPU" not in machine((8, 7), is_jetson=True)


def test_every_backend_is_looked_for() -> None:
    assert set(BACKENDS) - {"auto"} <= set(installation.BACKEND_MODULES)


@pytest.mark.parametrize(
    ("answer", "state", "says"),
    [((None, "a.b.SimulationError: no context"), MISSING, "world: no context"), (("egl", ""), OK, "through egl")],
)
def test_off_screen_rendering_is_tried(
    monkeypatch: pytest.MonkeyPatch, answer: tuple[object, str], state: str, says: str
) -> None:
    monkeypatch.setattr(installation, "_probe", lambda code: answer)
    (finding,) = installation._rendering()
    assert (finding.state, says in finding.detail) == (state, True)
    assert ("sudo apt install libegl1" in finding.fix) == (state == MISSING)
