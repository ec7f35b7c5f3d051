"""Assigns queries to segments as kMaX-DeepLab does: once, by overlap times class probability at the last depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fcclip_core.errors import TrainingError
from fcclip_core.training.matching import LayerPrediction, Match, Targets

TARGET_STRIDE = 4
"""Image pixels per mask pixel; targets are every fourth pixel of the segment map."""

_DICE_GUARD = 1e-5


@dataclass(frozen=True)
class ImageTargets:
    """The ground truth of one image at the size of the masks.

    Attributes:
        masks: float32 `(T, h, w)`, 1 inside; where masks overlap, 1 over their number.
        labels: int64 `(T,)`, class of each segment.
    """

    masks: Tensor
    labels: Tensor

    @property
    def void(self) -> Tensor:
        """Bool `(h, w)`, pixels that belong to no segment."""
        return self.masks.sum(0) == 0


def image_targets(targets: Targets) -> list[ImageTargets]:
    """Every fourth pixel of the segment maps, as masks."""
    maps = targets.segment_maps[:, ::TARGET_STRIDE, ::TARGET_STRIDE]
    pairs = zip(maps, targets.labels, strict=True)
    return [
        ImageTargets((segment_map == _numbers(labels)[:, None, None]).float(), labels) for segment_map, labels in pairs
    ]


@dataclass(frozen=True)
class Assignment:
    """What one image's queries should become; it is the same at all depths and carries no gradient.

    Attributes:
        match: The pairs.
        dice: float32 `(M,)`, overlap of each pair.
        probability: float32 `(M,)`, probability that the query gives to the segment's class.
    """

    match: Match
    dice: Tensor
    probability: Tensor


@torch.no_grad()
def assign(prediction: LayerPrediction, targets: Sequence[ImageTargets]) -> list[Assignment]:
    """Assigns the segments of each image so that the sum of overlap times class probability is largest.

    Args:
        prediction: The last depth's.
        targets: One per image.

    Raises:
        TrainingError: The prediction is not finite.
    """
    found = []
    for mask_logits, class_logits, truth in zip(prediction.mask_logits, prediction.class_logits, targets, strict=True):
        shares = mask_logits.float().softmax(0).flatten(1) * ~truth.void.flatten()
        masks = (truth.masks > 0).float().flatten(1)  # whole masks, where segments overlap, too
        size = (shares.sum(1, keepdim=True) + masks.sum(1)) / 2
        dice = shares @ masks.T / (size + _DICE_GUARD)
        probability = class_logits.float().softmax(-1)[:, truth.labels]
        gain = (dice * probability).cpu()
        if not gain.isfinite().all():
            raise TrainingError("the network's predictions are not finite")
        rows, columns = linear_sum_assignment(gain.numpy(), maximize=True)
        match = Match(torch.from_numpy(rows), torch.from_numpy(columns))
        pairs = match.queries.to(dice.device), match.segments.to(dice.device)
        found.append(Assignment(match, dice[pairs], probability[pairs]))
    return found


def _numbers(labels: Tensor) -> Tensor:
    """The values in the segment map: 1 to T."""
    return torch.arange(1, len(labels) + 1, device=labels.device)
