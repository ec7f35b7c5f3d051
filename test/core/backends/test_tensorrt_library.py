"""Which TensorRT is taken, and what is said when none works. The library is played."""

from __future__ import annotations

import gc
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
from played_tensorrt import NULL_POINTER, played_module

from fcclip_core.backends import jetson, tensorrt_library
from fcclip_core.backends.tensorrt_builder import EngineBuilder
from fcclip_core.backends.tensorrt_library import find_library, log_of, start
from fcclip_core.errors import BackendError

DRIVER = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.256.02  Thu May  2 14:37:44 UTC 2024\nGCC version:\n"
TOO_OLD = "[runtime.cpp::isCudaInstalledCorrectly::41] CUDA initialization failure with error: 35"


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with no TensorRT, whose driver is what the file that is returned says."""
    for module in tensorrt_library.MODULES:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(tensorrt_library, "_DRIVER", tmp_path / "driver")
    monkeypatch.setattr(jetson, "_RELEASE", tmp_path / "nv_tegra_release")
    return tmp_path / "driver"


def install(monkeypatch: pytest.MonkeyPatch, *modules: Any) -> None:
    for module in modules:
        monkeypatch.setitem(sys.modules, module.__name__, module)


class Unreadable:
    """A module whose attributes cannot be had, as after an update that was broken off."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"module 'tensorrt' has no attribute '{name}'")


BROKEN = {
    "not installed": None,
    "half installed": Unreadable(),
    "too old": played_module(version="8.6.1"),
    "does not start": played_module(starts=False),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_tensorrt_that_does_not_work_leaves_the_turn_to_rtx(monkeypatch: pytest.MonkeyPatch, broken: Any) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", broken)
    rtx = played_module("tensorrt_rtx", "1.7.1")
    install(monkeypatch, rtx)
    assert find_library() == (rtx, "TensorRT-RTX")


def test_tensorrt_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    full = played_module()
    install(monkeypatch, full, played_module("tensorrt_rtx", "1.7.1"))
    assert find_library((9, 0)) == (full, "TensorRT")


def test_whatever_is_wrong_with_each_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, played_module(version="8.6.1"))
    with pytest.raises(BackendError) as failure:
        find_library()
    assert "TensorRT 8.6.1 is too old: 10.0 or newer is needed" in str(failure.value)
    assert "tensorrt_rtx cannot be imported" in str(failure.value)
    assert "pip install tensorrt, or tensorrt-rtx for compute capability 7.5" in str(failure.value)


@pytest.mark.parametrize(
    ("found", "says"),
    [(DRIVER, "with NVIDIA driver 470.256.02"), (None, "without an NVIDIA driver")],
    ids=["old driver", "none"],
)
@pytest.mark.parametrize("part", ["Runtime", "Builder"])
def test_a_driver_that_is_too_old_or_absent_is_one_clear_error(
    machine: Path, found: str | None, says: str, part: str
) -> None:
    """pybind11 raises a TypeError about a null pointer, which told nobody anything."""
    if found:
        machine.write_text(found)
    module = played_module(starts=False, said=TOO_OLD)
    with pytest.raises(BackendError) as failure:
        start(module, "TensorRT", getattr(module, part))
    assert str(failure.value).startswith(f"TensorRT 10.13.3.9 does not start {says} ({TOO_OLD}); ")
    assert "CUDA 13 need driver 580" in str(failure.value) and "pip install tensorrt-cu12" in str(failure.value)


def test_building_without_a_driver_is_the_same_error() -> None:
    with pytest.raises(BackendError, match="TensorRT 10.13.3.9 does not start without an NVIDIA driver"):
        EngineBuilder(played_module(starts=False), "TensorRT").build(b"onnx", "fp16", lambda *_: None)


def test_a_library_that_says_nothing_is_quoted_as_it_fails() -> None:
    module = played_module("tensorrt_rtx", "1.7.1", starts=False)
    with pytest.raises(BackendError) as failure:
        start(module, "TensorRT-RTX", module.Runtime)
    assert f"({NULL_POINTER})" in str(failure.value) and "pip install tensorrt-rtx-cu12" in str(failure.value)


def test_a_jetson_is_not_sent_to_pip(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine.parent / "nv_tegra_release").write_text("# R36 (release), REVISION: 4.3")
    with pytest.raises(BackendError) as failure:
        find_library()
    assert "sudo apt install nvidia-jetpack" in str(failure.value) and "pip install" not in str(failure.value)
    install(monkeypatch, played_module(starts=False))
    with pytest.raises(BackendError, match="does not start.*sudo apt install nvidia-jetpack"):
        find_library()


@pytest.mark.parametrize(
    ("capability", "runs"),
    [((7, 5), True), ((8, 6), True), ((8, 9), True), ((12, 0), True), ((12, 1), True)]
    + [((7, 0), False), ((8, 0), False), ((8, 7), False), ((9, 0), False), ((10, 0), False)],
)
def test_rtx_is_taken_on_the_gpus_that_it_runs_on(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], runs: bool
) -> None:
    """Elsewhere it builds for minutes, and then cannot read its own engine."""
    rtx = played_module("tensorrt_rtx", "1.7.1")
    install(monkeypatch, rtx)
    if runs:
        assert find_library(capability) == (rtx, "TensorRT-RTX")
    else:
        with pytest.raises(
            BackendError, match=rf"TensorRT-RTX runs on .*; this GPU has {capability[0]}.{capability[1]}"
        ):
            find_library(capability)


def test_one_log_outlives_all_that_were_made_with_it() -> None:
    """The library keeps a pointer to the first log that it was given, and no reference."""
    module = played_module()
    start(module, "TensorRT", module.Runtime)
    for _ in range(2):
        EngineBuilder(module, "TensorRT").build(b"onnx", "fp16", lambda *_: None)
    first, others = weakref.ref(module.logs[0]), {id(log) for log in module.logs}
    assert len(others) == 1
    module.logs.clear()
    gc.collect()
    assert first() is log_of(module)
