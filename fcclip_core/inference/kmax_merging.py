"""Merging as kMaX-DeepLab does it: confident masks are laid down one after the other (Yu et al., 2022).

A mask's probability is its share of a pixel among all masks. What the network gives are logits whose sigmoid is that
share; the logarithm of the share differs from the decoder's own logits by a number that all masks of a pixel have in
common. So a resize of the logarithms followed by a softmax is what the authors' code computes from its own logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fcclip_core.inference.mask_resize import MaskResizer
from fcclip_core.inference.postprocess import PanopticSegments, without_low_scores
from fcclip_core.settings import InferenceSettings


def kmax_segments(
    mask_logits: Tensor,
    class_probs: Tensor,
    is_thing: Tensor,
    resizer: MaskResizer,
    settings: InferenceSettings,
    minimum_scores: Tensor | None = None,
) -> PanopticSegments:
    """Merges masks into non-overlapping segments.

    A mask claims the pixels of which it has more than `pixel_confidence`. Masks whose class is probable enough are laid
    down in the order of class probability times mean share; each takes what is still free of its claim, if that is more
    than `overlap_threshold` of the claim. All stuff of a class is one segment. Other pixels belong to no segment.

    Args:
        mask_logits: `(Q, h, w)`; the sigmoid is a mask's share. Masks whose shares do not sum to 1, as those of a
            Mask2Former decoder, count by their part of the sum.
        class_probs: `(Q, C+1)`, void last; the best class need not be more probable than void.
        is_thing: bool `(C,)`.
        resizer: From `(h, w)` to the image.
        settings: Thresholds and exponents.
        minimum_scores: As for `panoptic_segments`.
    """
    scores, labels = class_probs[:, :-1].max(-1)
    things = is_thing[labels]
    least = torch.where(things, settings.thing_threshold, settings.stuff_threshold)
    candidates = (scores > least).nonzero().squeeze(1)
    claims, means = _claims(mask_logits, candidates, resizer, settings.pixel_confidence)
    order = scores[candidates].cpu() ** settings.class_exponent * means**settings.mask_exponent
    table = torch.stack((candidates, labels[candidates], things[candidates].long())).cpu().numpy()
    best = scores[candidates].cpu().numpy()

    segment_map = np.zeros(resizer.height * resizer.width, np.int32)
    segments: list[list[Any]] = []
    stuff_segment: dict[int, int] = {}
    for index in order.argsort(descending=True, stable=True).tolist():
        query, label, thing = table[:, index]
        free = claims[index][segment_map[claims[index]] == 0]
        # In float32, as the authors' code compares: four fifths of a claim are not more than 0.8 of it.
        if not np.float32(len(free)) > np.float32(settings.overlap_threshold) * np.float32(len(claims[index])):
            continue
        number = len(segments) + 1 if thing else stuff_segment.setdefault(label, len(segments) + 1)
        segment_map[free] = number
        if number > len(segments):
            segments.append([label, best[index], query])
        elif best[index] > segments[number - 1][1]:
            segments[number - 1][1:] = [best[index], query]
    numbers, published = without_low_scores(segments, None if minimum_scores is None else minimum_scores.cpu().numpy())
    return PanopticSegments(numbers[segment_map].reshape(resizer.height, resizer.width), *published)


def kmax_semantic_classes(mask_logits: Tensor, class_probs: Tensor, resizer: MaskResizer) -> np.ndarray:
    """As `postprocess.semantic_classes`, with the masks' shares for their probabilities."""
    weights = class_probs[:, :-1].T.contiguous()
    classes = torch.empty((resizer.height, resizer.width), dtype=torch.int64, device=mask_logits.device)
    for rows, columns, shares in _shares(mask_logits, resizer):
        classes[rows, columns] = (weights @ shares.flatten(1)).argmax(0).view(shares.shape[1:])
    return classes.cpu().numpy()


def _shares(mask_logits: Tensor, resizer: MaskResizer) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yields (rows, columns, shares `(Q, rows, columns)`) of the image."""
    for rows, columns, logarithms in resizer.tiles(F.logsigmoid(mask_logits.float())):
        yield rows, columns, logarithms.softmax(0)


def _claims(
    mask_logits: Tensor, candidates: Tensor, resizer: MaskResizer, confidence: float
) -> tuple[list[np.ndarray], Tensor]:
    """What K of the masks claim: numbers of pixels, counted row by row, and the mean share, float32 `(K,)`, on the CPU.

    A pixel has few masks with more than the smallest `confidence`, so lists of pixels are shorter than pictures.
    """
    count = len(candidates)
    parts: list[list[np.ndarray]] = [[] for _ in range(count)]
    sums = torch.zeros(count, dtype=torch.float64, device=mask_logits.device)
    for rows, columns, shares in _shares(mask_logits, resizer) if count else ():
        chosen = shares[candidates]
        claimed = chosen > confidence
        sums += (chosen * claimed).flatten(1).sum(1)
        mask, y, x = claimed.nonzero(as_tuple=True)
        pixels = ((y + rows.start) * resizer.width + x + columns.start).cpu().numpy()
        counts = mask.bincount(minlength=count).cpu().numpy()
        for part, found in zip(parts, np.split(pixels, counts.cumsum()[:-1]), strict=True):
            part.append(found)
    claims = [np.concatenate(part) for part in parts]
    areas = torch.tensor([len(claim) for claim in claims], dtype=torch.float64)
    return claims, (sums.cpu() / areas.clamp(min=1)).float()
