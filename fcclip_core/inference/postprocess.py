"""Queries -> panoptic, semantic and instance results (section 3.2, "Inference"; Mask2Former's merging rules).

The published code resizes all masks twice to full size. Here queries are scored first, and only masks that may own
pixels are resized (`mask_resize`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from fcclip_core.inference.mask_resize import KEPT_SIZES, MaskResizer
from fcclip_core.inference.ownership import assign_pixels
from fcclip_core.inference.preprocess import FrameGeometry
from fcclip_core.settings import InferenceSettings

# Pixels counted and looked up at once: eight-byte arrays for a whole image would dominate the cost.
PIXELS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class PanopticSegments:
    """Merged masks.

    Attributes:
        segment_map: int32 `(H, W)`, 0 = no segment, else 1 + index into the arrays below.
        class_indices: int64 `(S,)`, 0..C-1.
        scores: float32 `(S,)`, the class probability of the segment's best query.
        queries: int64 `(S,)`, that query.
    """

    segment_map: np.ndarray
    class_indices: np.ndarray
    scores: np.ndarray
    queries: np.ndarray


@dataclass(frozen=True)
class MergedFrame(PanopticSegments):
    """Segments of a frame, on the host, in the order of their ids.

    Attributes:
        areas: int64 `(S,)`, pixels.
        boxes: int64 `(S, 4)`, (x_min, y_min, x_max, y_max), maxima exclusive.
        embeddings: float32 `(S, D)`, unit rows, of the best queries.
    """

    areas: np.ndarray
    boxes: np.ndarray
    embeddings: np.ndarray


@dataclass(frozen=True)
class ClassifiedMasks:
    """The masks of one frame with their class probabilities, and the settings to merge them.

    Attributes:
        mask_logits: `(Q, h, w)`, of any precision.
        class_probs: float32 `(Q, C+1)`, void last.
        embeddings: `(Q, D)`, out-of-vocabulary embeddings, not normalized.
        is_thing: bool `(C,)`.
        geometry: Sizes of the frame.
        settings: Object mask and overlap thresholds.
        minimum_scores: float32 `(C,)`, see `panoptic_segments`.
    """

    mask_logits: Tensor
    class_probs: Tensor
    embeddings: Tensor
    is_thing: Tensor
    geometry: FrameGeometry
    settings: InferenceSettings
    minimum_scores: Tensor | None = None

    @property
    def mask_size(self) -> tuple[int, int]:
        """Height and width of the mask logits."""
        return self.mask_logits.shape[1], self.mask_logits.shape[2]


Merger = Callable[[ClassifiedMasks], MergedFrame]
"""Merges the masks of one frame as `panoptic_segments`, and adds areas, boxes and embeddings of the segments."""


@dataclass(frozen=True)
class InstanceMasks:
    """Instances, sorted by descending score.

    Attributes:
        masks: bool `(N, H, W)`.
        class_indices: int64 `(N,)`, 0..C-1.
        scores: float32 `(N,)`, class probability times mean mask probability.
    """

    masks: np.ndarray
    class_indices: np.ndarray
    scores: np.ndarray


class HostMerger:
    """Merges frames on any device, one band of rows at a time, and measures the segments on the host."""

    def __init__(self, device: torch.device, rule: Callable[..., PanopticSegments] | None = None) -> None:
        """Merges on `device` by `rule`, a function with the arguments of `panoptic_segments`; None: that one."""
        self._device = device
        self._rule = rule or panoptic_segments
        self._resizer = functools.lru_cache(KEPT_SIZES)(MaskResizer)

    def __call__(self, masks: ClassifiedMasks) -> MergedFrame:
        """See `Merger`."""
        resizer = self._resizer(masks.geometry, masks.mask_size, self._device)
        merged = self._rule(
            masks.mask_logits, masks.class_probs, masks.is_thing, resizer, masks.settings, masks.minimum_scores
        )
        count = len(merged.queries)
        boxes = [
            (columns.start, rows.start, columns.stop, rows.stop)
            for rows, columns in ndimage.find_objects(merged.segment_map, count)
        ]
        unit = F.normalize(masks.embeddings[torch.from_numpy(merged.queries).to(self._device)].float(), dim=-1)
        return MergedFrame(
            **vars(merged),
            areas=_areas(merged.segment_map, count),
            boxes=np.array(boxes, np.int64).reshape(count, 4),
            embeddings=unit.cpu().numpy(),
        )


def panoptic_segments(
    mask_logits: Tensor,
    class_probs: Tensor,
    is_thing: Tensor,
    resizer: MaskResizer,
    settings: InferenceSettings,
    minimum_scores: Tensor | None = None,
) -> PanopticSegments:
    """Merges masks into non-overlapping segments.

    A pixel belongs to the kept query with the largest class probability times mask probability. A query becomes a
    segment if it owns at least `overlap_threshold` of the pixels inside its mask; all stuff of a class is one segment.

    Args:
        mask_logits: `(Q, h, w)`.
        class_probs: `(Q, C+1)`, void last.
        is_thing: bool `(C,)`.
        resizer: From `(h, w)` to the image.
        settings: Object mask and overlap thresholds.
        minimum_scores: float32 `(C,)`; segments scored below their class's minimum are removed after the assignment,
            and their pixels belong to no segment. None: no minimum.
    """
    kept, scores, labels = kept_queries(class_probs, is_thing, settings)
    if len(kept) == 0:
        empty = np.zeros(0, np.int64)
        return PanopticSegments(
            np.zeros((resizer.height, resizer.width), np.int32), empty, empty.astype(np.float32), empty
        )
    owner, inside, mask_areas = assign_pixels(mask_logits[kept], scores, resizer)
    owned, final = torch.zeros_like(kept), torch.zeros_like(kept)
    for rows in _row_bands(resizer.height, resizer.width):
        there = owner[rows].long()
        owned += torch.bincount(there.flatten(), minlength=len(kept))
        final += torch.bincount(there[inside[rows]], minlength=len(kept))

    table = torch.stack((kept, labels, is_thing[labels].long(), mask_areas, owned, final)).cpu().numpy()
    minimum = None if minimum_scores is None else minimum_scores.cpu().numpy()
    segment_of_kept, segments = accept_in_order(table, scores.cpu().numpy(), settings.overlap_threshold, minimum)
    lookup = torch.from_numpy(segment_of_kept).to(owner.device)
    segment_map = torch.empty(owner.shape, dtype=torch.int32, device=owner.device)
    for rows in _row_bands(resizer.height, resizer.width):
        segment_map[rows] = torch.where(inside[rows], lookup[owner[rows].long()], 0)
    return PanopticSegments(segment_map.cpu().numpy(), *segments)


def kept_queries(class_probs: Tensor, is_thing: Tensor, settings: InferenceSettings) -> tuple[Tensor, Tensor, Tensor]:
    """The K queries that may become segments, in order, with the probability and index of their best class: `(K,)`."""
    scores, labels = class_probs.max(-1)
    kept = ((labels < len(is_thing)) & (scores > settings.object_mask_threshold)).nonzero().squeeze(1)
    return kept, scores[kept], labels[kept]


def semantic_classes(mask_logits: Tensor, class_probs: Tensor, resizer: MaskResizer) -> np.ndarray:
    """Class of each pixel: the largest sum over queries of class probability times mask probability.

    Args:
        mask_logits: `(Q, h, w)`.
        class_probs: `(Q, C+1)`, void last; void is ignored.
        resizer: From `(h, w)` to the image.

    Returns:
        int64 `(H, W)`, 0..C-1.
    """
    weights = class_probs[:, :-1].T.contiguous()
    classes = torch.empty((resizer.height, resizer.width), dtype=torch.int64, device=mask_logits.device)
    for rows, columns, logits in resizer.tiles(mask_logits):
        classes[rows, columns] = (weights @ logits.sigmoid_().flatten(1)).argmax(0).view(logits.shape[1:])
    return classes.cpu().numpy()


def instance_masks(
    mask_logits: Tensor, class_probs: Tensor, is_thing: Tensor, resizer: MaskResizer, top_k: int
) -> InstanceMasks:
    """The best (query, class) pairs; stuff pairs are dropped after selecting `top_k`, so fewer may remain.

    Args:
        mask_logits: `(Q, h, w)`.
        class_probs: `(Q, C+1)`, void last; void is ignored.
        is_thing: bool `(C,)`.
        resizer: From `(h, w)` to the image.
        top_k: Number of pairs to select.
    """
    probabilities = class_probs[:, :-1]
    scores, pairs = probabilities.flatten().topk(min(top_k, probabilities.numel()))
    queries, classes = pairs // probabilities.shape[1], pairs % probabilities.shape[1]
    things = is_thing[classes]
    scores, queries, classes = scores[things], queries[things], classes[things]

    used, row_of_pair = queries.unique(return_inverse=True)
    masks = torch.empty((len(used), resizer.height, resizer.width), dtype=torch.bool, device=mask_logits.device)
    inside = torch.zeros((2, len(used)), device=mask_logits.device)
    for rows, columns, logits in resizer.tiles(mask_logits[used]):
        positive = logits > 0
        masks[:, rows, columns] = positive
        weights = positive.float()
        inside[1] += weights.flatten(1).sum(1)
        inside[0] += (logits.sigmoid_() * weights).flatten(1).sum(1)
    scores = scores * (inside[0] / (inside[1] + 1e-6))[row_of_pair]
    order = scores.argsort(descending=True)
    return InstanceMasks(
        masks[row_of_pair[order]].cpu().numpy(), classes[order].cpu().numpy(), scores[order].cpu().numpy()
    )


def _row_bands(height: int, width: int) -> Iterator[slice]:
    rows = max(PIXELS_AT_ONCE // width, 1)
    return (slice(top, top + rows) for top in range(0, height, rows))


def _areas(segment_map: np.ndarray, count: int) -> np.ndarray:
    """Pixels of segments 1 to `count`, int64 `(count,)`."""
    bands = _row_bands(*segment_map.shape)
    return sum(
        (np.bincount(segment_map[rows].ravel(), minlength=count + 1)[1:] for rows in bands), np.zeros(count, np.int64)
    )


def accept_in_order(
    table: np.ndarray, scores: np.ndarray, overlap_threshold: float, minimum_scores: np.ndarray | None
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Decides which masks become segments, in query order as published.

    Args:
        table: `(6, K)`: query, class, is thing, mask area, owned area, area of their intersection.
        scores: `(K,)`.
        overlap_threshold: Smallest accepted ratio of owned area to mask area.
        minimum_scores: `(C,)`, smallest score of a class's segments; None: no minimum.

    Returns:
        Segment id of each kept query (0 = none), and (classes, scores, queries) of the segments.
    """
    segment_of_kept = np.zeros(table.shape[1], np.int32)
    segments: list[list[Any]] = []
    stuff_segment: dict[int, int] = {}
    for index, (query, label, thing, mask_area, owned, both) in enumerate(table.T):
        if min(mask_area, owned, both) == 0 or owned / mask_area < overlap_threshold:
            continue
        if not thing and label in stuff_segment:
            segment_of_kept[index] = stuff_segment[label]
            best = segments[stuff_segment[label] - 1]
            if scores[index] > best[1]:
                best[1:] = [scores[index], query]
            continue
        segments.append([label, scores[index], query])
        segment_of_kept[index] = len(segments)
        if not thing:
            stuff_segment[label] = len(segments)
    numbers, published = without_low_scores(segments, minimum_scores)
    return numbers[segment_of_kept], published


def without_low_scores(
    segments: Sequence[Sequence[Any]], minimum_scores: np.ndarray | None
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Removes segments that are scored too low and renumbers the others in order.

    Args:
        segments: (class, score, query) of each segment; their ids count from 1.
        minimum_scores: `(C,)`, smallest score of a class's segments; None: no minimum.

    Returns:
        New id of each id, int32 `(1 + S,)`, 0 for none, and (classes, scores, queries) of the segments that remain.
    """
    published = [minimum_scores is None or bool(score >= minimum_scores[label]) for label, score, _ in segments]
    numbers = np.cumsum([0, *published]) * np.array([0, *published])
    remaining = [segment for segment, kept in zip(segments, published, strict=True) if kept]
    classes, scores, queries = zip(*remaining, strict=True) if remaining else ((), (), ())
    return numbers.astype(np.int32), (
        np.array(classes, np.int64),
        np.array(scores, np.float32),
        np.array(queries, np.int64),
    )
