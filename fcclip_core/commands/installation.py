"""What this machine has for running FC-CLIP, and which command installs what it lacks.

Nothing here is needed to segment: it looks, and reports. What may crash the interpreter (a ROS library built for
another Python, cv_bridge beside a numpy it was not built for, a library for GPUs beside another driver) is tried in a
separate process.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

OK, NOTE, MISSING, PROBLEM = "ok", "note", "missing", "problem"
"""States of a finding: as it should be; worth knowing; optional and absent; something that has to be mended."""

MINIMUM_PYTHON = (3, 10)
PROBE_TIMEOUT = 60.0
WHEELS = "make setup"
"""Installs everything from wheels; run in the checkout."""

PACKAGES = {
    "torch": "torch",
    "torchvision": "torchvision",
    "open_clip": "open_clip_torch",
    "timm": "timm",
    "huggingface_hub": "huggingface_hub",
    "safetensors": "safetensors",
    "numpy": "numpy",
    "scipy": "scipy",
    "cv2": "opencv-python-headless",
    "PIL": "pillow",
    "simplejpeg": "simplejpeg",
    "yaml": "PyYAML",
    "rich": "rich",
}
"""Module -> name under which pip knows it, for what the core cannot do without."""

ROS_SIDE_PACKAGES = {"rosbags": "rosbags", "rerun": "rerun-sdk", "lz4": "lz4"}
if sys.version_info < (3, 14):
    ROS_SIDE_PACKAGES["backports.zstd"] = "backports.zstd"
"""The same, for what only the ROS side uses."""

BACKEND_MODULES = {
    "eager": ("torch",),
    "onednn": ("torch",),
    "compiled": ("torch",),
    "openvino": ("openvino", "onnx"),
    "onnxruntime": ("onnxruntime", "onnx"),
    "tensorrt": ("tensorrt", "onnx"),
    "tensorrt_rtx": ("tensorrt_rtx", "onnx"),
}
"""What a backend can run with -> the modules that it needs, its own first; the last two are the backend tensorrt.

On a GPU `compiled` needs Triton, too.
"""

CPU_FEATURES = (
    *("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_bf16", "amx_int8"),
    *("asimd", "bf16", "i8mm"),
)
"""As Linux names them: x86-64 first, then Arm."""

DISTRIBUTIONS = {"3.3": "humble", "7.1": "jazzy", "9.1": "kilted"}
"""Major and minor version of rclpy -> ROS distribution."""

ONE_RMW = (
    "every node of a robot must run the same RMW: between Fast DDS and Cyclone DDS topics arrive, but service calls "
    "are never answered"
)

_RMW_PROBE = """
import json
from rclpy.utilities import get_rmw_implementation_identifier
print(json.dumps(get_rmw_implementation_identifier()))
"""
_INTERFACES_PROBE = """
from rclpy.type_support import check_for_type_support
from fcclip_ros.msg import SegmentArray
from fcclip_ros.srv import SetVocabulary
check_for_type_support(SegmentArray)
check_for_type_support(SetVocabulary)
print("true")
"""
_RENDERING_PROBE = """
import json, os
from fcclip_core.simulation.gl import make_context
make_context().free()
print(json.dumps(os.environ["MUJOCO_GL"]))
"""
_IMPORT_PROBE = "import {0}; print('true')"
_VERSIONS_PROBE = """
import importlib, json
versions = [getattr(importlib.import_module(name), "__version__", "of unknown version") for name in {0!r}]
print(json.dumps([version.split("+")[0].split("-")[0] for version in versions]))
"""
_TENSORRT_PROBE = """
from fcclip_core.backends.tensorrt_library import load_library
load_library({0!r}, {1!r})
print("true")
"""
_CV_BRIDGE_PROBE = """
import numpy, cv_bridge
message = cv_bridge.CvBridge().cv2_to_imgmsg(numpy.zeros((2, 2, 3), numpy.uint8), "bgr8")
cv_bridge.CvBridge().imgmsg_to_cv2(message, "rgb8")
print("true")
"""


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        group: Heading that it belongs under.
        name: What was checked.
        state: `OK`, `NOTE`, `MISSING` or `PROBLEM`.
        detail: What was found.
        fix: The command that installs or mends it; empty if there is nothing to do or no command for it.
    """

    group: str
    name: str
    state: str
    detail: str
    fix: str = ""


