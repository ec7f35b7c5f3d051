"""Building and running TensorRT's engines: what is kept between processes, and CUDA graphs. The library is played."""

from __future__ import annotations

import gc
import logging
import sys
import weakref
from pathlib import Path

import pytest
import torch
from played_tensorrt import SHAPES, PlayedConfig, PlayedCuda, PlayedEngine, PlayedRuntimeCache, played_module

from fcclip_core.backends import tensorrt, tensorrt_library
from fcclip_core.backends.tensorrt import TensorRt
from fcclip_core.backends.tensorrt_builder import EngineBuilder
from fcclip_core.backends.tensorrt_library import log_of
from fcclip_core.backends.tensorrt_runner import EngineRunner
from fcclip_core.errors import BackendError
from fcclip_core.export.built_files import NOTHING_KEPT, BuiltFiles, KeptFile
from fcclip_core.export.input_spec import InputSpec
from fcclip_core.export.onnx_export import INPUT

CPU = torch.device("cpu")
LOG = log_of(played_module())


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> PlayedCuda:
    return PlayedCuda(monkeypatch)


def kept(folder: Path, **key: str) -> KeptFile:
    return KeptFile(BuiltFiles(folder), "cache", {"driver": "550", **key})


def picture(value: float) -> torch.Tensor:
    return torch.full(SHAPES[INPUT], value)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# --- the timing cache ---------------------------------------------------------------------------------------------


def built(config: PlayedConfig, timings: KeptFile | None) -> bytes:
    module = played_module(make_config=lambda: config)
    return EngineBuilder(module, "TensorRT", timings).build(b"onnx", "fp16", lambda *_: None)


def test_a_build_begins_with_what_earlier_ones_measured(tmp_path: Path) -> None:
    for expected in (b".", b".."):
        built(PlayedConfig(), kept(tmp_path))
        assert kept(tmp_path).read() == expected


def test_times_of_another_driver_are_not_used(tmp_path: Path) -> None:
    built(PlayedConfig(), kept(tmp_path))
    built(PlayedConfig(), kept(tmp_path, driver="580"))
    assert kept(tmp_path, driver="580").read() == b"."


def test_times_that_the_library_refuses_are_measured_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept(tmp_path).write(b"of another GPU")
    assert built(PlayedConfig(accepts=False), kept(tmp_path)) == b"engine"
    assert kept(tmp_path).read() == b"."
    assert not warnings(caplog)


