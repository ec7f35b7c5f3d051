"""TensorRT-RTX itself, which builds engines without a GPU: it takes our graphs, and what it built is found again."""

from __future__ import annotations

import copy
import functools
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fcclip_core.backends import reference, tensorrt
from fcclip_core.backends.eager import EagerBackend
from fcclip_core.backends.graph import Exporter, GraphBackend, Runner
from fcclip_core.backends.reference import EagerAnswers
from fcclip_core.backends.tensorrt import TensorRt
from fcclip_core.backends.tensorrt_builder import EngineBuilder
from fcclip_core.backends.tensorrt_library import log_of, start
from fcclip_core.errors import BackendError
from fcclip_core.export.built_files import BuiltFiles
from fcclip_core.export.input_spec import InputSpec
from fcclip_core.export.onnx_export import INPUT, OUTPUTS, export_onnx
from fcclip_core.model.fcclip import FCCLIP
from fcclip_core.settings import BEST_CELL
from fcclip_core.weights.checkpoints import load_checkpoint, load_model

onnx = pytest.importorskip("onnx")
trt = pytest.importorskip("tensorrt_rtx")

CPU = torch.device("cpu")
FLOAT32 = 1

SUPPORTED = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast CastLike Ceil Celu Clip
Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DeformConv DepthToSpace DequantizeLinear Div
Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm
GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization HardSigmoid
HardSwish Hardmax Identity If ImageScaler InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu Less
LessOrEqual Log LogSoftmax Loop LpNormalization LpPool MatMul Max MaxPool Mean MeanVarianceNormalization Min Mish Mod
Mul Neg NonMaxSuppression NonZero Not OneHot Or PRelu Pad ParametricSoftplus Pow QuantizeLinear RNN RandomNormal
RandomNormalLike RandomUniform RandomUniformLike Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp
ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence RoiAlign Round
ScaledTanh Scan Scatter ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus
Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample
Where Xor
"""
"""The operators that NVIDIA lists as supported: onnx-tensorrt, docs/operators.md, branch 10.1-GA of 17 June 2024, whose
parser TensorRT-RTX shares; TensorRT-RTX's own guide names opsets 9 to 22."""

GRAPHS = {
    "tiny": ("recipe:tiny", InputSpec(1, 64, 96, "fp16")),
    "tiny_kmax": ("recipe:tiny_kmax", InputSpec(1, 64, 96, "fp16")),
    "demo": ("demo", InputSpec(1, 640, 864, "fp16")),  # as it sees a camera of 640x480
    "convnext_large": ("recipe:convnext_large", InputSpec(1, 800, 1088, "fp16")),
}


@functools.cache
def tiny() -> FCCLIP:
    return load_model(load_checkpoint("recipe:tiny"))


@functools.cache
def exported(name: str) -> bytes:
    checkpoint, spec = GRAPHS[name]
    return export_onnx(load_model(load_checkpoint(checkpoint)), spec)


@functools.cache
def exported_in(precision: str) -> bytes:
    return export_onnx(tiny(), InputSpec(1, 64, 96, precision))


def build(content: bytes, precision: str, progress: Callable[[str, int, int], None] = lambda *_: None) -> bytes:
    return EngineBuilder(trt, "TensorRT-RTX").build(content, precision, progress)


# --- graphs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["tiny", *(pytest.param(name, marks=pytest.mark.slow) for name in ("demo", "tiny_kmax", "convnext_large"))]
)
def test_builds_what_gpus_run(name: str) -> None:
    """In the size and precision of a camera's frames; no operation is outside NVIDIA's list, or the library's own."""
    content = exported(name)
    found = Counter(node.op_type for node in onnx.load_from_string(content).graph.node)
    builder = start(trt, "TensorRT-RTX", trt.Builder)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log_of(trt))
    assert set(found) - set(SUPPORTED.split()) == set()
    assert {operation for operation in found if not parser.supports_operator(operation)} == set()
    assert len(build(content, "fp16")) > len(content) / 2


@pytest.mark.parametrize("precision", ["fp16", pytest.param("bf16", marks=pytest.mark.slow)])
def test_builds_best_cells(precision: str) -> None:
    """The one operation that pooling over the best cell adds; TensorRT makes it a top-k layer."""
    content = export_onnx(with_best_cells(), InputSpec(1, 64, 96, precision))
    found = {node.op_type for node in onnx.load_from_string(content).graph.node}
    assert "ArgMax" in found and found <= set(SUPPORTED.split())
    assert len(build(content, precision)) > 1_000_000


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_builds_every_precision(precision: str) -> None:
    assert len(build(exported_in(precision), precision)) > 1_000_000


def test_tells_how_far_it_is() -> None:
    steps: list[tuple[int, int]] = []
    build(exported("tiny"), "fp16", lambda _, done, total: steps.append((done, total)))
    assert steps[0][0] == 0
    assert steps[-1][0] == steps[-1][1]


