"""Graphs with TensorRT's plugin for deformable attention: nodes as the plugin takes them, and eager's answers.

Full TensorRT is not here. What its plugin takes is stated in `FLOATS` and `INTEGERS`, after its sources
(NVIDIA/TensorRT, plugin/multiscaleDeformableAttnPlugin); SciPy computes what it computes; TensorRT-RTX parses.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from fcclip_core.backends.eager import EagerBackend
from fcclip_core.backends.tensorrt import find_plugin
from fcclip_core.backends.tensorrt_builder import EngineBuilder
from fcclip_core.backends.tensorrt_library import log_of
from fcclip_core.errors import BackendError
from fcclip_core.export.check import Reference, check, check_picture
from fcclip_core.export.deformable_plugin import plugin_sampler
from fcclip_core.export.input_spec import InputSpec
from fcclip_core.export.onnx_export import INPUT, OPSET, OUTPUTS, export_onnx
from fcclip_core.model.config import TINY
from fcclip_core.model.deformable_attention import sample_by_grid
from fcclip_core.model.fcclip import FCCLIP, ModelOutput
from fcclip_core.weights.checkpoints import load_checkpoint, load_model

onnx = pytest.importorskip("onnx")

CPU = torch.device("cpu")
NAME = "MultiscaleDeformableAttnPlugin_TRT"
FLOATS, INTEGERS = (0, 3, 4), (1, 2)
"""Inputs: values, sampling locations and attention weights; shapes and first tokens of the levels."""

FORMS = {"fp32": InputSpec(1, 64, 96, "fp32"), "fp16": InputSpec(2, 64, 64, "fp16")}


@functools.cache
def model() -> FCCLIP:
    return load_model(load_checkpoint("recipe:tiny"))


@functools.cache
def exported(precision: str, version: str = "2") -> bytes:
    return export_onnx(model(), FORMS[precision], plugin_sampler(version))


def plugin_nodes(content: bytes) -> list[onnx.NodeProto]:
    return [node for node in onnx.load_from_string(content).graph.node if node.op_type == NAME]


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_node_for_each_layer(version: str) -> None:
    loaded = onnx.load_from_string(exported("fp32", version))
    onnx.checker.check_model(loaded)
    assert {item.domain: item.version for item in loaded.opset_import} == {"": OPSET, "trt": 1}
    nodes = plugin_nodes(exported("fp32", version))
    assert len(nodes) == TINY.pixel_decoder.layers
    for node in nodes:
        attributes = {item.name: item.s for item in node.attribute}
        assert attributes == {"plugin_version": version.encode(), "plugin_namespace": b""}
        assert len(node.output) == 1
    assert not [node for node in loaded.graph.node if node.op_type == "GridSample"]


@dataclass(frozen=True)
class Ran:
    """What went into the plugin nodes, in order, and what came out of the graph."""

    inputs: list[list[np.ndarray]]
    output: ModelOutput


@functools.cache
def ran(precision: str) -> Ran:
    """Runs a graph in ONNX Runtime, its plugin nodes in SciPy.

    Nodes are cut out: what they read becomes an output of the graph and what they write an input. Each run then goes
    one node further.
    """
    onnxruntime = pytest.importorskip("onnxruntime")
    loaded = onnx.load_from_string(exported(precision))
    graph, nodes = loaded.graph, plugin_nodes(exported(precision))
    kept = [node for node in graph.node if node.op_type != NAME]
    del graph.node[:]
    graph.node.extend(kept)
    reads = list(dict.fromkeys(name for node in nodes for name in node.input))
    graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in reads)
    float32 = onnx.TensorProto.FLOAT
    graph.input.extend(onnx.helper.make_tensor_value_info(node.output[0], float32, [None] * 4) for node in nodes)
    session = onnxruntime.InferenceSession(loaded.SerializeToString(), providers=["CPUExecutionProvider"])

    spec = FORMS[precision]
    tokens = sum(spec.height * spec.width // stride**2 for stride in (32, 16, 8))
    empty = np.zeros(
        (spec.batch, tokens, TINY.pixel_decoder.heads, TINY.pixel_decoder.dim // TINY.pixel_decoder.heads), np.float32
    )
    feeds = {INPUT: check_picture(spec).numpy(), **{node.output[0]: empty for node in nodes}}
    inputs = []
    for node in nodes:
        found = dict(zip(reads, session.run(reads, feeds), strict=True))
        inputs.append([found[name] for name in node.input])
        feeds[node.output[0]] = sampled(*inputs[-1])
    return Ran(inputs, ModelOutput(*map(torch.from_numpy, session.run(OUTPUTS, feeds))))


def sampled(
    value: np.ndarray, shapes: np.ndarray, starts: np.ndarray, locations: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """What the plugin computes: `(B, Q, heads, C)`."""
    summed = np.zeros((*weights.shape[:3], value.shape[-1]), np.float32)
    for level, ((height, width), start) in enumerate(zip(shapes, starts, strict=True)):
        for image, head in np.ndindex(value.shape[0], value.shape[2]):
            pixels = value[image, start : start + height * width, head].reshape(height, width, -1)
            x, y = np.moveaxis(locations[image, :, head, level], -1, 0) * np.array([width, height])[:, None, None] - 0.5
            for channel in range(value.shape[-1]):
                found = map_coordinates(pixels[..., channel], (y, x), order=1, mode="grid-constant")
                summed[image, :, head, channel] += (found * weights[image, :, head, level]).sum(-1)
    return summed


@pytest.mark.parametrize("precision", FORMS)
def test_inputs_are_what_the_plugin_takes(precision: str) -> None:
    spec, heads = FORMS[precision], TINY.pixel_decoder.heads
    shapes = [(spec.height // stride, spec.width // stride) for stride in (32, 16, 8)]
    tokens = sum(height * width for height, width in shapes)
    grid = (spec.batch, tokens, heads, len(shapes), TINY.pixel_decoder.points)
    for found in ran(precision).inputs:
        assert {found[index].dtype for index in FLOATS} == {np.dtype(np.float32)}
        assert {found[index].dtype for index in INTEGERS} == {np.dtype(np.int32)}
        assert found[0].shape == (spec.batch, tokens, heads, TINY.pixel_decoder.dim // heads)
        assert found[1].tolist() == [list(shape) for shape in shapes]
        assert found[2].tolist() == [0, shapes[0][0] * shapes[0][1], tokens - shapes[2][0] * shapes[2][1]]
        assert found[3].shape == (*grid, 2)
        assert found[4].shape == grid
        np.testing.assert_allclose(found[4].sum((3, 4)), 1, atol=1e-5)


def test_coordinates_never_were_float16() -> None:
    for found in ran("fp16").inputs:
        assert (found[3].astype(np.float16) != found[3]).mean() > 0.2


def test_answers_are_eagers() -> None:
    expected = EagerBackend(model(), CPU)(check_picture(FORMS["fp32"]))
    found = ran("fp32").output
    for name in OUTPUTS[:3]:
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=2e-4, rtol=1e-4)
    assert torch.equal(found.mask_survives, expected.mask_survives)


def test_float16_answers_are_within_tolerance() -> None:
    kept = Reference.of(EagerBackend(model(), CPU)(check_picture(FORMS["fp16"])))
    check("the plugin's graph", kept, ran("fp16").output, "fp16")


def test_sampling_beyond_the_border() -> None:
    """The stand-in for the plugin, and what torch runs while it exports, agree where most samples lie outside."""
    torch.manual_seed(0)
    shapes, value = [(2, 3), (4, 5)], torch.randn(2, 26, 3, 4)
    locations, weights = torch.rand(2, 7, 3, 2, 4, 2) * 3 - 1, torch.rand(2, 7, 3, 2, 4)
    expected = sample_by_grid(value, shapes, locations, weights)
    found = sampled(value.numpy(), np.array(shapes), np.array([0, 6]), locations.numpy(), weights.numpy())
    torch.testing.assert_close(torch.from_numpy(found).flatten(2), expected)
    torch.testing.assert_close(plugin_sampler("2")(value, shapes, locations, weights), expected)
    assert plugin_sampler("1")(value.half(), shapes, locations, weights).dtype == torch.float16


def test_tensorrts_parser_asks_for_the_plugin_and_nothing_else() -> None:
    """TensorRT-RTX has the same parser and no plugins: it must miss exactly these nodes, under this name."""
    trt = pytest.importorskip("tensorrt_rtx")
    builder = EngineBuilder(trt, "TensorRT-RTX")
    assert find_plugin(trt, log_of(trt)) is None
    with pytest.raises(BackendError, match=f"{NAME}.*Plugin not found") as failure:
        builder.build(exported("fp16"), "fp16", lambda *_: None)
    assert str(failure.value).count("In node") == TINY.pixel_decoder.layers


@dataclass(frozen=True)
class Registry:
    """Stands for a TensorRT module with some plugins."""

    all_creators: list[object]

    def get_plugin_registry(self) -> Registry:
        return self

    def init_libnvinfer_plugins(self, log: object, namespace: str) -> bool:
        return True


@pytest.mark.parametrize(
    ("creators", "version"),
    [
        ([], None),
        ([("InstanceNormalization_TRT", "2"), (NAME, "1")], "1"),
        ([(NAME, "1"), (NAME, "2")], "2"),
        ([(NAME, "3")], None),
    ],
)
def test_the_newest_version_that_is_known_is_taken(creators: list[tuple[str, str]], version: str | None) -> None:
    there = [type("Creator", (), {"name": name, "plugin_version": number}) for name, number in creators]
    assert find_plugin(Registry(there), None) == version
