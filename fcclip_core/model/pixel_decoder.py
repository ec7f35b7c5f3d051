"""Pixel decoder: deformable attention over strides 32, 16 and 8, then one FPN step to stride 4 (section 3.2).

Follows Mask2Former (Cheng et al., 2022). There is no padding mask: padding is treated like the image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcclip_core.model.backbone import FeaturePyramid
from fcclip_core.model.decoder_config import DeformablePixelDecoderConfig
from fcclip_core.model.deformable_attention import DeformableAttention
from fcclip_core.model.relu_linear import ReluLinear

NUM_LEVELS = 3
NORM_GROUPS = 32


@dataclass(frozen=True)
class PixelDecoderOutput:
    """Per-pixel features.

    Attributes:
        mask_features: `(B, C, H/4, W/4)`; their product with a query's mask embedding is the mask logits.
        levels: Enriched features at strides 32, 16 and 8, `(B, C, h, w)` each.
    """

    mask_features: Tensor
    levels: tuple[Tensor, Tensor, Tensor]


def sine_position(height: int, width: int, dim: int, device: torch.device) -> Tensor:
    """Sine position embedding `(dim, height, width)`: half the channels for y, half for x.

    Coordinates run from 1 to the side, scaled to 2 pi at the last one; temperature 10000.
    """
    half = dim // 2
    exponent = 2 * torch.div(torch.arange(half, dtype=torch.float32, device=device), 2, rounding_mode="floor") / half

    def axis(length: int) -> Tensor:
        coordinate = torch.arange(1, length + 1, dtype=torch.float32, device=device)
        coordinate = coordinate / (length + 1e-6) * (2 * math.pi)
        angle = coordinate[:, None] / 10000**exponent
        return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=-1).flatten(1).T

    y = axis(height)[:, :, None].expand(half, height, width)
    x = axis(width)[:, None, :].expand(half, height, width)
    return torch.cat((y, x))


def pixel_centers(shapes: Sequence[tuple[int, int]], device: torch.device) -> Tensor:
    """(x, y) of every token's center, 0..1, levels in order: `(N, 2)`."""
    centers = []
    for height, width in shapes:
        y = (torch.arange(height, dtype=torch.float32, device=device) + 0.5) / height
        x = (torch.arange(width, dtype=torch.float32, device=device) + 0.5) / width
        centers.append(torch.stack((x.expand(height, width), y[:, None].expand(height, width)), dim=-1).flatten(0, 1))
    return torch.cat(centers)


class EncoderLayer(nn.Module):
    """Deformable self-attention and feed-forward block, normalized after each."""

    def __init__(self, config: DeformablePixelDecoderConfig) -> None:
        """Builds one layer of `config.dim` channels."""
        super().__init__()
        dim = config.dim
        self.attention = DeformableAttention(dim, config.heads, NUM_LEVELS, config.points)
        self.attention_norm = nn.LayerNorm(dim)
        self.linear1 = ReluLinear(dim, config.ffn_dim)
        self.linear2 = nn.Linear(config.ffn_dim, dim)
        self.feed_forward_norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, position: Tensor, centers: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
        """`tokens` `(B, N, C)` -> `(B, N, C)`; positions are added to queries only, not to values."""
        tokens = self.attention_norm(tokens + self.attention(tokens + position, tokens, centers, shapes))
        return self.feed_forward_norm(tokens + self.linear2(self.linear1(tokens)))


class PixelDecoder(nn.Module):
    """Feature pyramid -> per-pixel features at strides 32, 16, 8 and 4."""

    def __init__(self, config: DeformablePixelDecoderConfig, channels: Sequence[int]) -> None:
        """Builds projections of res2 to res5, which have `channels`, the encoder, and the step to stride 4."""
        super().__init__()
        dim = config.dim
        res2, *others = channels
        self.input_proj = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, dim, 1), nn.GroupNorm(NORM_GROUPS, dim)) for width in reversed(others)
        )
        self.level_embed = nn.Parameter(torch.empty(NUM_LEVELS, dim).normal_())
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.layers))
        self.lateral = nn.Conv2d(res2, dim, 1, bias=False)
        self.lateral_norm = nn.GroupNorm(NORM_GROUPS, dim)
        self.output = nn.Conv2d(dim, dim, 3, padding=1, bias=False)
        self.output_norm = nn.GroupNorm(NORM_GROUPS, dim)
        self.mask_features = nn.Conv2d(dim, dim, 1)

    def forward(self, features: FeaturePyramid) -> PixelDecoderOutput:
        """Runs the encoder over strides 32, 16, 8 and one top-down step to stride 4."""
        inputs = (features.res5, features.res4, features.res3)
        maps = [project(feature) for project, feature in zip(self.input_proj, inputs, strict=True)]
        shapes = [(x.shape[2], x.shape[3]) for x in maps]
        tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1)
        position = self._positions(shapes, tokens)
        centers = pixel_centers(shapes, tokens.device)
        for layer in self.layers:
            tokens = layer(tokens, position, centers, shapes)

        per_level = tokens.split([h * w for h, w in shapes], dim=1)
        coarse, middle, fine = (
            x.transpose(1, 2).unflatten(2, shape) for x, shape in zip(per_level, shapes, strict=True)
        )
        lateral = self.lateral_norm(self.lateral(features.res2))
        merged = lateral + F.interpolate(fine, size=lateral.shape[-2:], mode="bilinear", align_corners=False)
        stride4 = F.relu(self.output_norm(self.output(merged)))
        return PixelDecoderOutput(self.mask_features(stride4), (coarse, middle, fine))

    def _positions(self, shapes: Sequence[tuple[int, int]], tokens: Tensor) -> Tensor:
        """Sine position plus level embedding of every token: `(N, C)`."""
        dim = tokens.shape[-1]
        sines = (sine_position(h, w, dim, tokens.device).flatten(1).T for h, w in shapes)
        return torch.cat([sine + level for sine, level in zip(sines, self.level_embed, strict=True)]).to(tokens.dtype)
