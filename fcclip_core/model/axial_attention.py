"""Axial attention with relative positions (Wang et al., "Axial-DeepLab"), the self-attention of kMaX's pixel decoder.

Each pixel attends to its column, then to its row. Scores depend on content and on learned embeddings of the distance,
which are looked up for the length at hand, so one set of weights serves every size up to `SPAN`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fcclip_core.errors import ImageError
from fcclip_core.model.conv_norm import ConvNorm1d, batch_norm1d, batch_norm2d
from fcclip_core.model.precision import at_least_float32

SPAN = 255
"""Longest row or column: the tables know distances from -254 to 254."""


class AxisAttention(nn.Module):
    """Self-attention along sequences, with three kinds of scores and two kinds of values."""

    def __init__(self, channels: int, heads: int) -> None:
        """Builds attention of `channels`, with half as many channels for queries and for keys."""
        super().__init__()
        self.heads = heads
        self._parts = (channels // 2, channels // 2, channels)
        self.qkv = ConvNorm1d(channels, sum(self._parts))
        key_depth, value_depth = channels // 2 // heads, channels // heads
        self.query_position = nn.Embedding(2 * SPAN - 1, key_depth)
        self.key_position = nn.Embedding(2 * SPAN - 1, key_depth)
        self.value_position = nn.Embedding(2 * SPAN - 1, value_depth)
        self.similarity_norm = batch_norm2d(3 * heads)
        self.output_norm = batch_norm1d(2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        """Sequences `(N, channels, L)` -> `(N, channels, L)`, L up to `SPAN`.

        Raises:
            ImageError: The sequences are longer.
        """
        length = x.shape[-1]
        if length > SPAN:
            raise ImageError(
                f"the image is too large for the axial pixel decoder: a feature map has a side of {length}, and "
                f"relative positions are known up to {SPAN}; reduce shorter_side"
            )
        query, key, value = (
            part.unflatten(1, (self.heads, -1)) for part in self.qkv(x).split(self._parts, dim=1)
        )  # (N, heads, depth, L)
        of_query, of_key, of_value = (
            embedding.weight[self._distances(length, x.device)].to(value.dtype)  # (L, L, depth)
            for embedding in (self.query_position, self.key_position, self.value_position)
        )
        scores = (
            query.transpose(-1, -2) @ key,
            torch.einsum("nhdl,lmd->nhlm", query, of_query),
            torch.einsum("nhdm,lmd->nhlm", key, of_key),
        )
        similarity = at_least_float32(self.similarity_norm(torch.cat(scores, dim=1)))
        weights = similarity.unflatten(1, (3, self.heads)).sum(1).softmax(-1).to(value.dtype)
        content = value @ weights.transpose(-1, -2)
        place = torch.einsum("nhlm,lmd->nhdl", weights, of_value)
        return (
            self.output_norm(torch.cat((content.flatten(1, 2), place.flatten(1, 2)), dim=1))
            .unflatten(1, (2, -1))
            .sum(1)
        )

    @staticmethod
    def _distances(length: int, device: torch.device) -> Tensor:
        """Row of a table for each pair of positions: the second minus the first."""
        place = torch.arange(length, device=device)
        return place[None, :] - place[:, None] + SPAN - 1


class AxialAttention(nn.Module):
    """Attention along every column, then along every row."""

    def __init__(self, channels: int, heads: int) -> None:
        """Builds both axes; `channels` is divisible by twice the number of heads."""
        super().__init__()
        self.height = AxisAttention(channels, heads)
        self.width = AxisAttention(channels, heads)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, channels, H, W)` -> `(B, channels, H, W)`."""
        batch = x.shape[0]
        columns = self.height(x.permute(0, 3, 1, 2).flatten(0, 1))
        x = columns.unflatten(0, (batch, -1)).permute(0, 2, 3, 1)
        rows = self.width(x.permute(0, 2, 1, 3).flatten(0, 1))
        return rows.unflatten(0, (batch, -1)).permute(0, 2, 1, 3)
