"""Merging on the GPU: `panoptic_segments` without intermediate synchronization, with one download per frame.

Every step has a fixed shape over all Q queries, so the host need not know how many masks are kept. Pixel ownership, the
accepted segments, their areas and boxes are computed on the device. The segment map, a table and the embeddings are
then downloaded as one block of bytes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fcclip_core.inference.mask_resize import KEPT_SIZES, MaskResizer
from fcclip_core.inference.ownership import FrameTaps, OwnedPixels, owned_pixels
from fcclip_core.inference.postprocess import ClassifiedMasks, MergedFrame
from fcclip_core.inference.preprocess import FrameGeometry

OLDEST_TRITON = (3, 3)
"""First version whose compiler supports the kernel's small matrix products."""

_LARGEST_PATCH = 4_096
"""Mask pixels per tile that the kernel can hold; images much smaller than the network's input exceed it."""


class DeviceMerger:
    """Merges frames one after the other in buffers that it reuses; not thread-safe."""

    def __init__(self, device: torch.device) -> None:
        """Merges on `device`."""
        self._device = device
        self._kernel = _gpu_kernel() if device.type == "cuda" else None
        self._taps = functools.lru_cache(KEPT_SIZES)(FrameTaps.of)
        self._resizer = functools.lru_cache(KEPT_SIZES)(MaskResizer)
        self._landings: list[Tensor] = []

    @torch.inference_mode()
    def __call__(self, masks: ClassifiedMasks) -> MergedFrame:
        """See `Merger`."""
        return self.download(self.merge(masks))()

    def is_capturable(self, mask_size: tuple[int, int], geometry: FrameGeometry) -> bool:
        """Whether `merge` needs no synchronization for such frames, so that a CUDA graph can contain it."""
        return self._kernel is not None and self._fits(self.taps_of(mask_size, geometry))

    def taps_of(self, mask_size: tuple[int, int], geometry: FrameGeometry) -> FrameTaps:
        """The taps that `merge` uses for masks of a size (height, width); cached for the last few sizes."""
        return self._taps(geometry, mask_size, self._device)

    def merge(self, masks: ClassifiedMasks) -> PackedFrame:
        """`__call__` without the download."""
        scores, labels = masks.class_probs.max(-1)
        kept = (labels < len(masks.is_thing)) & (scores > masks.settings.object_mask_threshold)
        pixels = self._owned_pixels(masks, scores, kept)
        accepted = accept(pixels, kept, labels, scores, masks)
        segment_map = torch.where(pixels.inside, accepted.segment_of_query[pixels.owner.long()], 0)
        # A segment's area is the sum over its members; queries that were not accepted count for segment 0.
        areas = pixels.held.new_zeros(len(scores) + 1).scatter_add_(0, accepted.segment_of_query, pixels.held)[1:]
        table = torch.cat((accepted.best_of_segment[None], areas[None], _boxes(segment_map, len(scores)).T))
        # The best query has the label of its segment: all stuff of a class shares one segment.
        columns = torch.stack((labels.float(), scores))
        unit = F.normalize(masks.embeddings.float(), dim=-1)
        return PackedFrame.of((unit, columns, table.int(), segment_map.to(_id_type(len(scores)))))

    def download(self, packed: PackedFrame) -> Callable[[], MergedFrame]:
        """Starts the copy to the host; returns a function that waits for it, to be called once."""
        size = len(packed.data)
        landing = self._landings.pop() if self._landings else torch.empty(0, dtype=torch.uint8)
        if len(landing) < size:
            landing = torch.empty(size, dtype=torch.uint8, pin_memory=packed.data.is_cuda)
        landing[:size].copy_(packed.data, non_blocking=True)
        landed = None
        if packed.data.is_cuda:
            landed = torch.cuda.Event()
            landed.record(torch.cuda.current_stream(packed.data.device))

        def finish() -> MergedFrame:
            if landed:
                landed.synchronize()
            frame = packed.read(landing)
            self._landings.append(landing)
            return frame

        return finish

    def _owned_pixels(self, masks: ClassifiedMasks, scores: Tensor, kept: Tensor) -> OwnedPixels:
        if self._kernel:
            taps = self.taps_of(masks.mask_size, masks.geometry)
            if self._fits(taps):
                return self._kernel(masks.mask_logits, scores, kept, taps)
        resizer = self._resizer(masks.geometry, masks.mask_size, self._device)
        return owned_pixels(masks.mask_logits, scores, kept, resizer)

    @staticmethod
    def _fits(taps: FrameTaps) -> bool:
        return taps.rows.patch * taps.columns.patch <= _LARGEST_PATCH


