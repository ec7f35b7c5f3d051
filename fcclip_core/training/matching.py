"""Assigns queries to segments: the one-to-one matching of lowest cost (Carion et al., 2020, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fcclip_core.errors import TrainingError
from fcclip_core.training.config import LossConfig
from fcclip_core.training.points import PointSource, sample_segments, sample_shared


@dataclass(frozen=True)
class LayerPrediction:
    """The prediction of the queries at one decoder depth, with class logits.

    Attributes:
        mask_logits: `(B, Q, h, w)`.
        class_logits: float32 `(B, Q, C+1)`, void last.
    """

    mask_logits: Tensor
    class_logits: Tensor


@dataclass(frozen=True)
class Targets:
    """The ground truth of a batch.

    Attributes:
        segment_maps: int `(B, H, W)`: 0 = no segment, k = the k-th of the image's `labels`.
        labels: Per image int64 `(T,)`, class of each segment. A segment outside of the crop has no pixels, but remains
            a target, as in the published training.
    """

    segment_maps: Tensor
    labels: tuple[Tensor, ...]

    def to(self, device: torch.device) -> Targets:
        """The same on `device`."""
        maps = self.segment_maps.to(device, non_blocking=True)
        return Targets(maps, tuple(labels.to(device, non_blocking=True) for labels in self.labels))


@dataclass(frozen=True)
class Match:
    """Pairs of one image: `queries` (ascending) and `segments`, int64 `(min(Q, T),)` each, on the CPU."""

    queries: Tensor
    segments: Tensor


@torch.no_grad()
def match(
    predictions: Sequence[LayerPrediction], targets: Targets, points: PointSource, config: LossConfig
) -> list[list[Match]]:
    """Assigns segments to queries, for each layer and image.

    Args:
        predictions: One per decoder depth.
        targets: The ground truth.
        points: Points at which masks are compared.
        config: Weights of the costs.

    Returns:
        Matches by layer, then image.

    Raises:
        TrainingError: A prediction is not finite.
    """
    costs = [
        [_costs(prediction, targets, image, points.matching_points(layer, image), config) for image in _images(targets)]
        for layer, prediction in enumerate(predictions)
    ]
    # One transfer for all layers, because each synchronizes with the device.
    flat = torch.cat([cost.flatten() for row in costs for cost in row]).cpu().numpy()
    if not np.isfinite(flat).all():
        raise TrainingError("the network's predictions are not finite")
    ends = np.cumsum([cost.numel() for row in costs for cost in row])
    parts = iter(np.split(flat, ends[:-1]))
    return [[_assign(next(parts).reshape(cost.shape)) for cost in row] for row in costs]


def _images(targets: Targets) -> range:
    return range(len(targets.labels))


def _assign(cost: np.ndarray) -> Match:
    queries, segments = linear_sum_assignment(cost)
    return Match(torch.from_numpy(queries), torch.from_numpy(segments))


def _costs(prediction: LayerPrediction, targets: Targets, image: int, points: Tensor, config: LossConfig) -> Tensor:
    """Cost `(Q, T)` of assigning each query to each segment of an image."""
    labels = targets.labels[image]
    logits = sample_shared(prediction.mask_logits[image].float(), points)
    truth = sample_segments(
        targets.segment_maps,
        torch.tensor([image], device=points.device),
        torch.arange(1, len(labels) + 1, device=points.device),
        points.unsqueeze(0),
    ).T
    # -log sigmoid(x) for truth 1 and -log(1 - sigmoid(x)) for truth 0, combined: softplus(x) - x * truth.
    cross_entropy = (F.softplus(logits).sum(1, keepdim=True) - logits @ truth) / len(points)
    inside = logits.sigmoid()
    dice = 1 - (2 * (inside @ truth) + 1) / (inside.sum(1, keepdim=True) + truth.sum(0) + 1)
    probability = prediction.class_logits[image].softmax(-1)[:, labels]
    return config.mask_weight * cross_entropy + config.dice_weight * dice - config.class_weight * probability
