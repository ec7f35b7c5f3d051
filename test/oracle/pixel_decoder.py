"""Pixel decoder: multi-scale deformable attention over strides 32, 16, 8, then one top-down step to stride 4."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from fcclip_core.model.config import ModelConfig
from fcclip_core.model.decoder_config import DeformablePixelDecoderConfig
from oracle.trace import Trace
from oracle.weights import Weights


def sine_position(x: torch.Tensor, channels: int) -> torch.Tensor:
    """Sine position embedding (B, channels, H, W) of feature map `x`: the first half codes rows, the second columns."""
    ones = torch.ones((x.shape[0], *x.shape[-2:]), dtype=torch.bool)
    frequency = torch.arange(channels // 2, dtype=torch.float32)
    frequency = 10000 ** (2 * (frequency // 2) / (channels // 2))
    coded = []
    for axis in (1, 2):
        steps = ones.cumsum(axis, dtype=torch.float32)
        last = steps.narrow(axis, steps.shape[axis] - 1, 1)
        angle = (steps / (last + 1e-6) * 2 * math.pi)[..., None] / frequency
        coded.append(torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), dim=4).flatten(3))
    return torch.cat(coded, dim=3).permute(0, 3, 1, 2)


def decode_pixels(
    weights: Weights, config: ModelConfig, features: dict[str, torch.Tensor], trace: Trace
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Stages of the backbone -> mask features (B, C, h/4, w/4) and the three levels, stride 32 first."""
    decoder = weights.under("sem_seg_head.pixel_decoder")
    maps, positions = [], []
    for level, name in enumerate(("res5", "res4", "res3")):
        projection = decoder.under(f"input_proj.{level}")
        projected = projection.under("1").group_norm(projection.under("0").conv(features[name]))
        maps.append(trace.note(f"pix.input_proj.{level}", projected))
        positions.append(sine_position(projected, _part(config).dim))
    trace.note("pix.pos", torch.cat([position.flatten(2) for position in positions], dim=2))
    with trace.stage("deformable encoder"):
        levels = _encode(decoder.under("transformer"), config, maps, positions, trace)
    for index, enriched in enumerate(levels):
        trace.note(f"pix.multi_scale.{index}", enriched)

    lateral = decoder.under("adapter_1.norm").group_norm(decoder.under("adapter_1").conv(features["res2"]))
    trace.note("pix.lateral", lateral)
    upsampled = F.interpolate(levels[-1], size=lateral.shape[-2:], mode="bilinear", align_corners=False)
    merged = trace.note("pix.fpn_in", lateral + upsampled)
    fine = F.relu(decoder.under("layer_1.norm").group_norm(decoder.under("layer_1").conv(merged, padding=1)))
    trace.note("pix.fpn_out", fine)
    return trace.note("pix.mask_features", decoder.under("mask_features").conv(fine)), levels


def _encode(
    transformer: Weights,
    config: ModelConfig,
    maps: list[torch.Tensor],
    positions: list[torch.Tensor],
    trace: Trace,
) -> list[torch.Tensor]:
    shapes = [(int(level.shape[-2]), int(level.shape[-1])) for level in maps]
    trace.note("pix.shapes", torch.tensor(shapes))
    tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in maps], 1)
    position = torch.cat(
        [
            position.flatten(2).transpose(1, 2) + transformer["level_embed"][index].view(1, 1, -1)
            for index, position in enumerate(positions)
        ],
        1,
    )
    reference = _pixel_centers(shapes)
    for index in range(_part(config).layers):
        layer = transformer.under(f"encoder.layers.{index}")
        attended = _deformable_attention(layer.under("self_attn"), config, tokens + position, tokens, reference, shapes)
        trace.note(f"pix.enc.{index}.attn", attended)
        tokens = layer.under("norm1").layer_norm(tokens + attended)
        hidden = layer.under("linear2").linear(F.relu(layer.under("linear1").linear(tokens)))
        tokens = trace.note(f"pix.enc.{index}", layer.under("norm2").layer_norm(tokens + hidden))
    parts = tokens.split([height * width for height, width in shapes], dim=1)
    return [
        part.transpose(1, 2).view(len(tokens), -1, height, width)
        for part, (height, width) in zip(parts, shapes, strict=True)
    ]


def _pixel_centers(shapes: list[tuple[int, int]]) -> torch.Tensor:
    """Centers of all pixels of all levels, x before y, in 0..1: (1, tokens, 1, 2)."""
    centers = []
    for height, width in shapes:
        y, x = torch.meshgrid(
            torch.linspace(0.5, height - 0.5, height), torch.linspace(0.5, width - 0.5, width), indexing="ij"
        )
        centers.append(torch.stack((x.reshape(-1) / width, y.reshape(-1) / height), -1))
    return torch.cat(centers)[None, :, None]


def _deformable_attention(
    attention: Weights,
    config: ModelConfig,
    query: torch.Tensor,
    tokens: torch.Tensor,
    reference: torch.Tensor,
    shapes: list[tuple[int, int]],
) -> torch.Tensor:
    """Samples every level around each query's own pixel with `grid_sample` and sums by attention weight."""
    batch, count, channels = query.shape
    heads, levels, points = _part(config).heads, len(shapes), _part(config).points
    value = attention.under("value_proj").linear(tokens)
    value = value.view(batch, count, heads, channels // heads)
    offsets = attention.under("sampling_offsets").linear(query).view(batch, count, heads, levels, points, 2)
    scores = attention.under("attention_weights").linear(query).view(batch, count, heads, levels * points)
    scores = F.softmax(scores, -1)
    sides = torch.tensor([(width, height) for height, width in shapes])
    places = reference[:, :, None, :, None, :] + offsets / sides[None, None, None, :, None, :]
    grids = 2 * places - 1
    samples = []
    parts = value.split([height * width for height, width in shapes], dim=1)
    for index, (part, (height, width)) in enumerate(zip(parts, shapes, strict=True)):
        level = part.flatten(2).transpose(1, 2).reshape(batch * heads, channels // heads, height, width)
        grid = grids[:, :, :, index].transpose(1, 2).flatten(0, 1)
        samples.append(F.grid_sample(level, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
    scores = scores.transpose(1, 2).reshape(batch * heads, 1, count, levels * points)
    mixed = (torch.stack(samples, dim=-2).flatten(-2) * scores).sum(-1).view(batch, channels, count)
    return attention.under("output_proj").linear(mixed.transpose(1, 2).contiguous())


def _part(config: ModelConfig) -> DeformablePixelDecoderConfig:
    assert isinstance(config.pixel_decoder, DeformablePixelDecoderConfig)
    return config.pixel_decoder