def examine() -> list[Finding]:
    """Looks at everything; takes a few seconds, mostly for importing torch and trying ROS."""
    software = [_python(), *_packages()]
    if not can_run(software):
        return [*software, *_ros()]  # the rest is looked at with those packages
    return [*software, *_processor(), *_graphics(), *_rendering(), *_backends(), *_ros(), *_weights()]


def can_run(findings: list[Finding]) -> bool:
    """Whether nothing that was found stands in the way; what is optional may be absent."""
    return all(finding.state != PROBLEM for finding in findings)


def _python() -> Finding:
    detail = f"{platform.python_version()} ({sys.executable}), {platform.system()} {platform.machine()}"
    if sys.version_info[:2] >= MINIMUM_PYTHON:
        return Finding("software", "Python", OK, detail)
    wanted = ".".join(map(str, MINIMUM_PYTHON))
    return Finding(
        "software", "Python", PROBLEM, f"{detail}; {wanted} or newer is needed", "make setup PYTHON=python3.12"
    )


def _packages() -> Iterator[Finding]:
    for module, distribution in PACKAGES.items():
        found = _version_of(module, distribution)
        if found is None:
            yield Finding("software", distribution, PROBLEM, "not installed", f"pip install {distribution}")
        else:
            yield Finding("software", distribution, OK, found)


def _version_of(module: str, distribution: str) -> str | None:
    """Version of an importable module; it may have come under another name than pip's, from apt or JetPack."""
    try:
        if find_spec(module) is None:
            return None
    except ModuleNotFoundError:  # the parent of a submodule is absent
        return None
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "version unknown"


def _processor() -> Iterator[Finding]:
    import torch

    from fcclip_core.kernels.processor import features

    text = _text_of(Path("/proc/cpuinfo"))
    lines = [line.partition(":") for line in text.splitlines()]
    about = {name.strip(): value.strip() for name, _, value in reversed(lines)}
    found = [name for name in CPU_FEATURES if name in features()]
    cores = len(os.sched_getaffinity(0))
    model = about.get("model name") or platform.processor() or platform.machine()
    yield Finding(
        "hardware", "processor", OK, f"{model}, {cores} cores usable, torch computes on {torch.get_num_threads()}"
    )
    yield Finding(
        "hardware",
        "processor features",
        OK,
        f"{', '.join(found) or 'none of interest'}; torch uses {torch.backends.cpu.get_cpu_capability()}",
    )
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    yield Finding("hardware", "memory", OK, f"{memory / 1e9:.0f} GB")


def _graphics() -> Iterator[Finding]:
    import torch

    from fcclip_core.backends.jetson import INSTALL_TORCH, is_jetson

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(index)
            yield Finding(
                "hardware",
                f"cuda:{index}",
                OK,
                f"{about.name}, {about.total_memory / 1e9:.0f} GB, compute capability {about.major}.{about.minor}, "
                f"CUDA {torch.version.cuda}",
            )
    elif is_jetson():
        # As pip leaves it that finds NVIDIA's torch too old, or none: the model would run, at a fraction of its speed.
        detail = f"this is a Jetson, but torch {torch.__version__} does not use its GPU: it is not NVIDIA's"
        yield Finding("hardware", "GPU", PROBLEM, detail, INSTALL_TORCH)
    elif not Path("/dev/nvidiactl").exists() and shutil.which("nvidia-smi") is None:
        yield Finding("hardware", "GPU", NOTE, "no NVIDIA GPU or no driver: the model runs on the processor")
    elif torch.version.cuda is None:
        yield Finding(
            "hardware",
            "GPU",
            MISSING,
            "there is an NVIDIA GPU, but this torch is built without CUDA",
            "pip install --force-reinstall torch torchvision",
        )
    else:
        yield Finding(
            "hardware",
            "GPU",
            MISSING,
            f"there is an NVIDIA driver, but torch (CUDA {torch.version.cuda}) finds no GPU",
            "nvidia-smi",
        )