def test_says_which_operation_it_lacks() -> None:
    node = onnx.helper.make_node("NoSuchOperation", [INPUT], [OUTPUTS[0]])
    value = [onnx.helper.make_tensor_value_info(name, FLOAT32, [1]) for name in (INPUT, OUTPUTS[0])]
    broken = onnx.helper.make_model(onnx.helper.make_graph([node], "g", value[:1], value[1:]))
    with pytest.raises(BackendError, match="cannot parse the graph.*NoSuchOperation"):
        build(broken.SerializeToString(), "fp32")


def test_ctrl_c_stops_a_build() -> None:
    def stop(what: str, done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(exported("tiny"), "fp16", stop)


# --- engines that are kept ----------------------------------------------------------------------------------------


@functools.cache
def engine() -> bytes:
    return build(exported("tiny"), "fp16")


class Rtx(TensorRt):
    """TensorRT-RTX on a GPU that is played: its engine is real, and eager PyTorch answers in its place."""

    def __init__(self, files: BuiltFiles) -> None:
        super().__init__(CPU, "fp16", files)
        self.built = 0

    def build(self, export: Exporter, progress: Any) -> bytes:
        self.built += 1
        return engine()

    def load(self, built: bytes, spec: InputSpec) -> Runner:
        assert built == engine()
        return lambda image: tuple(vars(EagerBackend(tiny(), CPU)(image)).values())  # type: ignore[return-value]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The GPU's properties, and the processor in its place."""
    about = SimpleNamespace(name="NVIDIA GeForce RTX 4090", major=8, minor=9)
    monkeypatch.setattr(tensorrt, "check_device", lambda *_: None)
    monkeypatch.setattr(tensorrt, "find_library", lambda capability: (trt, "TensorRT-RTX"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (about.major, about.minor))
    monkeypatch.setattr(tensorrt, "device_name", lambda device: f"{about.name} sm_{about.major}{about.minor}")
    monkeypatch.setattr(torch.cuda, "device", lambda device: torch.inference_mode())
    return about


network = tiny
"""What a process runs."""


def built(folder: Path, size: tuple[int, int] = (64, 96)) -> int:
    """How many engines a process builds that finds its engines in `folder`."""
    files, model = BuiltFiles(folder), network()
    library, answers = Rtx(files), EagerAnswers(model, CPU, files)
    GraphBackend(model, CPU, library, answers, builds=True).prepare(1, *size)
    return library.built


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what the first process builds, which all tests copy."""
    return tmp_path_factory.mktemp("engines")


@pytest.fixture
def folder(engines: Path, gpu: SimpleNamespace, tmp_path: Path) -> Path:
    """A copy of the folder with the engine that another process built."""
    if not any(engines.iterdir()):
        assert built(engines) == 1
    return Path(shutil.copytree(engines, tmp_path / "engines"))


def test_an_engine_is_found_again(folder: Path) -> None:
    assert built(folder) == 0


def other_weights() -> FCCLIP:
    other = copy.deepcopy(tiny())
    with torch.no_grad():
        other.mask_decoder.query_content.weight += 1e-6
    return other


def with_best_cells() -> FCCLIP:
    return load_model(load_checkpoint("recipe:tiny"), BEST_CELL)


CHANGES: dict[str, Callable[[pytest.MonkeyPatch, SimpleNamespace], object]] = {
    "weights": lambda patch, gpu: patch.setattr(sys.modules[__name__], "network", other_weights),
    "vanished masks": lambda patch, gpu: patch.setattr(sys.modules[__name__], "network", with_best_cells),
    "code": lambda patch, gpu: patch.setattr(reference, "code_digest", lambda: "0" * 32),
    "library": lambda patch, gpu: patch.setattr(trt, "__version__", "1.8.0"),
    "gpu's name": lambda patch, gpu: setattr(gpu, "name", "NVIDIA GeForce RTX 5090"),
    "gpu's generation": lambda patch, gpu: setattr(gpu, "minor", 6),
    "driver": lambda patch, gpu: patch.setattr(tensorrt, "driver", lambda: "NVRM version: 580.65.06"),
    "deformable attention": lambda patch, gpu: patch.setattr(tensorrt, "find_plugin", lambda *_: "2"),
}


@pytest.mark.parametrize("part", CHANGES)
def test_an_engine_is_built_again_when_a_part_of_its_key_changes(
    folder: Path, gpu: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    CHANGES[part](monkeypatch, gpu)
    assert built(folder) == 1
    assert built(folder) == 0


def test_every_part_of_the_key_is_changed(gpu: SimpleNamespace) -> None:
    """A new part needs a test, and so does one that is dropped."""
    answers = EagerAnswers(tiny(), CPU, BuiltFiles(None))
    parts = {*answers.key(GRAPHS["tiny"][1]), *Rtx(BuiltFiles(None)).key}
    assert parts - {"form"} == {part.partition("'")[0] for part in CHANGES}


def test_another_form_is_another_engine(folder: Path) -> None:
    assert built(folder, size=(96, 64)) == 1
    assert built(folder) == 0
