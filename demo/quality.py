"""Panoptic quality of what the node publishes, against the camera's truth, during the drive. No ROS here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from demo.frames import Frame, PublishedClass
from fcclip_core.datasets.records import PanopticSample, TruthSegment
from fcclip_core.evaluation.averages import class_groups
from fcclip_core.evaluation.panoptic import PanopticQuality


class LiveQuality:
    """Panoptic quality of the frames that were labeled with one vocabulary.

    A truth segment belongs to the class that has its name among the synonyms. Where no class has, nothing is
    expected, and any prediction is ignored.

    Attributes:
        frames: Frames counted.
    """

    def __init__(self, classes: Sequence[PublishedClass]) -> None:
        """Starts with no frame.

        Args:
            classes: The vocabulary as it was published.
        """
        self.frames = 0
        self._index_of_id = {item.id: index for index, item in enumerate(classes)}
        self._index_of_name = {name: index for index, item in enumerate(classes) for name in item.synonyms}
        self._groups = class_groups([item.is_thing for item in classes], [item.seen for item in classes])
        self._quality = PanopticQuality(len(classes))

    def add(self, frame: Frame) -> None:
        """Counts a frame that has its image, its outputs and its truth."""
        found, panoptic = frame.segments, frame.labels["panoptic"]
        assert found is not None and isinstance(panoptic, np.ndarray)
        rows = [row for row in found.rows if row.class_id in self._index_of_id]
        predicted = _renumbered(panoptic, [row.id for row in rows])
        self._quality.update(self._asked_for(frame), predicted, [self._index_of_id[row.class_id] for row in rows])
        self.frames += 1

    def percent(self) -> dict[str, float | None]:
        """`pq.all`, `pq.seen`, `pq.unseen` and so on, in percent; None where no such class has been seen yet."""
        return self._quality.scores(self._groups)

    def _asked_for(self, frame: Frame) -> PanopticSample:
        """The truth in the vocabulary's classes."""
        assert frame.truth is not None and frame.truth_map is not None
        rows = [row for row in frame.truth if row.name in self._index_of_name]
        segments = tuple(TruthSegment(number, self._index_of_name[row.name]) for number, row in enumerate(rows, 1))
        image = np.empty((*frame.truth_map.shape, 0), np.uint8)
        return PanopticSample("live", image, _renumbered(frame.truth_map, [row.id for row in rows]), segments)


def _renumbered(ids: np.ndarray, kept: Sequence[int]) -> np.ndarray:
    """The map with 1, 2, ... for the ids that are kept, in their order, and 0 elsewhere."""
    table = np.zeros(max([int(ids.max(initial=0)), *kept]) + 1, np.int32)
    table[list(kept)] = np.arange(1, len(kept) + 1)
    return table[ids]
