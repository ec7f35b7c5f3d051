"""Mask decoder: object queries attend to the image by masked attention and predict class-agnostic masks (section 3.2).

Follows Mask2Former (Cheng et al., 2022, section 3.2) with FC-CLIP's in-vocabulary embedding on top.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcclip_core.model.backbone import Pool, mask_pool
from fcclip_core.model.decoder_config import MaskedAttentionDecoderConfig
from fcclip_core.model.pixel_decoder import NUM_LEVELS, PixelDecoderOutput, sine_position
from fcclip_core.model.relu_linear import ReluLinear


@dataclass(frozen=True)
class MaskPrediction:
    """The prediction of the queries at one decoder depth.

    Attributes:
        mask_logits: `(B, Q, H/4, W/4)`.
        in_vocab_embedding: `(B, Q, D)` in CLIP's joint space, not normalized.
    """

    mask_logits: Tensor
    in_vocab_embedding: Tensor


class MLP(nn.Module):
    """Three linear layers with ReLU between them."""

    def __init__(self, dim: int, out_dim: int) -> None:
        """Builds layers `dim` -> `dim` -> `dim` -> `out_dim`."""
        super().__init__()
        self.layers = nn.ModuleList((ReluLinear(dim, dim), ReluLinear(dim, dim), nn.Linear(dim, out_dim)))

    def forward(self, x: Tensor) -> Tensor:
        """`(..., dim)` -> `(..., out_dim)`."""
        first, second, last = self.layers
        return last(second(first(x)))


Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""Query `(B, heads, Q, c)`, key and value `(B, heads, N, c)`, allowed bool `(B, 1, Q, N)` -> `(B, heads, Q, c)`."""


Project = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Input `(..., in)`, weight `(out, in)` and bias -> `(..., out)`."""


class Attention(nn.Module):
    """Multi-head attention; query, key and value are projected by one stacked matrix, as torch stores it.

    Attributes:
        attend: Implementation of the attention; a backend may replace it.
        project: Implementation of the projections; a backend may replace it.
    """

    def __init__(self, dim: int, heads: int) -> None:
        """Builds attention over `dim` channels, `dim / heads` per head."""
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        self.attend: Attend = F.scaled_dot_product_attention
        self.project: Project = F.linear
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Attends from `query` `(B, Q, C)` to `key`, `value` `(B, N, C)` where `allowed`, bool `(B, Q, N)`."""
        return self.read(query, project_for([self], 1, key)[0], project_for([self], 2, value)[0], allowed)

    def read(self, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None) -> Tensor:
        """`forward` for a `key` and a `value` already projected by `project_for`."""
        query = project_for([self], 0, query)[0]
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (query, key, value))
        mask = None if allowed is None else allowed.unsqueeze(1)
        return self.out_proj(self.attend(q, k, v, mask).transpose(1, 2).flatten(2))


def project_for(attentions: Sequence[Attention], part: int, x: Tensor) -> Sequence[Tensor]:
    """Projects `x` `(B, N, C)` for several attentions in one product.

    Args:
        attentions: Attentions of equal width.
        part: 0 projects `x` to queries, 1 to keys, 2 to values.
        x: Their common input.

    Returns:
        `(B, N, C)` for each of `attentions`.
    """
    weights = [attention.in_proj_weight.chunk(3)[part] for attention in attentions]
    biases = [attention.in_proj_bias.chunk(3)[part] for attention in attentions]
    return attentions[0].project(x, torch.cat(weights), torch.cat(biases)).chunk(len(attentions), dim=-1)


def set_attend(model: nn.Module, attend: Attend) -> None:
    """Replaces `attend` of every attention inside `model`."""
    for module in model.modules():
        if isinstance(module, Attention):
            module.attend = attend


class DecoderLayer(nn.Module):
    """Masked cross-attention, self-attention and feed-forward, each with residual and normalization."""

    def __init__(self, config: MaskedAttentionDecoderConfig) -> None:
        """Builds one layer of `config.dim` channels."""
        super().__init__()
        dim, heads = config.dim, config.heads
        self.cross_attention = Attention(dim, heads)
        self.cross_attention_norm = nn.LayerNorm(dim)
        self.self_attention = Attention(dim, heads)
        self.self_attention_norm = nn.LayerNorm(dim)
        self.linear1 = ReluLinear(dim, config.ffn_dim)
        self.linear2 = nn.Linear(config.ffn_dim, dim)
        self.feed_forward_norm = nn.LayerNorm(dim)

    def forward(self, queries: Tensor, position: Tensor, key: Tensor, value: Tensor, allowed: Tensor) -> Tensor:
        """`queries` `(B, Q, C)` with `position` `(Q, C)` read `key`, `value` `(B, N, C)`, projected -> `(B, Q, C)`."""
        attended = self.cross_attention.read(queries + position, key, value, allowed)
        queries = self.cross_attention_norm(queries + attended)
        placed = queries + position
        queries = self.self_attention_norm(queries + self.self_attention(placed, placed, queries))
        return self.feed_forward_norm(queries + self.linear2(self.linear1(queries)))


