"""Deformable attention as TensorRT's plugin: one graph node per sampling sum.

Full TensorRT includes `MultiscaleDeformableAttnPlugin_TRT`: version 1 up to TensorRT 10.10, since 10.11 also version 2,
with the same inputs and output. Values, coordinates and weights must have one type, so all are float32, independent of
the network's precision: half a float16 step near 1 is a fifteenth of a pixel on a map 270 pixels wide.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.onnx import register_custom_op_symbolic, symbolic_helper

from fcclip_core.export.onnx_export import OPSET
from fcclip_core.model.deformable_attention import Sampler, sample_by_grid

PLUGIN = "MultiscaleDeformableAttnPlugin_TRT"
PLUGIN_VERSIONS = ("2", "1")
"""In order of preference."""

DOMAIN = "trt"
"""Domain of the nodes; TensorRT's parser only reads their name, version and namespace."""


def plugin_sampler(version: str) -> Sampler:
    """Creates the sampler that `export_onnx` exports as one plugin node.

    The node reads values `(B, N, heads, C)`, shapes (H, W) of the levels int32 `(levels, 2)`, the first token of each
    level int32 `(levels,)`, locations `(B, Q, heads, levels, points, 2)` and weights `(B, Q, heads, levels, points)`,
    and writes `(B, Q, heads, C)`; all but the int32 inputs are float32.

    Args:
        version: One of `PLUGIN_VERSIONS`.
    """

    def sample_by_plugin(
        value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
    ) -> Tensor:
        sides = [side for shape in shapes for side in shape]
        summed = _plugin(value.float(), sides, locations.float(), weights.float(), version)
        return summed.flatten(2).to(value.dtype)

    return sample_by_plugin


# A custom operator is opaque to torch.export, so it stays one node in the exported graph.
@torch.library.custom_op("fcclip::sample_by_plugin", mutates_args=())
def _plugin(value: Tensor, sides: Sequence[int], locations: Tensor, weights: Tensor, version: str) -> Tensor:
    shapes = list(zip(sides[::2], sides[1::2], strict=True))
    return sample_by_grid(value, shapes, locations, weights).unflatten(2, value.shape[2:]).contiguous()


@_plugin.register_fake
def _(value: Tensor, sides: Sequence[int], locations: Tensor, weights: Tensor, version: str) -> Tensor:
    batch, _, heads, channels = value.shape
    return value.new_empty(batch, weights.shape[1], heads, channels)


@symbolic_helper.parse_args("v", "is", "v", "v", "s")
def _node(g: Any, value: Any, sides: list[int], locations: Any, weights: Any, version: str) -> Any:
    shapes = torch.tensor(sides, dtype=torch.int32).view(-1, 2)
    tokens = shapes.prod(1)
    starts = (tokens.cumsum(0) - tokens).int()
    constants = [g.op("Constant", value_t=tensor) for tensor in (shapes, starts)]
    attributes = {"plugin_version_s": version, "plugin_namespace_s": ""}
    node = g.op(f"{DOMAIN}::{PLUGIN}", value, *constants, locations, weights, **attributes)
    (batch, _, heads, channels), queries = value.type().sizes(), weights.type().sizes()[1]
    return node.setType(value.type().with_sizes([batch, queries, heads, channels]))


register_custom_op_symbolic("fcclip::sample_by_plugin", _node, OPSET)
