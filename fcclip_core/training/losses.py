"""The training loss: class, mask and dice terms of all decoder depths (paper, section 3.2; Mask2Former, 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fcclip_core import distributed
from fcclip_core.training.config import LossConfig
from fcclip_core.training.matching import LayerPrediction, Match, Targets, match
from fcclip_core.training.points import PointSource, sample_each, sample_segments


@dataclass(frozen=True)
class Losses:
    """Unweighted loss terms of each decoder depth, `(L,)` each; the last depth is the model's prediction.

    Attributes:
        classes: Cross-entropy over text embeddings and void.
        masks: Binary cross-entropy on points.
        dice: Dice loss on points.
        total: Weighted sum of all terms of all depths, a scalar.
    """

    classes: Tensor
    masks: Tensor
    dice: Tensor
    total: Tensor

    @property
    def last(self) -> dict[str, Tensor]:
        """The last depth's terms by the name that the log gives them."""
        return {"class": self.classes[-1], "mask": self.masks[-1], "dice": self.dice[-1]}


class Criterion:
    """Matches queries with segments and computes the loss.

    The loss is normalized over the images of all workers: averaging gradients over workers gives the gradient of one
    worker with all images.
    """

    def __init__(self, config: LossConfig) -> None:
        """`config` has the weights of the terms and the number of points."""
        self.config = config

    def __call__(self, predictions: Sequence[LayerPrediction], targets: Targets, points: PointSource) -> Losses:
        """Computes the loss of a batch.

        Args:
            predictions: One per decoder depth; the last is the model's prediction.
            targets: The ground truth.
            points: Points at which masks are compared.

        Raises:
            TrainingError: A prediction is not finite.
        """
        matches = match(predictions, targets, points, self.config)
        segments, weight = self._shares(predictions[0].class_logits, targets)
        classes = torch.stack(
            [
                self._class_loss(prediction.class_logits, targets, found) / weight
                for prediction, found in zip(predictions, matches, strict=True)
            ]
        )
        mask_terms = [
            self._mask_losses(prediction.mask_logits, targets, found, points, layer)
            for layer, (prediction, found) in enumerate(zip(predictions, matches, strict=True))
        ]
        masks, dice = (torch.stack(terms) / segments for terms in zip(*mask_terms, strict=True))
        config = self.config
        total = (config.class_weight * classes + config.mask_weight * masks + config.dice_weight * dice).sum()
        return Losses(classes, masks, dice, total)

    def _shares(self, class_logits: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        """Mean over workers of the number of segments (at least 1) and of the sum of cross-entropy weights."""
        batch, queries = class_logits.shape[:2]
        segments = sum(len(labels) for labels in targets.labels)
        matched = sum(min(len(labels), queries) for labels in targets.labels)
        weight = matched + self.config.void_weight * (batch * queries - matched)
        sums = distributed.sum_over_workers(class_logits.new_tensor([segments, weight]))
        shares = sums / distributed.world_size()
        return shares[0].clamp(min=1), shares[1]

    def _class_loss(self, class_logits: Tensor, targets: Targets, matches: Sequence[Match]) -> Tensor:
        """Weighted sum of cross-entropies; the target of unmatched queries is void."""
        void = class_logits.shape[-1] - 1
        labels = torch.full(class_logits.shape[:2], void, device=class_logits.device)
        for image, (found, truth) in enumerate(zip(matches, targets.labels, strict=True)):
            labels[image, found.queries.to(labels.device)] = truth[found.segments.to(labels.device)]
        weights = class_logits.new_ones(void + 1)
        weights[void] = self.config.void_weight
        return F.cross_entropy(class_logits.flatten(0, 1), labels.flatten(), weights, reduction="sum")

    def _mask_losses(
        self, mask_logits: Tensor, targets: Targets, matches: Sequence[Match], points: PointSource, layer: int
    ) -> tuple[Tensor, Tensor]:
        """Sums of binary cross-entropy and of dice loss over matched masks."""
        counts = [len(found.queries) for found in matches]
        if not sum(counts):  # keeps the mask head in the graph, because other workers wait for its gradients
            nothing = mask_logits.float().sum() * 0
            return nothing, nothing
        device = mask_logits.device
        images = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)).to(device)
        queries = torch.cat([found.queries for found in matches]).to(device)
        segments = torch.cat([found.segments for found in matches]).to(device)
        matched = mask_logits[images, queries].float()
        with torch.no_grad():
            places = points.loss_points(layer, matched, counts)
            truth = sample_segments(targets.segment_maps, images, segments + 1, places)
        logits = sample_each(matched, places)
        cross_entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(1).sum()
        inside = logits.sigmoid()
        overlap = (2 * (inside * truth).sum(1) + 1) / (inside.sum(1) + truth.sum(1) + 1)
        return cross_entropy, (1 - overlap).sum()
