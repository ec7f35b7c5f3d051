"""All metrics of one decoding variant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fcclip_core.datasets.records import Sample, SemanticSample
from fcclip_core.evaluation.averages import class_groups
from fcclip_core.evaluation.instances import InstanceAP
from fcclip_core.evaluation.panoptic import PanopticQuality
from fcclip_core.evaluation.semantic import SemanticIoU
from fcclip_core.results import PanopticResult

Scores = dict[str, "float | None"]


class Scoreboard:
    """Semantic IoU; with panoptic ground truth also panoptic quality and, on request, instance AP."""

    def __init__(
        self, class_ids: Sequence[int], things: Sequence[bool], seen: Sequence[bool], *, instances: bool = False
    ) -> None:
        """Starts without images.

        Args:
            class_ids: The segmenter's ids of the dataset's C classes, in the dataset's order.
            things: Whether each class is a thing.
            seen: Whether each class is a seen class.
            instances: Whether to compute AP, which stores all masks as run-length codes.
        """
        self._index_of = np.full(max(class_ids) + 1, -1, np.int64)
        self._index_of[list(class_ids)] = np.arange(len(class_ids))
        self._groups = class_groups(things, seen)
        self._semantic = SemanticIoU(len(class_ids))
        self._panoptic: PanopticQuality | None = None
        self._instances = InstanceAP(things) if instances else None

    def update(self, number: int, sample: Sample, result: PanopticResult) -> None:
        """Adds an image; `number` is its index in the dataset."""
        self._semantic.update(sample.class_map(), self._index_of[result.semantic_map()])
        if isinstance(sample, SemanticSample):
            return
        if self._panoptic is None:
            self._panoptic = PanopticQuality(len(self._semantic.confusion))
        # Segments are numbered 1..P without gaps.
        labels = self._index_of[[segment.class_id for segment in result.segments]].tolist() if result.segments else []
        self._panoptic.update(sample, result.segment_map, labels)
        if self._instances is not None:
            found = result.instances()
            self._instances.update(number, sample, found.masks, self._index_of[found.class_ids], found.scores)

    def merge(self, other: Scoreboard) -> None:
        """Adds the counts of another process."""
        self._semantic.merge(other._semantic)
        if other._panoptic is not None and self._panoptic is None:
            self._panoptic = other._panoptic
        elif other._panoptic is not None and self._panoptic is not None:
            self._panoptic.merge(other._panoptic)
        if self._instances is not None and other._instances is not None:
            self._instances.merge(other._instances)

    def scores(self) -> Scores:
        """`pq.all`, `ap.seen`, `miou.unseen`, ... in per cent, for the metrics that were computed."""
        scores: Scores = {}
        if self._panoptic is not None:
            scores |= self._panoptic.scores(self._groups)
            if self._instances is not None:
                scores |= self._instances.scores(self._groups)
        return scores | self._semantic.scores(self._groups)

    def per_class(self) -> dict[str, list[float | None]]:
        """`pq`, `sq`, `rq`, `ap`, `iou` of each class in per cent; None if undefined."""
        columns = {"iou": self._semantic.per_class()}
        if self._panoptic is not None:
            columns |= dict(zip(("pq", "sq", "rq"), self._panoptic.per_class(), strict=True))
            if self._instances is not None:
                columns["ap"] = self._instances.per_class()
        return {name: [_number(value) for value in values] for name, values in columns.items()}


def _number(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)
