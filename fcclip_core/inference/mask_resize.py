"""Resizes mask logits to image size: both published resizes combined into one, one band of rows at a time.

Masks are predicted at a quarter of the padded input size. Full-size masks exist only for one band of rows, so memory
does not grow with queries times pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fcclip_core.inference.preprocess import FrameGeometry

# Full-size mask values held at once: a band fits into a CPU's caches; a GPU processes a typical frame in one band.
BAND_VALUES_CPU = 4_000_000
BAND_VALUES_GPU = 200_000_000

# Image columns per matrix product: small products are fast on a CPU, few products on a GPU.
COLUMNS_AT_ONCE_CPU = 64
COLUMNS_AT_ONCE_GPU = 4096
# Image rows per matrix product at most, however narrow they are.
ROWS_AT_ONCE = 4096

KEPT_SIZES = 8
"""Image sizes whose resizes are cached, a few numbers per row and column: a camera may alternate between modes."""


@dataclass(frozen=True)
class ResizeTaps:
    """A linear resize along one axis: each target pixel is a weighted sum of up to T neighboring source pixels.

    Attributes:
        first: int64 `(target,)`, the first source pixel with a non-zero weight; ascending.
        weights: float32 `(target, T)`, zero beyond the last source pixel.
        source: Number of source pixels.
    """

    first: Tensor
    weights: Tensor
    source: int

    def matrix(self, target: slice, source: slice) -> Tensor:
        """The resize of a slice as a dense matrix `(target, source)`; `source` must cover all pixels that it reads."""
        first, weights = self.first[target], self.weights[target]
        places = first[:, None] + torch.arange(weights.shape[1]) - source.start
        # Weights beyond the last source pixel are zero, so clamping their positions changes nothing.
        size = source.stop - source.start
        return weights.new_zeros(len(weights), size).scatter_add_(1, places.clamp_(max=size - 1), weights)

    def read_by(self, target: slice) -> slice:
        """The source pixels that a slice of the target reads, possibly a few more."""
        stop = int(self.first[target.stop - 1]) + self.weights.shape[1]
        return slice(int(self.first[target.start]), min(stop, self.source))


class MaskResizer:
    """Resizes quarter-size mask logits to image size, one band of rows at a time.

    The two published bilinear resizes (to the padded input, then from the cropped input to the image) are linear and
    separable. Their composition is one linear resize per axis, in which each pixel reads two or three mask pixels.
    """

    def __init__(self, geometry: FrameGeometry, mask_size: tuple[int, int], device: torch.device) -> None:
        """Prepares the composed resize from `mask_size` (height, width) to `geometry.output`."""
        self.height, self.width = geometry.output
        self._device = device
        self._rows, columns = (
            composed_resize(mask_size[axis], geometry.padded[axis], geometry.resized[axis], geometry.output[axis])
            for axis in (0, 1)
        )
        on_cpu = device.type == "cpu"
        self._band_values = BAND_VALUES_CPU if on_cpu else BAND_VALUES_GPU
        # A block of output columns reads a small part of a mask row.
        self._block = COLUMNS_AT_ONCE_CPU if on_cpu else COLUMNS_AT_ONCE_GPU
        self._columns = []
        for start in range(0, self.width, self._block):
            block = slice(start, min(start + self._block, self.width))
            source = columns.read_by(block)
            self._columns.append((source, columns.matrix(block, source).T.contiguous().to(device)))

    def bands(self, mask_logits: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yields (rows, logits `(Q, rows, W)`) from the top of the image to its bottom, for `(Q, h, w)` logits."""
        for rows, _, logits in self._tiles(mask_logits, self.width):
            yield rows, logits

    def tiles(self, mask_logits: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
        """Yields (rows, columns, logits `(Q, rows, columns)`) for `(Q, h, w)` logits.

        As `bands`, but rows too long to hold for all masks are split.
        """
        blocks = max(self._band_values // (max(len(mask_logits), 1) * self._block), 1)
        yield from self._tiles(mask_logits, min(blocks * self._block, self.width))

    def _tiles(self, mask_logits: Tensor, width: int) -> Iterator[tuple[slice, slice, Tensor]]:
        rows_at_once = min(max(self._band_values // max(len(mask_logits) * width, 1), 1), ROWS_AT_ONCE)
        for top in range(0, self.height, rows_at_once):
            rows = slice(top, min(top + rows_at_once, self.height))
            source = self._rows.read_by(rows)
            matrix = self._rows.matrix(rows, source).to(self._device)
            for left in range(0, self.width, width):
                columns = slice(left, min(left + width, self.width))
                blocks = self._columns[left // self._block : -(-columns.stop // self._block)]
                widened = torch.cat([mask_logits[:, source, part] @ block for part, block in blocks], -1)
                yield rows, columns, matrix @ widened


def composed_resize(mask: int, padded: int, resized: int, image: int) -> ResizeTaps:
    """The resize of one axis: mask size -> padded size -> crop to resized size -> image size.

    Both are torch's bilinear resizes (align_corners False). No array has size image times mask: a side may be hundreds
    of thousands of pixels long.
    """
    upper, outer = _bilinear_taps(resized, image)
    lower, inner = _bilinear_taps(mask, padded)
    # Each image pixel reads two pixels of the resized image, and each of these reads two mask pixels.
    places = lower[upper].flatten(1)
    weights = (outer[:, :, None] * inner[upper]).flatten(1)
    first = torch.where(weights.float() != 0, places, mask).amin(1)
    last = torch.where(weights.float() != 0, places, -1).amax(1)
    taps = torch.zeros(image, int((last - first).max()) + 1, dtype=torch.float64)
    # Positions outside have weight zero.
    taps.scatter_add_(1, (places - first[:, None]).clamp_(0, taps.shape[1] - 1), weights)
    return ResizeTaps(first, taps.float(), mask)


def _bilinear_taps(source: int, target: int) -> tuple[Tensor, Tensor]:
    """The two source pixels of each target pixel, int64 `(target, 2)`, and their weights, float64 `(target, 2)`."""
    middle = ((torch.arange(target, dtype=torch.float64) + 0.5) * (source / target) - 0.5).clamp_(min=0)
    lower = middle.long().clamp_(max=source - 1)
    share = (middle - lower).clamp_(0, 1) if source != target else torch.zeros_like(middle)
    return torch.stack((lower, (lower + 1).clamp_(max=source - 1)), 1), torch.stack((1 - share, share), 1)
