"""Backends that fail below a whole `Segmenter`, as they fail in the field: the answer is eager's, and it is said.

Failures are made in the files and at the border to the libraries: files are cut short or foreign, disks full, calls of
OpenVINO raise. What a GPU's memory does is TensorRT's to say, which is played here.
"""

from __future__ import annotations

import contextlib
import json
import logging
import resource
import shutil
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from waiting import wait_for

from fcclip_core import InferenceSettings, PanopticResult, Segmenter, Vocabulary
from fcclip_core.backends import _ORDER, LIBRARIES, graph
from fcclip_core.backends.openvino import OpenVino
from fcclip_core.backends.readiness import RECURS
from fcclip_core.backends.tensorrt_builder import EngineBuilder
from fcclip_core.export.built_files import MAGIC
from fcclip_core.export.onnx_export import export_onnx
from fcclip_core.kernels.deformable_native import LIBRARY
from fcclip_core.model.deformable_attention import sample_by_gather
from fcclip_core.model.fcclip import FCCLIP

SETTINGS = InferenceSettings(shorter_side=64, object_mask_threshold=0.0, overlap_threshold=0.0)
WORDS = Vocabulary.from_names(["cup", "floor", "wall"], stuff=["floor", "wall"])
SLOW = pytest.mark.slow
PICTURE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)

openvino = pytest.importorskip("openvino")
pytest.importorskip("onnx")


def segmenter(backend: str, cache: Path, precision: str = "fp32", checkpoint: str = "recipe:tiny") -> Segmenter:
    made = Segmenter.from_checkpoint(
        checkpoint, device="cpu", backend=backend, precision=precision, settings=SETTINGS, cache_dir=cache
    )
    made.set_vocabulary(WORDS)
    return made


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> PanopticResult:
    """Eager's answer."""
    return segmenter("eager", tmp_path_factory.mktemp("eager"))(PICTURE)


