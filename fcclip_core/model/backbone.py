"""CLIP's convolutional image towers: one frozen network for features and for mask classification (section 3.2).

Each tower computes the feature pyramid for the pixel decoder, and embeds masks into CLIP's joint space with CLIP's own
pooling head, applied to a mask instead of the whole image (section 3.2, out-of-vocabulary classifier).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from timm.layers import Mlp
from timm.models.convnext import ConvNeXt
from torch import Tensor, nn

from fcclip_core.model.config import LINEAR, ConvNeXtConfig, ModelConfig, ResNetConfig
from fcclip_core.model.precision import at_least_float32


@dataclass(frozen=True)
class FeaturePyramid:
    """Image features `(B, C, H/stride, W/stride)`; res5 is also the map that CLIP's head pools."""

    res2: Tensor
    res3: Tensor
    res4: Tensor
    res5: Tensor


STRIDE = 32
"""Pixels per cell of the convolutional towers' res5."""


class ImageTower(Protocol):
    """The interface of CLIP's image tower."""

    @property
    def stride(self) -> int:
        """Pixels per cell of res5, along each side."""
        ...

    def __call__(self, image: Tensor) -> FeaturePyramid:
        """`image` `(B, 3, H, W)`, normalized, sides divisible by 32."""
        ...

    def embed_masks(self, res5: Tensor, masks: Tensor) -> Tensor:
        """Embeds bool masks `(B, Q, h, w)` over `res5` `(B, C, h, w)` as `(B, Q, D)`, not normalized."""
        ...


Pool = Callable[[Tensor, Tensor], Tensor]
"""Features `(B, C, H, W)` and bool masks `(B, Q, H, W)` -> mean feature inside each mask; see `mask_pool`."""


def mask_pool(features: Tensor, masks: Tensor) -> Tensor:
    """Mean feature inside each mask.

    Args:
        features: `(B, C, H, W)`.
        masks: bool `(B, Q, H, W)`.

    Returns:
        `(B, Q, C)`, at least float32: a mask may have more pixels than float16 can count; zeros for empty masks.
    """
    features = at_least_float32(features)
    weights = masks.flatten(2).to(features.dtype)
    sums = weights @ features.flatten(2).transpose(1, 2)
    return sums / (weights.sum(-1, keepdim=True) + 1e-8)


class ConvNeXtTower(nn.Module):
    """CLIP ConvNeXt: pools the mask, then normalizes and projects, as CLIP does with the whole image.

    Attributes:
        pool: Implementation of mask pooling; a backend may replace it.
    """

    stride = STRIDE

    def __init__(self, config: ConvNeXtConfig, embed_dim: int) -> None:
        """Builds an untrained tower into a joint space of `embed_dim` dimensions."""
        super().__init__()
        self.trunk = ConvNeXt(depths=config.depths, dims=config.dims, num_classes=0, global_pool="")
        self.head = _build_head(config, embed_dim)
        self.pool: Pool = mask_pool

    def forward(self, image: Tensor) -> FeaturePyramid:
        """`image` `(B, 3, H, W)`, normalized, sides divisible by 32."""
        x = self.trunk.stem(image)
        features = []
        for stage in self.trunk.stages:
            x = stage(x)
            features.append(x)
        return FeaturePyramid(*features)

    def embed_masks(self, res5: Tensor, masks: Tensor) -> Tensor:
        """Embeds bool masks `(B, Q, h, w)` over `res5` `(B, C, h, w)` as `(B, Q, D)`, not normalized."""
        norm = cast(nn.LayerNorm, self.trunk.head.norm)
        pooled = F.layer_norm(self.pool(res5, masks), norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        return self.head(pooled.to(res5.dtype))


def _build_head(config: ConvNeXtConfig, embed_dim: int) -> nn.Sequential:
    """The projection into the joint space, with open_clip's names."""
    channels = config.dims[-1]
    if config.head == LINEAR:
        return nn.Sequential(OrderedDict(proj=nn.Linear(channels, embed_dim, bias=False)))
    return nn.Sequential(OrderedDict(mlp=Mlp(channels, 2 * embed_dim, embed_dim, bias=(True, False))))


class ResNetTower(ModifiedResNet):
    """CLIP ResNet: attention pooling with the keys restricted to the mask."""

    stride = STRIDE

    def __init__(self, config: ResNetConfig, embed_dim: int) -> None:
        """Builds an untrained tower into a joint space of `embed_dim` dimensions."""
        super().__init__(list(config.layers), embed_dim, config.heads, image_size=config.image_size, width=config.width)

    def forward(self, image: Tensor) -> FeaturePyramid:
        """`image` `(B, 3, H, W)`, normalized, sides divisible by 32."""
        x = self.stem(image)
        features = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            features.append(x)
        return FeaturePyramid(*features)

    def embed_masks(self, res5: Tensor, masks: Tensor) -> Tensor:
        """Embeds bool masks `(B, Q, h, w)` over `res5` `(B, C, h, w)` as `(B, Q, D)`, not normalized.

        All masks share one query, the mean feature, so attention scores are computed once and only the softmax is per
        mask. An empty mask attends to nothing and gets the projection's bias.
        """
        pool = self.attnpool
        batch, channels, height, width = res5.shape
        tokens = res5.flatten(2).transpose(1, 2)
        keys = tokens + self._position_grid(height, width).to(tokens.dtype)
        query = tokens.mean(1, keepdim=True) + pool.positional_embedding[0].to(tokens.dtype)

        def split_heads(x: Tensor) -> Tensor:
            return x.unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)

        q, k, v = split_heads(pool.q_proj(query)), split_heads(pool.k_proj(keys)), split_heads(pool.v_proj(keys))
        scores = at_least_float32(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5)
        allowed = masks.flatten(2).unsqueeze(1)
        scores = scores.expand(-1, -1, masks.shape[1], -1).masked_fill(~allowed, -torch.inf)
        attention = torch.where(allowed.any(-1, keepdim=True), scores.softmax(-1), 0.0)
        pooled = (attention.to(v.dtype) @ v).transpose(1, 2).reshape(batch, masks.shape[1], channels)
        return pool.c_proj(pooled)

    def _position_grid(self, height: int, width: int) -> Tensor:
        """Positional rows `(h*w, C)`, resized bilinearly from the pre-training grid."""
        rows = self.attnpool.positional_embedding[1:]
        side = int(len(rows) ** 0.5)
        grid = rows.T.unflatten(1, (side, side)).unsqueeze(0)
        return F.interpolate(grid, size=(height, width), mode="bilinear").squeeze(0).flatten(1).T


def build_backbone(config: ModelConfig) -> ConvNeXtTower | ResNetTower:
    """Builds the image tower of `config.vision` with untrained weights."""
    if isinstance(config.vision, ConvNeXtConfig):
        return ConvNeXtTower(config.vision, config.embed_dim)
    return ResNetTower(config.vision, config.embed_dim)
