"""Mean intersection over union of class maps, from a confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torchmetrics.functional.classification import multiclass_confusion_matrix

from fcclip_core.datasets.records import IGNORE
from fcclip_core.evaluation.averages import group_means


class SemanticIoU:
    """Sums over images; the mean is over the classes that occur in the ground truth, as in the paper's evaluation."""

    def __init__(self, classes: int) -> None:
        """Starts without images; `classes` is C."""
        self.confusion = np.zeros((classes, classes), np.int64)

    def update(self, truth: np.ndarray, predicted: np.ndarray) -> None:
        """Adds an image.

        Args:
            truth: int32 `(H, W)`, 0..C-1 or `IGNORE`.
            predicted: int `(H, W)`, 0..C-1.
        """
        counts = multiclass_confusion_matrix(
            torch.from_numpy(predicted.astype(np.int64)),
            torch.from_numpy(truth.astype(np.int64)),
            num_classes=len(self.confusion),
            ignore_index=IGNORE,
            validate_args=False,
        )
        self.confusion += counts.numpy()

    def merge(self, other: SemanticIoU) -> None:
        """Adds the counts of another process."""
        self.confusion += other.confusion

    def per_class(self) -> np.ndarray:
        """IoU of each class in per cent, float64 `(C,)`; NaN for classes without ground truth."""
        right, truth, predicted = np.diag(self.confusion), self.confusion.sum(1), self.confusion.sum(0)
        iou = np.full(len(right), np.nan)
        np.divide(100 * right, truth + predicted - right, out=iou, where=truth > 0)
        return iou

    def scores(self, groups: Mapping[str, np.ndarray]) -> dict[str, float | None]:
        """Means over groups of classes: `miou.all`, `miou.seen` and so on, in per cent."""
        return {f"miou.{group}": mean for group, mean in group_means(self.per_class(), groups).items()}