def _rendering() -> Iterator[Finding]:
    """Only the simulated world needs it."""
    if find_spec("mujoco") is None:
        without = "the simulated world cannot be rendered without MuJoCo"
        yield Finding("hardware", "off-screen rendering", MISSING, without, "pip install mujoco")
        return
    library, error = _probe(_RENDERING_PROBE)
    if error:
        fix = "sudo apt install libegl1 libgl1-mesa-dri"
        yield Finding("hardware", "off-screen rendering", MISSING, f"the simulated world: {_without_class(error)}", fix)
    else:
        yield Finding("hardware", "off-screen rendering", OK, f"MuJoCo through {library}")


def _backends() -> Iterator[Finding]:
    import torch

    gpu = torch.cuda.get_device_capability() if torch.cuda.is_available() else None
    for name, modules in BACKEND_MODULES.items():
        needed = (*modules, "triton") if name == "compiled" and gpu else modules
        yield _backend(name, needed, gpu)
    yield _built_graphs()


def _backend(name: str, modules: tuple[str, ...], gpu: tuple[int, int] | None) -> Finding:
    """Whether a backend's modules can be imported, and whether it can run on `gpu`, given as compute capability."""
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        detail = f"not installed: {', '.join(map(_distribution, missing))}"
        return Finding("backends", name, MISSING, detail + _gpus_of(name), _install(missing))
    tried = [module for module in modules if module != "torch"]  # it runs in this process
    versions, error = _probe(_VERSIONS_PROBE.format(tried)) if tried else ([], "")
    if error:
        return Finding("backends", name, MISSING, f"cannot be imported: {error}", _install(tried, again=True))
    assert isinstance(versions, list)
    found = dict(zip(tried, versions, strict=True))
    detail = ", ".join(f"{module} {found.get(module) or _version_of(module, module)}" for module in modules)
    if name == "compiled" and not shutil.which(os.environ.get("CXX", "c++")):
        return Finding("backends", name, MISSING, f"{detail}; there is no C++ compiler", "sudo apt install g++")
    if not name.startswith("tensorrt"):
        return Finding("backends", name, OK, detail)
    if gpu is None:
        return Finding("backends", name, NOTE, f"{detail}; torch finds no GPU that it could run on{_gpus_of(name)}")
    _, error = _probe(_TENSORRT_PROBE.format(name, gpu))
    if error:
        return Finding("backends", name, MISSING, f"{detail}; {_without_class(error)}")
    return Finding("backends", name, OK, f"{detail}; starts, and runs on this GPU ({gpu[0]}.{gpu[1]})")


def _gpus_of(name: str) -> str:
    """What a backend's library runs on, where that is not every GPU, to be added to a sentence."""
    from fcclip_core.backends.tensorrt_library import RTX_GPUS

    return f"; it runs on {RTX_GPUS}" if name == "tensorrt_rtx" else ""


def _install(modules: list[str], again: bool = False) -> str:
    """The command that installs a backend's modules; empty if this machine cannot have them."""
    from fcclip_core.backends.jetson import INSTALL_TENSORRT, INSTALL_TORCH, is_jetson

    commands = []
    if is_jetson():
        if "tensorrt_rtx" in modules:
            return ""
        theirs = {"tensorrt": INSTALL_TENSORRT, "torch": INSTALL_TORCH}
        commands = [theirs[module] for module in modules if module in theirs]
        modules = [module for module in modules if module not in theirs]
    if modules:
        option = "--force-reinstall " if again else ""
        commands.append(f"pip install {option}{' '.join(map(_distribution, modules))}")
    return " && ".join(commands)


