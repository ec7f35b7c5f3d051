"""Mask decoder: object queries read the image through masked attention and become class-agnostic masks (section 3.2).

Follows Mask2Former (Cheng et al., 2022, section 3.2) with FC-CLIP's in-vocabulary embedding on top.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcclip_core.model.backbone import mask_pool
from fcclip_core.model.config import ModelConfig
from fcclip_core.model.pixel_decoder import NUM_LEVELS, PixelDecoderOutput, sine_position


@dataclass(frozen=True)
class MaskPrediction:
    """What the queries of one decoder depth say.

    Attributes:
        mask_logits: `(B, Q, H/4, W/4)`.
        in_vocab_embedding: `(B, Q, D)` in CLIP's joint space, not normalised.
    """

    mask_logits: Tensor
    in_vocab_embedding: Tensor


class MLP(nn.Module):
    """Three linear layers with ReLU between them."""

    def __init__(self, dim: int, out_dim: int) -> None:
        """Builds layers `dim` -> `dim` -> `dim` -> `out_dim`."""
        super().__init__()
        self.layers = nn.ModuleList((nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, out_dim)))

    def forward(self, x: Tensor) -> Tensor:
        """`(..., dim)` -> `(..., out_dim)`."""
        first, second, last = self.layers
        return last(F.relu(second(F.relu(first(x)))))


Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""Query `(B, heads, Q, c)`, key and value `(B, heads, N, c)`, allowed bool `(B, 1, Q, N)` -> `(B, heads, Q, c)`."""


Project = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Input `(..., in)`, weight `(out, in)` and bias -> `(..., out)`."""


class Attention(nn.Module):
    """Multi-head attention; query, key and value are projected by one stacked matrix, as torch stores it.

    Attributes:
        attend: The form of the weighted sum; a backend chooses it for its target.
        project: The form of the projections, likewise.
    """

    def __init__(self, dim: int, heads: int) -> None:
        """Builds attention over `dim` channels, `dim / heads` a head."""
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
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (
            self.project(x, weight, bias).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )
        mask = None if allowed is None else allowed.unsqueeze(1)
        return self.out_proj(self.attend(q, k, v, mask).transpose(1, 2).flatten(2))


def set_attend(model: nn.Module, attend: Attend) -> None:
    """Makes every attention inside `model` use `attend`."""
    for module in model.modules():
        if isinstance(module, Attention):
            module.attend = attend


class DecoderLayer(nn.Module):
    """Masked cross-attention, self-attention, feed-forward; each added to the queries and normalised."""

    def __init__(self, config: ModelConfig) -> None:
        """Builds one layer of `config.hidden_dim` channels."""
        super().__init__()
        dim, heads = config.hidden_dim, config.num_heads
        self.cross_attention = Attention(dim, heads)
        self.cross_attention_norm = nn.LayerNorm(dim)
        self.self_attention = Attention(dim, heads)
        self.self_attention_norm = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, config.decoder_ffn_dim)
        self.linear2 = nn.Linear(config.decoder_ffn_dim, dim)
        self.feed_forward_norm = nn.LayerNorm(dim)

    def forward(self, queries: Tensor, position: Tensor, key: Tensor, value: Tensor, allowed: Tensor) -> Tensor:
        """`queries` `(B, Q, C)` with `position` `(Q, C)` read `key`, `value` `(B, N, C)` -> `(B, Q, C)`."""
        attended = self.cross_attention(queries + position, key, value, allowed)
        queries = self.cross_attention_norm(queries + attended)
        placed = queries + position
        queries = self.self_attention_norm(queries + self.self_attention(placed, placed, queries))
        return self.feed_forward_norm(queries + self.linear2(self.linear1(queries).relu_()))


class MaskDecoder(nn.Module):
    """Object queries -> masks and in-vocabulary embeddings.

    Layer i reads level i mod 3 (strides 32, 16, 8), limited to the pixels of the mask predicted before it.

    Attributes:
        multiply: The form of the product of `(B, Q, C)` and `(B, C, N)`; a backend chooses it for its target.
    """

    def __init__(self, config: ModelConfig) -> None:
        """Builds `config.decoder_layers` layers and the heads that they share."""
        super().__init__()
        dim = config.hidden_dim
        self.query_content = nn.Embedding(config.num_queries, dim)
        self.query_position = nn.Embedding(config.num_queries, dim)
        self.level_embed = nn.Embedding(NUM_LEVELS, dim)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        self.norm = nn.LayerNorm(dim)
        self.mask_embed = MLP(dim, dim)
        self.mask_pooling_proj = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim))
        self.class_embed = MLP(dim, config.embed_dim)
        self.multiply: Callable[[Tensor, Tensor], Tensor] = torch.matmul
        # Learned temperature of the in-vocabulary classifier, starting where CLIP started: 1 / 0.07.
        self.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    def forward(self, pixels: PixelDecoderOutput) -> MaskPrediction:
        """Runs all layers; the class branch and full-size masks are computed once, for the last one."""
        return self.predict(self._states(pixels)[-1], pixels.mask_features)

    def predictions(self, pixels: PixelDecoderOutput) -> tuple[MaskPrediction, ...]:
        """What the queries say before the first layer and after each: training supervises all of them."""
        return tuple(self.predict(queries, pixels.mask_features) for queries in self._states(pixels))

    def _states(self, pixels: PixelDecoderOutput) -> list[Tensor]:
        """The queries `(B, Q, C)`, before the first layer and after each."""
        keys, values = self._keys_and_values(pixels.levels)
        # Resizing is linear: a resized mask equals the mask of resized features, which are resized only once.
        resized = [
            F.interpolate(pixels.mask_features, size=level.shape[-2:], mode="bilinear", align_corners=False).flatten(2)
            for level in pixels.levels
        ]
        position = self.query_position.weight
        states = [self.query_content.weight.expand(pixels.mask_features.shape[0], -1, -1)]
        for index, layer in enumerate(self.layers):
            level = index % NUM_LEVELS
            allowed = self._attention_mask(states[-1], resized[level])
            states.append(layer(states[-1], position, keys[level], values[level], allowed))
        return states

    def predict(self, queries: Tensor, mask_features: Tensor) -> MaskPrediction:
        """Masks and class embeddings of `queries` `(B, Q, C)`; mask pooling reads `mask_features` (section 3.2)."""
        state = self.norm(queries)
        mask_logits = self.multiply(self.mask_embed(state), mask_features.flatten(2))
        mask_logits = mask_logits.unflatten(-1, mask_features.shape[-2:])
        pooled = self.mask_pooling_proj(mask_pool(mask_features, mask_logits.detach() > 0))
        return MaskPrediction(mask_logits, self.class_embed(pooled + state))

    def _keys_and_values(self, levels: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Tokens `(B, h*w, C)` of each level; positions join the keys only."""
        keys, values = [], []
        for level, embedding in zip(levels, self.level_embed.weight, strict=True):
            _, dim, height, width = level.shape
            value = level.flatten(2).transpose(1, 2) + embedding
            values.append(value)
            keys.append(value + sine_position(height, width, dim, level.device).flatten(1).T.to(value.dtype))
        return keys, values

    def _attention_mask(self, queries: Tensor, features: Tensor) -> Tensor:
        """Where each query may look: bool `(B, Q, N)`; a query whose mask is empty at this level looks everywhere."""
        logits = self.multiply(self.mask_embed(self.norm(queries)).detach(), features.detach())
        return (logits >= 0) | (logits.amax(-1, keepdim=True) < 0)