@dataclass(frozen=True)
class PackedFrame:
    """A merged frame as one block of bytes, on the device.

    Attributes:
        data: uint8 `(N,)`.
        parts: Type and shape of each part: unit embeddings `(Q, D)`; labels and scores `(2, Q)`; best query, area and
            box of segments `(6, Q)`; segment map `(H, W)`.
    """

    data: Tensor
    parts: tuple[tuple[torch.dtype, torch.Size], ...]

    @classmethod
    def of(cls, blocks: Sequence[Tensor]) -> PackedFrame:
        """Packs the parts."""
        data = torch.cat([block.contiguous().view(torch.uint8).flatten() for block in blocks])
        return cls(data, tuple((block.dtype, block.shape) for block in blocks))

    def read(self, landed: Tensor) -> MergedFrame:
        """Unpacks a copy of `data` on the host; the result does not share its memory."""
        arrays, start = [], 0
        for dtype, shape in self.parts:
            size = shape.numel() * dtype.itemsize
            arrays.append(landed[start : start + size].view(dtype).view(shape).numpy())
            start += size
        unit, (labels, scores), (best, areas, *sides), ids = arrays
        queries = best[best >= 0].astype(np.int64)
        return MergedFrame(
            segment_map=ids.astype(np.int32),
            class_indices=labels[queries].astype(np.int64),
            scores=scores[queries],
            queries=queries,
            areas=areas[: len(queries)].astype(np.int64),
            boxes=np.stack(sides, -1)[: len(queries)].astype(np.int64),
            embeddings=unit[queries],
        )


@dataclass(frozen=True)
class Accepted:
    """Which masks become segments.

    Attributes:
        segment_of_query: int64 `(Q,)`, ids from 1; 0 = none.
        best_of_segment: int64 `(Q,)`, best query of segments 1, 2, ...; -1 beyond the last segment.
    """

    segment_of_query: Tensor
    best_of_segment: Tensor


def accept(pixels: OwnedPixels, kept: Tensor, labels: Tensor, scores: Tensor, masks: ClassifiedMasks) -> Accepted:
    """The published sequential decision over queries, computed for all queries at once.

    Args:
        pixels: Pixel ownership.
        kept: bool `(Q,)`.
        labels: int64 `(Q,)`, 0..C, C being void.
        scores: `(Q,)`.
        masks: Thing flags, overlap threshold and minimum scores of the frame.
    """
    is_thing, minimum_scores = masks.is_thing, masks.minimum_scores
    if minimum_scores is None:
        minimum_scores = torch.zeros(len(is_thing), device=scores.device)
    count = len(scores)
    query = torch.arange(count, device=scores.device)
    is_empty = (pixels.mask_areas == 0) | (pixels.owned == 0) | (pixels.held == 0)
    overlap = pixels.owned.double() / pixels.mask_areas.double()
    accepted = kept & ~is_empty & (overlap >= masks.settings.overlap_threshold)

    # Members of a segment: the query itself for a thing, all accepted queries of the class for stuff. The first member
    # creates the segment.
    stuff = ~torch.cat((is_thing, is_thing.new_ones(1)))[labels]
    together = (labels[:, None] == labels) & stuff[:, None] & stuff | torch.eye(
        count, dtype=torch.bool, device=query.device
    )
    together = together & accepted
    best_score = torch.where(together, scores, -1.0).amax(1, keepdim=True)
    # A segment below its class's minimum is removed with all of its members.
    published = best_score.squeeze(1) >= torch.cat((minimum_scores, minimum_scores.new_zeros(1)))[labels]
    accepted, together = accepted & published, together & published
    first = torch.where(together, query, count).amin(1)
    is_first = accepted & (first == query)
    ids = is_first.cumsum(0)
    segment_of_query = torch.where(accepted, ids[first.clamp(max=count - 1)], 0)

    best = torch.where(together & (scores == best_score), query, count).amin(1)
    # Slot `count` collects the queries that create no segment.
    best_of_segment = best.new_full((count + 1,), -1).scatter_(0, torch.where(is_first, ids - 1, count), best)
    return Accepted(segment_of_query, best_of_segment[:count])


def _boxes(segment_map: Tensor, count: int) -> Tensor:
    """Boxes (left, top, right, bottom) of segments 1 to `count`: `(count, 4)`."""
    (height, width), device = segment_map.shape, segment_map.device
    y, x = torch.arange(height, device=device), torch.arange(width, device=device)
    in_row = torch.zeros((count + 1, height), dtype=torch.bool, device=device)
    in_column = torch.zeros((count + 1, width), dtype=torch.bool, device=device)
    # Many pixels write the same value True, so no reduction is needed.
    in_row.view(-1).scatter_(0, (segment_map * height + y[:, None]).flatten(), True)
    in_column.view(-1).scatter_(0, (segment_map * width + x).flatten(), True)
    bounds = []
    for there, position in ((in_column[1:], x), (in_row[1:], y)):
        start = torch.where(there, position, len(position)).amin(1)
        bounds.append((start, torch.where(there, position, -1).amax(1) + 1))
    (left, right), (top, bottom) = bounds
    return torch.stack((left, top, right, bottom), 1)


def _id_type(count: int) -> torch.dtype:
    """The smallest type that holds ids 0..count."""
    return torch.uint8 if count < 256 else torch.int16


def _gpu_kernel() -> Callable[[Tensor, Tensor, Tensor, FrameTaps], OwnedPixels] | None:
    """The Triton kernel, or None without a recent Triton: older versions crash the process when they compile it."""
    try:
        import triton

        if tuple(map(int, triton.__version__.split(".")[:2])) < OLDEST_TRITON:
            return None
        from fcclip_core.inference.ownership_triton import owned_pixels_by_triton
    except ImportError:
        return None
    return owned_pixels_by_triton
