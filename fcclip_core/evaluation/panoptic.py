"""Panoptic quality (Kirillov et al. 2019), by the rules of COCO's panopticapi.

torchmetrics gives the same result only if every pixel is labeled: it excludes unpredicted pixels from the union and
does not support crowds, so the paper's numbers need this implementation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fcclip_core.datasets.records import PanopticSample
from fcclip_core.evaluation.averages import group_means
from fcclip_core.evaluation.overlaps import pairwise_iou, segment_overlaps

MATCH_IOU = 0.5


class PanopticQuality:
    """Sums over images: a prediction matches ground truth of the same class if their IoU exceeds one half."""

    def __init__(self, classes: int) -> None:
        """Starts without images; `classes` is C."""
        self.iou = np.zeros(classes)
        self.matched, self.invented, self.missed = (np.zeros(classes, np.int64) for _ in range(3))

    def update(self, truth: PanopticSample, predicted_map: np.ndarray, predicted_classes: Sequence[int]) -> None:
        """Adds an image.

        Args:
            truth: Image with ground truth. Predictions that lie mostly on unlabeled pixels, or on the last crowd of
                their class, are not false positives; panopticapi keeps only one crowd per class.
            predicted_map: int32 `(H, W)`, 0 = none, else 1..P.
            predicted_classes: Class of each predicted segment, P of them, 0..C-1.
        """
        overlaps = segment_overlaps(truth, predicted_map, len(predicted_classes))
        truth_classes = np.array([segment.class_index for segment in truth.segments], np.int64)
        crowd = np.array([segment.is_crowd for segment in truth.segments], bool)
        classes = np.array(predicted_classes, np.int64)
        same_class = truth_classes[:, None] == classes

        shared = overlaps[1:, 1:]
        areas = overlaps[:, 1:].sum(0)
        iou = pairwise_iou(overlaps, overlaps.sum(1))
        match = same_class & ~crowd[:, None] & (iou > MATCH_IOU)

        last_crowd = crowd & _is_last(np.where(crowd, truth_classes, -1))
        ignored = overlaps[0, 1:] + (shared * (same_class & last_crowd[:, None])).sum(0)
        invented = ~match.any(0) & (areas > 0) & (ignored <= 0.5 * areas)
        missed = ~match.any(1) & ~crowd
        hits, _ = np.nonzero(match)
        np.add.at(self.iou, truth_classes[hits], iou[match])
        np.add.at(self.matched, truth_classes[hits], 1)
        np.add.at(self.invented, classes[invented], 1)
        np.add.at(self.missed, truth_classes[missed], 1)

    def merge(self, other: PanopticQuality) -> None:
        """Adds the counts of another process."""
        self.iou += other.iou
        self.matched += other.matched
        self.invented += other.invented
        self.missed += other.missed

    def per_class(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """PQ, SQ and RQ of each class in per cent, float64 `(C,)`; NaN for classes that never occurred."""
        weight = self.matched + 0.5 * self.invented + 0.5 * self.missed
        nothing = np.full(len(weight), np.nan)
        segmentation = np.where(weight > 0, self.iou / np.maximum(self.matched, 1), nothing)
        recognition = np.divide(self.matched, weight, out=nothing, where=weight > 0)
        return 100 * segmentation * recognition, 100 * segmentation, 100 * recognition

    def scores(self, groups: Mapping[str, np.ndarray]) -> dict[str, float | None]:
        """Means over groups of classes: `pq.all`, `sq.things`, `rq.unseen` and so on, in per cent."""
        named = zip(("pq", "sq", "rq"), self.per_class(), strict=True)
        return {
            f"{kind}.{group}": mean for kind, values in named for group, mean in group_means(values, groups).items()
        }


def _is_last(values: np.ndarray) -> np.ndarray:
    """Whether each value is the last one of its kind, bool `(N,)`."""
    last = {int(value): position for position, value in enumerate(values)}
    return np.array([last[int(value)] == position for position, value in enumerate(values)], bool)
