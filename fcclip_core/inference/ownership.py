"""Assigns each pixel to a mask (Mask2Former's merging: the largest class probability times mask probability)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fcclip_core.inference.mask_resize import MaskResizer, composed_resize
from fcclip_core.inference.preprocess import FrameGeometry

TILE = (16, 64)
"""Image pixels (rows, columns) that one GPU program handles."""


@dataclass(frozen=True)
class OwnedPixels:
    """The query that owns each pixel, on the device; queries that are not kept own nothing.

    Attributes:
        owner: integer `(H, W)`, a query; undefined if no query is kept.
        inside: bool `(H, W)`, whether the pixel is inside the owner's mask.
        mask_areas: int32 `(Q,)`, pixels inside each kept mask.
        owned: int32 `(Q,)`, pixels that each query owns.
        held: int32 `(Q,)`, owned pixels that are inside the query's mask.
    """

    owner: Tensor
    inside: Tensor
    mask_areas: Tensor
    owned: Tensor
    held: Tensor


@dataclass(frozen=True)
class AxisTaps:
    """The composed resize of `MaskResizer` along one axis: each image pixel reads up to T neighboring mask pixels.

    Attributes:
        first: int32 `(target,)`, the first mask pixel.
        weights: float32 `(target, T)`, zero beyond the last mask pixel.
        patch: Largest number of mask pixels that a tile of image pixels reads.
    """

    first: Tensor
    weights: Tensor
    patch: int

    @classmethod
    def of(cls, sizes: tuple[int, int, int, int], tile: int, device: torch.device) -> AxisTaps:
        """The resize from a mask to the image.

        Args:
            sizes: Mask, padded, resized and image size.
            tile: Image pixels per tile.
            device: Where to store the taps.
        """
        taps = composed_resize(*sizes)
        image = len(taps.first)
        ends = (torch.arange(0, image, tile) + tile - 1).clamp(max=image - 1)
        patch = int((taps.first[ends] - taps.first[::tile]).max()) + taps.weights.shape[1]
        return cls(taps.first.int().to(device), taps.weights.to(device), patch)


@dataclass(frozen=True)
class FrameTaps:
    """Taps of both axes, from quarter-size masks to the image."""

    rows: AxisTaps
    columns: AxisTaps

    @classmethod
    def of(cls, geometry: FrameGeometry, mask_size: tuple[int, int], device: torch.device) -> FrameTaps:
        """The resize from `mask_size` (height, width) to `geometry.output`."""
        sides = zip(mask_size, geometry.padded, geometry.resized, geometry.output, strict=True)
        return cls(*(AxisTaps.of(side, tile, device) for side, tile in zip(sides, TILE, strict=True)))


def assign_pixels(mask_logits: Tensor, scores: Tensor, resizer: MaskResizer) -> tuple[Tensor, Tensor, Tensor]:
    """Owner of each pixel, int16 `(H, W)`; whether the pixel is inside the owner's mask; pixels per mask `(K,)`."""
    count, device = len(mask_logits), mask_logits.device
    owner = torch.empty((resizer.height, resizer.width), dtype=torch.int16, device=device)
    inside = torch.empty_like(owner, dtype=torch.bool)
    areas = torch.zeros(count, dtype=torch.float64, device=device)
    # On a CPU, max with indices is twenty times slower than amax. The first query that reaches the maximum is found by
    # a second amax, over descending ranks.
    ranks = torch.arange(count, 0, -1, dtype=torch.int16, device=device)[:, None, None]
    for rows, columns, logits in resizer.tiles(mask_logits):
        areas += (logits >= 0).float().flatten(1).sum(1)
        probabilities = logits.sigmoid_().mul_(scores[:, None, None])
        best = probabilities.amax(0)
        winner = count - (ranks * (probabilities == best)).amax(0)
        owner[rows, columns] = winner
        # At logit 0 the mask probability is one half.
        inside[rows, columns] = best >= 0.5 * scores[winner.long()]
    return owner, inside, areas.long()


def owned_pixels(mask_logits: Tensor, scores: Tensor, kept: Tensor, resizer: MaskResizer) -> OwnedPixels:
    """Computes `OwnedPixels` from full-size masks of the kept queries, one band at a time.

    Args:
        mask_logits: `(Q, h, w)`.
        scores: `(Q,)`.
        kept: bool `(Q,)`.
        resizer: From `(h, w)` to the image.
    """
    queries = kept.nonzero().squeeze(1)
    none = torch.zeros(len(scores), dtype=torch.int32, device=scores.device)
    if len(queries) == 0:
        owner = none.new_zeros((resizer.height, resizer.width))
        return OwnedPixels(owner, owner.bool(), none, none, none)
    nth, inside, areas = assign_pixels(mask_logits[queries].float(), scores[queries], resizer)
    owner = queries[nth.long()]
    flat = owner.flatten()
    return OwnedPixels(
        owner=owner,
        inside=inside,
        mask_areas=none.index_copy(0, queries, areas.int()),
        owned=none.scatter_add(0, flat, torch.ones_like(flat, dtype=torch.int32)),
        held=none.scatter_add(0, flat, inside.flatten().int()),
    )
