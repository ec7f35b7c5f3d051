"""Panoptic, semantic and instance results: all masks at full size, one segment after the other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class SegmentInfo:
    """A segment's record; `category` counts the vocabulary's classes from 0."""

    id: int
    category: int
    is_thing: bool


@dataclass(frozen=True)
class InstanceTable:
    """Instances in the order in which `topk` gave them.

    Attributes:
        scores: (N,).
        categories: (N,), counted from 0.
        masks: (N, H, W), 0 or 1.
    """

    scores: torch.Tensor
    categories: torch.Tensor
    masks: torch.Tensor


def enlarge(
    masks: torch.Tensor, padded: tuple[int, int], resized: tuple[int, int], original: tuple[int, int]
) -> torch.Tensor:
    """Mask logits (Q, h/4, w/4) -> padded input size -> padding cut off -> original size (Q, H, W)."""
    masks = F.interpolate(masks[None], size=padded, mode="bilinear", align_corners=False)
    masks = masks[:, :, : resized[0], : resized[1]]
    return F.interpolate(masks, size=original, mode="bilinear", align_corners=False)[0]


def semantic(scores: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Scores (Q, C+1), logarithms, and mask logits (Q, H, W) -> class sums (C, H, W)."""
    return torch.einsum("qc,qhw->chw", scores.softmax(-1)[..., :-1], masks.sigmoid())


def panoptic(
    scores: torch.Tensor,
    masks: torch.Tensor,
    is_thing: list[bool],
    object_mask_threshold: float,
    overlap_threshold: float,
) -> tuple[torch.Tensor, list[SegmentInfo]]:
    """Scores (Q, C+1), logarithms, and mask logits (Q, H, W) -> int32 segment ids (H, W) and their records."""
    best, labels = scores.softmax(-1).max(-1)
    probabilities = masks.sigmoid()
    keep = labels.ne(len(is_thing)) & (best > object_mask_threshold)
    labels, probabilities = labels[keep], probabilities[keep]
    segment_map = torch.zeros(masks.shape[-2:], dtype=torch.int32)
    records: list[SegmentInfo] = []
    if len(labels) == 0:
        return segment_map, records

    owner = (best[keep].view(-1, 1, 1) * probabilities).argmax(0)
    stuff_ids: dict[int, int] = {}
    for query in range(len(labels)):
        category = int(labels[query])
        owned_area = int((owner == query).sum())
        own_area = int((probabilities[query] >= 0.5).sum())
        region = (owner == query) & (probabilities[query] >= 0.5)
        if owned_area == 0 or own_area == 0 or int(region.sum()) == 0:
            continue
        if owned_area / own_area < overlap_threshold:
            continue
        if not is_thing[category] and category in stuff_ids:
            segment_map[region] = stuff_ids[category]
            continue
        segment = len(records) + 1
        if not is_thing[category]:
            stuff_ids[category] = segment
        segment_map[region] = segment
        records.append(SegmentInfo(segment, category, is_thing[category]))
    return segment_map, records


def instances(scores: torch.Tensor, masks: torch.Tensor, is_thing: list[bool], top_k: int) -> InstanceTable:
    """The `top_k` best (query, class) pairs, then the things among them; score times mean probability in the mask."""
    probabilities = scores.softmax(-1)[:, :-1]
    classes = probabilities.shape[1]
    categories = torch.arange(classes).unsqueeze(0).repeat(len(scores), 1).flatten(0, 1)
    # The published code fails when there are fewer pairs than asked for; here they are all taken.
    best, index = probabilities.flatten(0, 1).topk(min(top_k, probabilities.numel()), sorted=False)
    categories = categories[index]
    picked = masks[torch.div(index, classes, rounding_mode="floor")]
    keep = torch.tensor([is_thing[int(category)] for category in categories], dtype=torch.bool)
    best, categories, picked = best[keep], categories[keep], picked[keep]
    inside = (picked > 0).float()
    mean = (picked.sigmoid().flatten(1) * inside.flatten(1)).sum(1) / (inside.flatten(1).sum(1) + 1e-6)
    return InstanceTable(best * mean, categories, inside)
