"""Deformable attention as TensorRT's own plugin: one node of the graph for each sampling sum.

Full TensorRT brings `MultiscaleDeformableAttnPlugin_TRT`: version 1 to 10.10, version 2 beside it from 10.11, with the
same inputs and output. Values, coordinates and weights must be of one type, so all of them are float32 here, whatever
the network's precision: half a float16 step near 1 is already a fifteenth of a pixel on a map 270 pixels wide.
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
"""Of the nodes; TensorRT's parser looks at their name, version and namespace alone."""


def plugin_sampler(version: str) -> Sampler:
    """The sampling sum that `export_onnx` writes as one plugin node.

    The node reads values `(B, N, heads, C)`, shapes (H, W) of the levels int32 `(levels, 2)`, the first token of each
    level int32 `(levels,)`, locations `(B, Q, heads, levels, points, 2)` and weights `(B, Q, heads, levels, points)`,
    and writes `(B, Q, heads, C)`; float32 but for the two.

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


# An operator of its own is opaque to torch.export, so that it is still one node when the graph is written.
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