class MaskDecoder(nn.Module):
    """Object queries -> masks and in-vocabulary embeddings.

    Layer i attends to level i mod 3 (strides 32, 16, 8), restricted to the mask predicted by the layer before.

    Attributes:
        multiply: Implementation of the product of `(B, Q, C)` and `(B, C, N)`; a backend may replace it.
        pool: Implementation of mask pooling; a backend may replace it.
    """

    def __init__(self, config: MaskedAttentionDecoderConfig, embed_dim: int) -> None:
        """Builds `config.layers` layers and their shared heads, with class embeddings of `embed_dim` channels."""
        super().__init__()
        dim = config.dim
        self.query_content = nn.Embedding(config.queries, dim)
        self.query_position = nn.Embedding(config.queries, dim)
        self.level_embed = nn.Embedding(NUM_LEVELS, dim)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(dim)
        self.mask_embed = MLP(dim, dim)
        self.mask_pooling_proj = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim))
        self.class_embed = MLP(dim, embed_dim)
        self.multiply: Callable[[Tensor, Tensor], Tensor] = torch.matmul
        self.pool: Pool = mask_pool
        # Learned logit scale of the in-vocabulary classifier, initialized as in CLIP: 1 / 0.07.
        self.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    def forward(self, pixels: PixelDecoderOutput) -> MaskPrediction:
        """Runs all layers; class embeddings and full-size masks are computed only for the last one."""
        return self.predict(self._states(pixels)[-1], pixels.mask_features)

    def predictions(self, pixels: PixelDecoderOutput) -> tuple[MaskPrediction, ...]:
        """The predictions before the first layer and after each, for the training loss."""
        return tuple(self.predict(queries, pixels.mask_features) for queries in self._states(pixels))

    def _states(self, pixels: PixelDecoderOutput) -> list[Tensor]:
        """The queries `(B, Q, C)`, before the first layer and after each."""
        read = self._keys_and_values(pixels.levels)
        # Resizing is linear: resizing the features once is equivalent to resizing every mask.
        resized = [
            F.interpolate(pixels.mask_features, size=level.shape[-2:], mode="bilinear", align_corners=False).flatten(2)
            for level in pixels.levels
        ]
        position = self.query_position.weight
        states = [self.query_content.weight.expand(pixels.mask_features.shape[0], -1, -1)]
        for index, layer in enumerate(self.layers):
            level = index % NUM_LEVELS
            allowed = self._attention_mask(states[-1], resized[level])
            states.append(layer(states[-1], position, *read[index], allowed))
        return states

    def predict(self, queries: Tensor, mask_features: Tensor) -> MaskPrediction:
        """Masks and class embeddings of `queries` `(B, Q, C)`; mask pooling reads `mask_features` (section 3.2)."""
        state = self.norm(queries)
        mask_logits = self.multiply(self.mask_embed(state), mask_features.flatten(2))
        mask_logits = mask_logits.unflatten(-1, mask_features.shape[-2:])
        pooled = self.mask_pooling_proj(self.pool(mask_features, mask_logits.detach() > 0))
        return MaskPrediction(mask_logits, self.class_embed(pooled + state))

    def _keys_and_values(self, levels: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Key and value `(B, h*w, C)` of each layer, projected; positions join the keys only."""
        read: dict[int, tuple[Tensor, Tensor]] = {}
        for index, (level, embedding) in enumerate(zip(levels, self.level_embed.weight, strict=True)):
            _, dim, height, width = level.shape
            tokens = level.flatten(2).transpose(1, 2) + embedding
            placed = tokens + sine_position(height, width, dim, level.device).flatten(1).T.to(tokens.dtype)
            layers = range(index, len(self.layers), NUM_LEVELS)
            attentions = [cast(DecoderLayer, self.layers[layer]).cross_attention for layer in layers]
            if attentions:
                keys, values = project_for(attentions, 1, placed), project_for(attentions, 2, tokens)
                read |= dict(zip(layers, zip(keys, values, strict=True), strict=True))
        return [read[layer] for layer in range(len(self.layers))]

    def _attention_mask(self, queries: Tensor, features: Tensor) -> Tensor:
        """Allowed keys per query, bool `(B, Q, N)`; a query whose mask is empty at this level attends everywhere."""
        logits = self.multiply(self.mask_embed(self.norm(queries)).detach(), features.detach())
        return (logits >= 0) | (logits.amax(-1, keepdim=True) < 0)
