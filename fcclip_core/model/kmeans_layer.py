"""One layer of the k-means mask decoder, and its mask predictor."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcclip_core.model.conv_norm import (
    ConvNorm1d,
    ConvNorm2d,
    ConvNormGelu1d,
    ConvNormGelu2d,
    batch_norm1d,
    batch_norm2d,
)
from fcclip_core.model.decoder_config import KMeansDecoderConfig
from fcclip_core.model.precision import at_least_float32


def owned_pixels(logits: Tensor) -> Tensor:
    """Which query owns each pixel: bool `(B, Q, H, W)`, one query per pixel, the first of equal ones."""
    queries = torch.arange(logits.shape[1], device=logits.device).view(-1, 1, 1)
    return logits.argmax(1, keepdim=True) == queries


class MaskPredictor(nn.Module):
    """Pixel features of unit length, and their products with a kernel for each query.

    Attributes:
        multiply: Implementation of the product of `(B, Q, C)` and `(B, C, N)`; a backend may replace it.
    """

    def __init__(self, channels: int, dim: int, feature_dim: int) -> None:
        """Builds a predictor for a map of `channels` and mask embeddings of `dim` channels."""
        super().__init__()
        self.depthwise = ConvNormGelu2d(channels, channels, 5, groups=channels)
        self.expand = ConvNormGelu2d(channels, dim)
        self.reduce = ConvNorm2d(dim, feature_dim, bias=True)
        self.kernel = ConvNorm1d(dim, feature_dim)
        self.mask_norm = batch_norm2d(1)
        self.multiply: Callable[[Tensor, Tensor], Tensor] = torch.matmul

    def forward(self, pixels: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Map `(B, channels, H, W)`, embedding `(B, dim, Q)` -> logits `(B, Q, H, W)`, features `(B, F, H, W)`."""
        features = F.normalize(at_least_float32(self.reduce(self.expand(self.depthwise(pixels)))), dim=1, eps=1e-12)
        features = features.to(pixels.dtype)
        logits = self.multiply(self.kernel(embedding).transpose(1, 2), features.flatten(2))
        # One channel: all queries and pixels are normalized together.
        logits = self.mask_norm(logits.unsqueeze(1)).squeeze(1)
        return logits.unflatten(-1, features.shape[-2:]), features


class QueryAttention(nn.Module):
    """Self-attention of the queries, normalized over the batch and not scaled."""

    def __init__(self, dim: int, heads: int) -> None:
        """Builds attention with `dim / 2` channels for queries and for keys, and `dim` for values."""
        super().__init__()
        self.heads = heads
        self._parts = (dim // 2, dim // 2, dim)
        self.qkv = ConvNorm1d(dim, sum(self._parts))
        self.similarity_norm = batch_norm2d(heads)
        self.output_norm = batch_norm1d(dim)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, Q)` -> `(B, C, Q)`, activated."""
        query, key, value = (part.unflatten(1, (self.heads, -1)) for part in self.qkv(x).split(self._parts, dim=1))
        scores = at_least_float32(self.similarity_norm(query.transpose(-1, -2) @ key))
        read = value @ scores.softmax(-1).to(value.dtype).transpose(-1, -2)
        return F.gelu(self.output_norm(read.flatten(1, 2)))


class KMeansLayer(nn.Module):
    """One step of k-means, self-attention and feed-forward, each added to the queries."""

    def __init__(self, config: KMeansDecoderConfig, channels: int) -> None:
        """Builds a layer that reads a map of `channels`."""
        super().__init__()
        dim = config.dim
        self.pixel_projection = ConvNormGelu2d(channels, dim)
        self.query_projection = ConvNormGelu1d(dim, dim)
        self.value = ConvNorm2d(dim, dim)
        self.predictor = MaskPredictor(dim, dim, config.feature_dim)
        self.sum_norm = batch_norm1d(dim)
        self.update = ConvNorm1d(dim, dim)
        self.attention = QueryAttention(dim, config.heads)
        self.attention_out = ConvNorm1d(dim, dim)
        self.expand = ConvNormGelu1d(dim, config.ffn_dim)
        self.contract = ConvNorm1d(config.ffn_dim, dim)

    def forward(self, queries: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Updates `queries` `(B, C, Q)` from the map `pixels` `(B, channels, H, W)`.

        Returns:
            The queries; mask logits `(B, Q, H, W)` and pixel features `(B, F, H, W)` that steered the update; and the
            queries' projection `(B, C, Q)` from which they were predicted.
        """
        space, own = self.pixel_projection(F.gelu(pixels)), self.query_projection(queries)
        logits, features = self.predictor(space, own)
        queries = queries + self.update(self.sum_norm(self._sums(self.value(space), logits)))
        queries = F.gelu(queries + self.attention_out(self.attention(own)))
        queries = F.gelu(queries + self.contract(self.expand(queries)))
        return queries, logits, features, own

    @staticmethod
    def _sums(values: Tensor, logits: Tensor) -> Tensor:
        """Sum of `values` `(B, C, H, W)` over each query's own pixels: `(B, C, Q)`, at least float32.

        The assignment has no gradient: masks learn from their own losses.
        """
        values = at_least_float32(values)
        owned = owned_pixels(logits.detach()).flatten(2).to(values.dtype)
        with torch.autocast(values.device.type, enabled=False):
            return values.flatten(2) @ owned.transpose(1, 2)