def _built_graphs() -> Finding:
    from fcclip_core.export.built_files import BuiltFiles

    folder = BuiltFiles.default().folder
    files = [path for path in folder.iterdir() if path.is_file()] if folder and folder.is_dir() else []
    size = sum(path.stat().st_size for path in files)
    return Finding("backends", "built graphs and engines", NOTE, f"{folder}: {len(files)} files, {size / 1e6:.1f} MB")


def _distribution(module: str) -> str:
    """Name under which pip knows a backend's module."""
    return module.replace("_", "-")


def _ros() -> Iterator[Finding]:
    spec = find_spec("rclpy")
    if spec is None:
        yield Finding(
            "ROS 2", "rclpy", MISSING, "no ROS 2 in this environment; `fcclip segment` works without", _ros_fix()
        )
        return
    from_wheels = Path(str(spec.origin)).is_relative_to(sys.prefix)
    release = _version_of("rclpy", "ros-rclpy" if from_wheels else "rclpy") or ""
    distribution = DISTRIBUTIONS.get(".".join(release.split(".")[:2])) or os.environ.get("ROS_DISTRO", "unknown")
    kind = "wheels" if from_wheels else f"full install ({spec.origin})"
    yield Finding("ROS 2", "rclpy", OK, f"{release}, distribution {distribution}, {kind}")
    rmw, error = _probe(_RMW_PROBE)
    if error:
        fix = "unset RMW_IMPLEMENTATION" if "RMW_IMPLEMENTATION" in os.environ else WHEELS
        yield Finding("ROS 2", "RMW", PROBLEM, f"rclpy does not start: {error}", fix)
        return
    yield Finding("ROS 2", "RMW", NOTE, f"{rmw}; {ONE_RMW}")
    yield from _transport(str(rmw))
    _, error = _probe(_INTERFACES_PROBE)
    if error:
        fix = WHEELS if from_wheels else "colcon build --packages-select fcclip_ros && source install/setup.bash"
        yield Finding("ROS 2", "fcclip_ros messages", PROBLEM, f"not built, or for another Python: {error}", fix)
    else:
        yield Finding("ROS 2", "fcclip_ros messages", OK, "built")
    yield from _optional_ros("" if from_wheels else distribution)


def _ros_fix() -> str:
    installed = sorted(Path("/opt/ros").glob("*/setup.bash"))
    return f"source {installed[-1]}" if installed else WHEELS


def _transport(rmw: str) -> Iterator[Finding]:
    """Fast DDS's shared-memory segment is smaller than a camera image unless a profile says otherwise."""
    from fcclip_core.files.resources import config_path

    if "fastrtps" not in rmw:
        return
    name = "FASTRTPS_DEFAULT_PROFILES_FILE"
    given = os.environ.get(name) or os.environ.get("FASTDDS_DEFAULT_PROFILES_FILE")
    if given and not Path(given).is_file():
        yield Finding(
            "ROS 2", "transport profile", PROBLEM, f"{name} names {given}, which does not exist", f"unset {name}"
        )
    elif given:
        yield Finding("ROS 2", "transport profile", OK, given)
    else:
        yield Finding(
            "ROS 2",
            "transport profile",
            NOTE,
            "none: images larger than Fast DDS's shared memory arrive late or not at all (the launch file sets ours)",
            f"export {name}={config_path('fastdds.xml')}",
        )


_APT_NAMES = {"tf2_ros": "tf2_ros_py"}
"""Python packages whose ROS package has another name."""

_WITH_WHEELS = ("visualization_msgs", "nav_msgs")
"""Optional ROS packages that the wheels contain."""


