"""Class-agnostic recall: whether any predicted mask covers a ground-truth segment."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fcclip_core.datasets.records import PanopticSample
from fcclip_core.evaluation.averages import group_ratios
from fcclip_core.evaluation.overlaps import pairwise_iou
from fcclip_core.evaluation.panoptic import MATCH_IOU


class MaskRecall:
    """Fraction of ground-truth segments that some predicted mask of any class overlaps with an IoU above one half."""

    def __init__(self, classes: int) -> None:
        """Starts without images; `classes` is C."""
        self.found, self.total = (np.zeros(classes, np.int64) for _ in range(2))

    def update(self, truth: PanopticSample, overlaps: np.ndarray) -> None:
        """Adds an image.

        Args:
            truth: T segments; crowds are ignored.
            overlaps: `(T+1, P+1)` intersections with the predicted masks (`evaluation.overlaps`).
        """
        truth_areas = np.bincount(truth.segment_map.ravel(), minlength=len(truth.segments) + 1)
        found = np.any(pairwise_iou(overlaps, truth_areas) > MATCH_IOU, axis=1)
        for segment, hit in zip(truth.segments, found.tolist(), strict=True):
            if not segment.is_crowd:
                self.total[segment.class_index] += 1
                self.found[segment.class_index] += hit

    def merge(self, other: MaskRecall) -> None:
        """Adds the counts of another process."""
        self.found += other.found
        self.total += other.total

    def scores(self, name: str, groups: Mapping[str, np.ndarray]) -> dict[str, float | None]:
        """Recall of each group, 0..1: `NAME.all`, `NAME.unseen`, ...; None without segments."""
        return group_ratios(name, self.found, self.total, groups)