@pytest.fixture(scope="module")
def full_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with OpenVINO's graph, eager's answer to the check picture, and text rows."""
    cache = tmp_path_factory.mktemp("full")
    segmenter("openvino", cache)(PICTURE)
    assert {path.suffix for path in (cache / "built").iterdir()} >= {".graph", ".reference"}
    return cache


@pytest.fixture
def cache(full_cache: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(full_cache, tmp_path / "cache"))


def assert_same(found: PanopticResult, expected: PanopticResult) -> None:
    """Float32 backends differ by rounding, and seeded masks are full of ties."""
    assert [segment.name for segment in found.segments] == [segment.name for segment in expected.segments]
    assert (found.segment_map == expected.segment_map).mean() > 0.99


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


def graph_of(cache: Path) -> Path:
    (path,) = (cache / "built").glob("*.graph")
    return path


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def reference_of(graph: Path) -> Path:
    (path,) = graph.parent.glob("*-fp32-cpu.reference")
    return path


def rewritten_key(path: Path, **changes: str) -> None:
    """A whole file that says that it was built from something else."""
    data = path.read_bytes()
    start = len(MAGIC) + 8
    length = int.from_bytes(data[len(MAGIC) : start], "little")
    header = json.loads(data[start : start + length])
    header["key"] |= changes
    encoded = json.dumps(header).encode()
    path.write_bytes(MAGIC + len(encoded).to_bytes(8, "little") + encoded + data[start + length :])


# --- what is kept on disk -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        pytest.param(lambda path: cut(path, path.stat().st_size // 2), "truncated", id="half"),
        pytest.param(lambda path: rewritten_key(path, weights="0" * 32), "its weights is 0000", id="other weights"),
        pytest.param(
            lambda path: rewritten_key(path, code="0" * 32), "its code is 0000", id="another version", marks=SLOW
        ),
        pytest.param(lambda path: cut(path, 0), "truncated", id="empty", marks=SLOW),
        pytest.param(
            lambda path: shutil.copy(reference_of(path), path), "its file is not given", id="another file", marks=SLOW
        ),
    ],
)
def test_a_kept_graph_that_is_not_to_be_used_is_built_again(
    cache: Path,
    expected: PanopticResult,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
    says: str,
) -> None:
    damage(graph_of(cache))
    made = segmenter("openvino", cache)
    assert_same(made(PICTURE), expected)
    assert says in caplog.text and "built again" in caplog.text
    assert not errors(caplog)
    assert made.backend_warning == ""
    assert "; not " not in made.backend_description


def test_auto_builds_a_truncated_graph_again_too(
    cache: Path, expected: PanopticResult, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(_ORDER, "cpu", ("openvino", "eager"))
    path = graph_of(cache)
    whole = path.stat().st_size
    cut(path, whole - 1)
    made = segmenter("auto", cache)
    for _ in range(RECURS):
        assert_same(made(PICTURE), expected)
        assert made.backend_description.startswith("eager PyTorch")
    wait_for(lambda: path.stat().st_size == whole and made.close())
    assert "truncated" in caplog.text
    assert_same(made(PICTURE), expected)
    assert made.backend_description.startswith("OpenVINO")


def test_a_cache_that_cannot_be_written_costs_time_alone(
    tmp_path: Path, expected: PanopticResult, caplog: pytest.LogCaptureFixture
) -> None:
    """As root, a file in the way stands for a folder without write permission."""
    (tmp_path / "file").write_text("")
    made = segmenter("openvino", tmp_path / "file" / "cache")
    assert_same(made(PICTURE), expected)
    assert made.backend_description.startswith("OpenVINO")
    assert "cannot be kept" in caplog.text and "FCCLIP_CACHE_DIR" in caplog.text
    assert not errors(caplog)


@contextlib.contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """Writes fail in the middle of a file, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_costs_time_alone(
    tmp_path: Path, expected: PanopticResult, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = graph.export_onnx
    # Torch writes the graph to a temporary file first, which may lie on another disk.
    monkeypatch.setattr(graph, "export_onnx", lambda *args: _unlimited(lambda: real(*args)))
    with no_file_beyond(1_000_000):
        made = segmenter("openvino", tmp_path)
        assert_same(made(PICTURE), expected)
    assert made.backend_description.startswith("OpenVINO")
    assert "cannot be kept: File too large" in caplog.text
    assert not list((tmp_path / "built").glob("*.graph")), "no half a file"
    assert not list((tmp_path / "built").glob(".*")), "nothing left behind"


def _unlimited(work: Callable[[], bytes]) -> bytes:
    with no_file_beyond(resource.getrlimit(resource.RLIMIT_FSIZE)[1]):
        return work()


@pytest.mark.parametrize("has_compiler", [True, False])
def test_a_truncated_kernel_under_auto(
    tmp_path: Path,
    expected: PanopticResult,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    has_compiler: bool,
) -> None:
    monkeypatch.setattr(LIBRARY, "_loaded", None)
    segmenter("auto", tmp_path / "whole")
    if not LIBRARY._loaded:
        pytest.skip("no C++ compiler")
    (kernel,) = (tmp_path / "whole" / "built").glob("deformable_native-*.so")
    # In another place: this process runs the whole one.
    (tmp_path / "built").mkdir()
    cut(Path(shutil.copy(kernel, tmp_path / "built")), kernel.stat().st_size // 2)
    monkeypatch.setattr(LIBRARY, "_loaded", None)
    if not has_compiler:
        monkeypatch.setenv("CXX", "/nowhere/c++")
    made = segmenter("auto", tmp_path)
    assert_same(made(PICTURE), expected)
    assert "oneDNN" in made.backend_description
    assert ("deformable attention uncompiled" in made.backend_description) is not has_compiler
    assert ("is damaged, so it is compiled again" in caplog.text) is has_compiler


# --- libraries that fail ------------------------------------------------------------------------------------------


def assert_fell_back(
    made: Segmenter, expected: PanopticResult, caplog: pytest.LogCaptureFixture, says: str, to: str
) -> None:
    """The answer is right, and log, description and problem say what happened; the log says it once."""
    for _ in range(3):
        assert_same(made(PICTURE), expected)
    (error,) = [text for text in errors(caplog) if "backend openvino failed, falling back to the next one" in text]
    assert says in error
    assert made.backend_description.startswith(to)
    assert "; not openvino: " in made.backend_description and says in made.backend_description
    assert made.backend_warning.startswith("backend openvino is disabled: ") and says in made.backend_warning


def raising(error: Exception) -> Callable[..., Any]:
    def call(*_: Any, **__: Any) -> Any:
        raise error

    return call


def test_a_missing_library(
    tmp_path: Path, expected: PanopticResult, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    made = segmenter("openvino", tmp_path)
    assert_fell_back(made, expected, caplog, "pip install openvino", "PyTorch")


def test_a_library_whose_own_libraries_are_missing(
    tmp_path: Path, expected: PanopticResult, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(openvino, "Core", raising(RuntimeError("libtbb.so.12: cannot open shared object file")))
    made = segmenter("openvino", tmp_path)
    assert_fell_back(made, expected, caplog, "RuntimeError: libtbb.so.12: cannot open", "PyTorch")


@pytest.mark.parametrize(
    "error", [RuntimeError("Check 'memory' failed: std::bad_alloc"), MemoryError()], ids=["library", "python"]
)
def test_out_of_memory_while_a_graph_is_compiled(
    cache: Path,
    expected: PanopticResult,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    monkeypatch.setattr(openvino.Core, "compile_model", raising(error))
    made = segmenter("openvino", cache)
    assert_fell_back(made, expected, caplog, str(error) or "MemoryError", "PyTorch")


def test_a_library_that_computes_something_else(
    tmp_path: Path, expected: PanopticResult, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The graph of other weights stands for a runtime with a wrong kernel."""

    def export(model: FCCLIP, form: Any, sampler: Any) -> bytes:
        torch.manual_seed(0)
        return export_onnx(FCCLIP(model.config).eval(), form, sampler)

    monkeypatch.setattr(graph, "export_onnx", export)
    made = segmenter("openvino", tmp_path)
    assert_fell_back(made, expected, caplog, "eager PyTorch on the test image", "PyTorch")
    assert not list((tmp_path / "built").glob("*.graph")), "a wrong graph must not be kept"


class NoMemory:
    """Of the module `tensorrt`, what `EngineBuilder` asks for; building ends as it does on a GPU that is full."""

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING = range(3)

    class IProgressMonitor:
        pass

    class NetworkDefinitionCreationFlag:
        STRONGLY_TYPED = 1

    class BuilderFlag:
        pass

    class Builder:
        def __init__(self, log: Any) -> None:
            self._log = log

        def create_network(self, flags: int) -> object:
            return object()

        def create_builder_config(self) -> Any:
            return type("Config", (), {})()

        def build_serialized_network(self, network: object, config: Any) -> None:
            config.progress_monitor.phase_start("Building", None, 10)
            self._log.log(1, "[defaultAllocator.cpp::allocate::45] Error Code 1: Cuda Runtime (out of memory)")

    class OnnxParser:
        def __init__(self, network: object, log: Any) -> None:
            pass

        def parse(self, onnx: bytes) -> bool:
            return len(onnx) > 1000


def test_out_of_gpu_memory_while_an_engine_is_built(
    tmp_path: Path, expected: PanopticResult, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """TensorRT's builder in OpenVINO's place, which needs no GPU to be asked."""

    class Engines(OpenVino):
        def build(self, export: Any, progress: Any) -> bytes:
            builder = EngineBuilder(NoMemory, "TensorRT")  # type: ignore[arg-type]
            return builder.build(export(sample_by_gather), self.precision, progress)

    monkeypatch.setitem(LIBRARIES, "openvino", Engines)
    made = segmenter("openvino", tmp_path)
    assert_fell_back(made, expected, caplog, "TensorRT cannot build the engine", "PyTorch")
    assert "Cuda Runtime (out of memory)" in made.backend_warning


def test_a_build_that_is_stopped_keeps_nothing_alive(no_collector: None) -> None:
    """Ctrl-C while an engine is built: the error must not hold the builder, and with it the graph."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    class Graph:
        def __len__(self) -> int:
            return 2000

    onnx = Graph()
    seen = weakref.ref(onnx)
    with contextlib.suppress(KeyboardInterrupt):
        EngineBuilder(NoMemory, "TensorRT").build(onnx, "fp16", stop)  # type: ignore[arg-type]
    del onnx
    assert seen() is None


# --- in the middle of a stream ------------------------------------------------------------------------------------


class Failing:
    """OpenVINO's requests from now on: each call numbered in `calls` raises."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, calls: range) -> None:
        self.count = 0
        real = openvino.CompiledModel.create_infer_request
        outer = self

        class Request:
            def __init__(self, model: Any) -> None:
                self._request = real(model)

            def infer(self, *args: Any, **options: Any) -> Any:
                outer.count += 1
                if outer.count in calls:
                    raise RuntimeError("Exception from src/inference/src/cpp/infer_request.cpp:223:\nout of memory")
                return self._request.infer(*args, **options)

        monkeypatch.setattr(openvino.CompiledModel, "create_infer_request", lambda model: Request(model))


def test_a_failure_that_passes_costs_no_image_and_no_backend(
    cache: Path, expected: PanopticResult, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # The first call answers the check picture.
    calls = Failing(monkeypatch, range(4, 5))
    made = segmenter("openvino", cache)
    for _ in range(6):
        assert_same(made(PICTURE), expected)
    assert calls.count == 8
    assert made.backend_description.startswith("OpenVINO") and "; not " not in made.backend_description
    assert made.backend_warning == ""
    assert "backend openvino failed, retrying the image once: RuntimeError: Exception from" in caplog.text
    assert not errors(caplog)


def test_a_failure_that_stays_hands_the_stream_to_the_next_backend(
    cache: Path, expected: PanopticResult, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls = Failing(monkeypatch, range(4, 1000))
    made = segmenter("openvino", cache)
    for _ in range(2):
        assert_same(made(PICTURE), expected)
    assert made.backend_description.startswith("OpenVINO")
    assert_fell_back(made, expected, caplog, "RuntimeError: Exception from src/inference", "PyTorch")
    assert calls.count == 5, "the check, two images, and the third twice"


def test_a_batch_that_fails_is_the_callers_to_split(
    cache: Path, expected: PanopticResult, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Two images at once may be too many for a backend that is fine."""
    # After the check and an image, and the check of the batch.
    calls = Failing(monkeypatch, range(4, 6))
    made = segmenter("openvino", cache)
    assert_same(made(PICTURE), expected)
    made.prepare(*PICTURE.shape[:2], 2)
    with pytest.raises(Exception, match="out of memory"):
        made.encode_batch([PICTURE, PICTURE])
    assert calls.count == 5
    assert_same(made(PICTURE), expected)
    assert made.backend_description.startswith("OpenVINO") and made.backend_warning == ""


def test_the_last_backend_is_asked_again_after_a_failure(
    tmp_path: Path, expected: PanopticResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = segmenter("eager", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(FCCLIP, "forward", raising(torch.OutOfMemoryError("CUDA out of memory")))
        for _ in range(3):
            with pytest.raises(torch.OutOfMemoryError):
                made(PICTURE)
    assert_same(made(PICTURE), expected)
    assert made.backend_warning == ""


def test_frames_of_a_form_without_a_graph_are_not_kept(
    full_cache: Path, monkeypatch: pytest.MonkeyPatch, no_collector: None
) -> None:
    monkeypatch.setitem(_ORDER, "cpu", ("openvino", "eager"))
    made = segmenter("auto", full_cache)
    taken: list[weakref.ref[torch.Tensor]] = []
    prepare = made._preprocess

    def watched(*arguments: Any) -> Any:
        tensor, geometry = prepare(*arguments)
        taken.append(weakref.ref(tensor))
        return tensor, geometry

    monkeypatch.setattr(made, "_preprocess", watched)
    for _ in range(3):
        made.encode(np.zeros((48, 128, 3), np.uint8))
    assert len(taken) == 3
    assert not any(image() is not None for image in taken)


def test_onednn_that_runs_out_of_memory_under_auto(
    tmp_path: Path, expected: PanopticResult, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = segmenter("auto", tmp_path)
    assert_same(made(PICTURE), expected)
    assert "oneDNN" in made.backend_description
    fused = torch.ops.mkldnn._linear_pointwise
    monkeypatch.setattr(
        torch.ops.mkldnn, "_linear_pointwise", raising(RuntimeError("could not create a primitive")), raising=True
    )
    assert_same(made(PICTURE), expected)
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", fused)
    assert made.backend_description.startswith("eager PyTorch")
    assert "backend onednn is disabled: RuntimeError: could not create a primitive" in made.backend_warning
    assert len(errors(caplog)) == 1