@pytest.mark.parametrize("broken", [RuntimeError("no such thing"), TypeError("bytes expected")])
def test_a_timing_cache_that_fails_costs_time_alone(
    tmp_path: Path, broken: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    assert built(PlayedConfig(broken=broken), kept(tmp_path)) == b"engine"
    (said,) = warnings(caplog)
    assert "builds without its timing cache" in said and str(broken) in said


# --- the runner ---------------------------------------------------------------------------------------------------


def test_a_frame_is_one_launch_and_keeps_its_answer(cuda: PlayedCuda) -> None:
    engine = PlayedEngine()
    runner = EngineRunner(engine, CPU, LOG)
    (context,) = engine.contexts
    first = runner(picture(1.0))
    second = runner(picture(3.0))
    assert [tensor.unique().tolist() for tensor in first] == [[2.0], [2.0], [2.0], [True]]
    assert second[0].unique().tolist() == [6.0], "a frame was answered with another one's picture"
    assert [tensor.dtype for tensor in first] == [torch.float32] * 3 + [torch.bool]
    assert context.count == 2, "run once, so that the library is ready, and captured once"
    assert cuda.replays == 2
    assert cuda.mode == "thread_local", "another thread's calls would spoil the capture"


def test_a_picture_need_not_be_contiguous(cuda: PlayedCuda) -> None:
    strided = torch.arange(192.0).view(1, 8, 8, 3).permute(0, 3, 1, 2)
    assert EngineRunner(PlayedEngine(), CPU, LOG)(strided)[0].unique().tolist() == [191.0]


def test_streams_wait_for_each_other(cuda: PlayedCuda) -> None:
    runner = EngineRunner(PlayedEngine(), CPU, LOG)
    cuda.waits.clear()
    runner(picture(1.0))
    mine, own = cuda._current.cuda_stream, runner._stream.cuda_stream
    assert cuda.waits == [(own, mine), (mine, own)]


def test_buffers_can_be_written_whoever_made_the_runner(cuda: PlayedCuda) -> None:
    """`prepare` may run in inference mode and frames outside, or the other way round."""
    with torch.inference_mode():
        runner = EngineRunner(PlayedEngine(), CPU, LOG)
    assert runner(picture(1.0))[0].unique().tolist() == [2.0]
    with torch.inference_mode():
        assert runner(picture(2.0))[0].unique().tolist() == [4.0]


@pytest.mark.parametrize("reason", ["spoiled at its end", "refused by the library", "cannot be asked for"])
def test_without_a_graph_frames_are_answered_all_the_same(
    cuda: PlayedCuda, reason: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = PlayedEngine()
    if reason == "spoiled at its end":
        cuda.spoils = RuntimeError("operation failed due to a previous error during capture")
    elif reason == "refused by the library":
        engine.runs = lambda count: count != 2
    else:
        monkeypatch.setattr(torch.cuda, "CUDAGraph", None)
    runner = EngineRunner(engine, CPU, LOG)
    for value in (1.0, 2.0, 3.0):
        assert runner(picture(value))[0].unique().tolist() == [2 * value]
    assert cuda.replays == 0
    (said,) = warnings(caplog)
    assert "runs without a CUDA graph" in said


def test_an_engine_that_cannot_be_captured_is_not_tried(cuda: PlayedCuda, caplog: pytest.LogCaptureFixture) -> None:
    engine = PlayedEngine(capturable=False)
    runner = EngineRunner(engine, CPU, LOG)
    assert engine.contexts[0].count == 1 and cuda.mode == ""
    assert runner(picture(1.0))[0].unique().tolist() == [2.0]
    assert "cannot capture this engine" in warnings(caplog)[0]


def test_an_engine_that_does_not_run_is_refused_before_a_frame_comes(cuda: PlayedCuda) -> None:
    """Not by a BackendError, for which it would be built again, for minutes; a want of memory may pass."""
    LOG.log(1, "[executionContext.cpp] out of memory")
    with pytest.raises(RuntimeError, match="the engine cannot be run: .* out of memory"):
        EngineRunner(PlayedEngine(runs=lambda count: False), CPU, LOG)


def test_an_engine_that_fails_later_says_so(cuda: PlayedCuda) -> None:
    engine = PlayedEngine(capturable=False, runs=lambda count: count < 3)
    runner = EngineRunner(engine, CPU, LOG)
    runner(picture(1.0))
    with pytest.raises(RuntimeError, match="the engine cannot be run"):
        runner(picture(1.0))


# --- TensorRT-RTX's runtime cache ---------------------------------------------------------------------------------


def test_kernels_are_compiled_by_the_first_process_alone(cuda: PlayedCuda, tmp_path: Path) -> None:
    compiled = []
    for _ in range(2):
        engine = PlayedEngine(cache=PlayedRuntimeCache())
        EngineRunner(engine, CPU, LOG, kept(tmp_path))
        compiled.append(engine.compiled)
    assert compiled == [1, 0]
    assert kept(tmp_path).read() == b"kernels"


def test_the_runtime_cache_outlives_the_context(cuda: PlayedCuda, tmp_path: Path) -> None:
    """The library keeps pointers to it and to its configuration, and no references."""
    cache = PlayedRuntimeCache()
    reference = weakref.ref(cache)
    engine = PlayedEngine(cache=cache)
    runner = EngineRunner(engine, CPU, LOG, kept(tmp_path))
    engine.cache = None
    engine.contexts.clear()
    runner._context = None
    del cache, engine
    gc.collect()
    assert reference() is not None
    del runner
    gc.collect()
    assert reference() is None


def test_kernels_for_something_else_are_compiled_again(cuda: PlayedCuda, tmp_path: Path) -> None:
    kept(tmp_path).write(b"of another GPU")
    engine = PlayedEngine(cache=PlayedRuntimeCache(accepts=False))
    EngineRunner(engine, CPU, LOG, kept(tmp_path))
    assert engine.compiled == 1
    assert kept(tmp_path).read() == b"kernels"


def test_a_runtime_cache_that_fails_costs_time_alone(
    cuda: PlayedCuda, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = PlayedEngine(cache=None)
    assert EngineRunner(engine, CPU, LOG, kept(tmp_path))(picture(1.0))[0].unique().tolist() == [2.0]
    assert "compiling kernels without the runtime cache" in warnings(caplog)[0]
    assert not list(tmp_path.iterdir())


def test_kernels_that_cannot_be_had_back_cost_time_alone(
    cuda: PlayedCuda, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PlayedRuntimeCache, "serialize", lambda cache: None)
    engine = PlayedEngine(cache=PlayedRuntimeCache())
    assert EngineRunner(engine, CPU, LOG, kept(tmp_path))(picture(1.0))[0].unique().tolist() == [2.0]
    assert "cannot be kept" in warnings(caplog)[0]


# --- both, as the backend uses them -------------------------------------------------------------------------------


def library(monkeypatch: pytest.MonkeyPatch, module: object, files: BuiltFiles = NOTHING_KEPT) -> TensorRt:
    """TensorRt with a played module, and the processor in the GPU's place."""
    for name in tensorrt_library.MODULES:
        monkeypatch.setitem(sys.modules, name, module if name == module.__name__ else None)  # type: ignore[attr-defined]
    monkeypatch.setattr(tensorrt, "check_device", lambda *_: None)
    monkeypatch.setattr(tensorrt, "device_name", lambda _: "Played 4090 sm_89")
    return TensorRt(CPU, "fp16", files)


@pytest.mark.parametrize(("name", "suffix"), [("tensorrt", ".timings"), ("tensorrt_rtx", ".kernels")])
def test_each_library_keeps_what_costs_it_time(
    cuda: PlayedCuda, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, suffix: str
) -> None:
    """TensorRT-RTX measures nothing (its timing cache does nothing), and TensorRT compiles nothing where it runs."""
    spec = InputSpec(1, 32, 32, "fp16")
    monkeypatch.setitem(SHAPES, INPUT, spec.shape)
    module = played_module(name, make_engine=lambda: PlayedEngine(cache=PlayedRuntimeCache()))
    used = library(monkeypatch, module, BuiltFiles(tmp_path))
    used.load(used.build(lambda sampler: b"onnx", lambda *_: None), spec)
    (path,) = tmp_path.iterdir()
    assert path.name == f"{tensorrt_library.MODULES[name]}-Played-4090-sm-89{suffix}"


def test_an_engine_for_another_form_is_refused(cuda: PlayedCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    used = library(monkeypatch, played_module())
    with pytest.raises(BackendError, match="the engine is not one for 1x32x32-fp16"):
        used.load(b"engine", InputSpec(1, 32, 32, "fp16"))


def test_an_engine_that_cannot_be_read_is_refused(cuda: PlayedCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    used = library(monkeypatch, played_module(make_engine=lambda: None))
    with pytest.raises(BackendError, match="cannot read the engine for 1x32x32-fp16"):
        used.load(b"engine", InputSpec(1, 32, 32, "fp16"))
