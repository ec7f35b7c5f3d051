"""Point sampling: masks are compared at sampled points, most of them where the prediction is uncertain.

As in PointRend (Kirillov et al., 2020, section 3.1). Coordinates are (x, y), 0..1 across the image, with pixel centers
at (i + 0.5) / size and zeros outside the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from fcclip_core.training.config import LossConfig


class PointSource(Protocol):
    """Points at which masks are compared. `layer` counts decoder depths from 0."""

    def matching_points(self, layer: int, image: int) -> Tensor:
        """`(P, 2)`, shared by all pairs of one image."""

    def loss_points(self, layer: int, mask_logits: Tensor, counts: Sequence[int]) -> Tensor:
        """`(M, P, 2)` for matched masks `(M, h, w)`; the first `counts[0]` belong to image 0, and so on."""


class RandomPoints:
    """Uniform points for the matching, mostly uncertain points for the loss."""

    def __init__(self, config: LossConfig, generators: Sequence[torch.Generator]) -> None:
        """Draws the points of image i from `generators[i]`, so that they do not depend on the other images."""
        self._config = config
        self._generators = generators

    def matching_points(self, layer: int, image: int) -> Tensor:
        """See `PointSource`."""
        return _uniform((self._config.num_points, 2), self._generators[image])

    def loss_points(self, layer: int, mask_logits: Tensor, counts: Sequence[int]) -> Tensor:
        """See `PointSource`."""
        config = self._config
        candidates = self._uniform_each(counts, int(config.num_points * config.oversample_ratio))
        kept = int(config.num_points * config.importance_ratio)
        uncertain = sample_each(mask_logits, candidates).abs().topk(kept, dim=1, largest=False).indices
        important = candidates.gather(1, uncertain.unsqueeze(-1).expand(-1, -1, 2))
        return torch.cat((important, self._uniform_each(counts, config.num_points - kept)), dim=1)

    def _uniform_each(self, counts: Sequence[int], points: int) -> Tensor:
        pairs = zip(counts, self._generators, strict=True)
        return torch.cat([_uniform((count, points, 2), generator) for count, generator in pairs])


def sample_each(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear samples of each map at its own points: `(M, h, w)`, `(M, P, 2)` -> `(M, P)`."""
    return F.grid_sample(maps.unsqueeze(1), 2 * points.unsqueeze(2) - 1, align_corners=False).flatten(1)


def sample_shared(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear samples of all maps at the same points: `(Q, h, w)`, `(P, 2)` -> `(Q, P)`."""
    grid = 2 * points[None, :, None] - 1
    return F.grid_sample(maps.unsqueeze(0), grid, align_corners=False).flatten(2).squeeze(0)


def sample_segments(segment_maps: Tensor, images: Tensor, segments: Tensor, points: Tensor) -> Tensor:
    """Bilinear samples of segments' masks, computed directly from segment maps.

    Args:
        segment_maps: int `(B, H, W)`.
        images: int64 `(N,)`, index of the map of each set of points.
        segments: int `(M,)`, the segments' values in the map; N is M, or 1 if all segments share their points.
        points: `(N, P, 2)`.

    Returns:
        float32 `(M, P)`, 0..1: bilinear weight of the pixels inside.
    """
    height, width = segment_maps.shape[1:]
    position = points * points.new_tensor((width, height)) - 0.5
    corner = position.floor()
    x_right, y_low = (position - corner).unbind(-1)
    x, y = corner.long().unbind(-1)
    first = (images * height * width).unsqueeze(1)
    inside = torch.zeros((), device=points.device)
    for row, row_share in ((y, 1 - y_low), (y + 1, y_low)):
        for column, column_share in ((x, 1 - x_right), (x + 1, x_right)):
            exists = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            index = first + row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
            share = torch.where(exists, row_share * column_share, 0.0)
            inside = inside + share * (segment_maps.flatten()[index] == segments.unsqueeze(1))
    return inside


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device)
