"""Merging on a CPU by a C++ kernel: `panoptic_segments` in two passes over the image, with areas and boxes.

The kernel (`ownership_native.cpp`) enlarges a mask only where it can own pixels. Uncompiled merging enlarges every mask
to the size of the image.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fcclip_core.inference.mask_resize import KEPT_SIZES
from fcclip_core.inference.ownership import TILE, FrameTaps
from fcclip_core.inference.postprocess import ClassifiedMasks, MergedFrame, accept_in_order, kept_queries
from fcclip_core.kernels.native_library import NativeLibrary, in_parallel

LIBRARY = NativeLibrary(Path(__file__).with_name("ownership_native.cpp"))

_CPU = torch.device("cpu")
_NO_BOX = np.array([2**31 - 1, 2**31 - 1, 0, 0], np.int32)


class _Sizes(ctypes.Structure):
    """The kernel's struct `Sizes`."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in ("queries", "mask_height", "mask_width", "height", "width", "row_taps", "column_taps")
    ]


class NativeMerger:
    """Merges frames on the CPU; requires that `LIBRARY` is loaded."""

    def __init__(self) -> None:
        """Keeps the resizes of the last few sizes."""
        self._taps = functools.lru_cache(KEPT_SIZES)(FrameTaps.of)

    def __call__(self, masks: ClassifiedMasks) -> MergedFrame:
        """See `Merger`."""
        kept, scores, labels = kept_queries(masks.class_probs, masks.is_thing, masks.settings)
        logits = masks.mask_logits[kept].float().contiguous()
        pixels = _own_pixels(logits, scores, self._taps(masks.geometry, masks.mask_size, _CPU))
        things = masks.is_thing[labels].long()
        table = np.concatenate((torch.stack((kept, labels, things)).numpy(), pixels.counts))
        minimum = None if masks.minimum_scores is None else masks.minimum_scores.numpy()
        segment_of_kept, segments = accept_in_order(table, scores.numpy(), masks.settings.overlap_threshold, minimum)
        count, members = len(segments[0]), segment_of_kept > 0
        boxes = np.tile(_NO_BOX, (count, 1)).astype(np.int64)
        for segment, box in zip(segment_of_kept[members] - 1, pixels.boxes[members], strict=True):
            boxes[segment] = (*np.minimum(boxes[segment, :2], box[:2]), *np.maximum(boxes[segment, 2:], box[2:]))
        areas = np.zeros(count, np.int64)
        np.add.at(areas, segment_of_kept[members] - 1, pixels.counts[2, members])
        classes, best_scores, queries = segments
        return MergedFrame(
            segment_map=_look_up(pixels.labels, segment_of_kept),
            class_indices=classes,
            scores=best_scores,
            queries=queries,
            areas=areas,
            boxes=boxes,
            embeddings=F.normalize(masks.embeddings[torch.from_numpy(queries)].float(), dim=-1).numpy(),
        )


@dataclass(frozen=True)
class _Pixels:
    """Which of K masks owns each pixel.

    Attributes:
        labels: int16 `(H, W)`, 1 + mask that owns the pixel and contains it, else 0.
        counts: int64 `(3, K)`, pixels that each mask contains, that it owns, and both.
        boxes: int32 `(K, 4)`, around the last; left, top, right, bottom.
    """

    labels: np.ndarray
    counts: np.ndarray
    boxes: np.ndarray


def _own_pixels(logits: Tensor, scores: Tensor, taps: FrameTaps) -> _Pixels:
    """The kernel, for logits float32 `(K, h, w)`, scores float32 `(K,)`; the tiles' rows are shared among threads."""
    height, width = len(taps.rows.first), len(taps.columns.first)
    labels = np.empty((height, width), np.int16)
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    sizes = _Sizes(*logits.shape, height, width, taps.rows.weights.shape[1], taps.columns.weights.shape[1])
    read = (logits, scores, taps.rows.first, taps.rows.weights, taps.columns.first, taps.columns.weights)

    def run(begin: int, end: int) -> None:
        counts, boxes = np.zeros((3, len(logits)), np.int64), np.tile(_NO_BOX, (len(logits), 1))
        pointers = [ctypes.c_void_p(x.data_ptr()) for x in read]
        pointers += [ctypes.c_void_p(x.ctypes.data) for x in (labels, counts, boxes)]
        bounds = ctypes.c_int64(begin), ctypes.c_int64(end)
        LIBRARY.functions.fcclip_own_pixels(ctypes.byref(sizes), *pointers, *bounds)
        parts.append((counts, boxes))

    in_parallel(run, -(-height // TILE[0]))
    all_counts, all_boxes = (np.stack(arrays) for arrays in zip(*parts, strict=True))
    starts, ends = all_boxes[..., :2].min(0), all_boxes[..., 2:].max(0)
    return _Pixels(labels, all_counts.sum(0), np.concatenate((starts, ends), 1))


def _look_up(labels: np.ndarray, segment_of_kept: np.ndarray) -> np.ndarray:
    """The segment map, int32 `(H, W)`: a segment for each mask."""
    table = np.concatenate((np.zeros(1, np.int32), segment_of_kept))
    found = np.empty(labels.shape, np.int32)
    pointers = [ctypes.c_void_p(x.ctypes.data) for x in (labels, table, found)]

    def run(begin: int, end: int) -> None:
        LIBRARY.functions.fcclip_look_up(*pointers, ctypes.c_int64(begin), ctypes.c_int64(end))

    in_parallel(run, labels.size)
    return found