def _optional_ros(apt_distribution: str) -> Iterator[Finding]:
    """What the node uses where it is installed; most of it has no wheel, so only a full install gets a command."""
    uses = {
        "vision_msgs": (
            "vision_msgs.msg",
            _IMPORT_PROBE,
            "~/detections and ~/label_info, which Nav2's layer needs, are not published",
        ),
        "tf2_msgs": ("tf2_msgs.msg", _IMPORT_PROBE, "sim_camera publishes its pose, but no transform on /tf"),
        "tf2_ros": (
            "tf2_ros",
            _IMPORT_PROBE,
            "3D outputs are in the cameras' frames only (target_frame); object_memory reads poses from a topic",
        ),
        "nav_msgs": ("nav_msgs.msg", _IMPORT_PROBE, "object_memory reads no odometry (pose_type) and no keyframes"),
        "visualization_msgs": ("visualization_msgs.msg", _IMPORT_PROBE, "~/markers, boxes for RViz, is not published"),
        "ffmpeg_image_transport_msgs": (
            "ffmpeg_image_transport_msgs.msg",
            _IMPORT_PROBE,
            "video (image_transport:=ffmpeg) cannot be read",
        ),
        "cv_bridge": ("cv_bridge", _CV_BRIDGE_PROBE, "images are converted without it, with equal results"),
    }
    for name, (module, probe, without) in uses.items():
        package = _APT_NAMES.get(name, name).replace("_", "-")
        has_wheel = not apt_distribution and name in _WITH_WHEELS
        fix = f"sudo apt install ros-{apt_distribution}-{package}" if apt_distribution else WHEELS if has_wheel else ""
        if find_spec(name) is None:
            where = "" if apt_distribution or has_wheel else " (no wheel exists; a full ROS 2 install has it)"
            yield Finding("ROS 2", name, MISSING, f"not installed{where}: {without}", fix)
            continue
        _, error = _probe(probe.format(module))
        yield Finding("ROS 2", name, NOTE if error else OK, f"does not work ({error}): {without}" if error else "works")
    without_package = {"rosbags": "bags cannot be read or written", "rerun": "`fcclip view` cannot show anything"}
    for module, distribution in ROS_SIDE_PACKAGES.items():
        found = _version_of(module, distribution)
        state, fix = (OK, "") if found else (MISSING, f"pip install {distribution}")
        yield Finding("ROS 2", distribution, state, found or f"not installed: {without_package[module]}", fix)


def _weights() -> Iterator[Finding]:
    from fcclip_core.files.cache_folder import cache_folder
    from fcclip_core.model.config import PRESETS
    from fcclip_core.weights.clip_weights import cached_clip
    from fcclip_core.weights.model_zoo import bundled_checkpoints, imported_models

    names = bundled_checkpoints()
    yield Finding(
        "weights",
        "bundled checkpoints",
        OK if names else NOTE,
        ", ".join(names)
        or "none: install a published one (`fcclip weights list`), or use recipe:NAME to try the machine",
    )
    installed = imported_models()
    yield Finding(
        "weights",
        "published models, installed",
        OK if installed else NOTE,
        ", ".join(installed) or "none: `fcclip weights install convnext_large`",
    )
    cached = [config.name for config in PRESETS.values() if cached_clip(config) is not None]
    yield Finding(
        "weights", "CLIP, downloaded earlier", NOTE, ", ".join(cached) or "none: `import` downloads, or --clip"
    )
    cache = cache_folder()
    folder = cache / "text" if cache else None
    files = [path for path in folder.rglob("*") if path.is_file()] if folder and folder.is_dir() else []
    size = sum(path.stat().st_size for path in files)
    yield Finding("weights", "cache of encoded words", NOTE, f"{folder}: {len(files)} files, {size / 1e6:.1f} MB")


def _probe(code: str) -> tuple[object, str]:
    """Runs code in another interpreter; returns what it printed as JSON last, and an error, empty if there was none."""
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PROBE_TIMEOUT)
    except subprocess.TimeoutExpired:
        return None, f"no answer within {PROBE_TIMEOUT:.0f} s"
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        return None, last[0][:500]
    return json.loads(done.stdout.strip().splitlines()[-1]), ""


def _without_class(error: str) -> str:
    """The message of an exception as a traceback's last line has it."""
    return error.partition(": ")[2] or error


def _text_of(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
