"""The types that all dataset readers return: images with ground truth, and class lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

IGNORE = -1
"""Class of pixels that are not evaluated. The files' own values (255, 65535, 65) are classes in other datasets."""


@dataclass(frozen=True)
class TruthSegment:
    """One ground-truth segment.

    Attributes:
        id: Value of the segment's pixels in `PanopticSample.segment_map`, from 1.
        class_index: Index of the class in `ClassList`, from 0.
        is_crowd: A region of many objects without individual labels: neither trained on nor counted as missed.
    """

    id: int
    class_index: int
    is_crowd: bool = False


@dataclass(frozen=True)
class PanopticSample:
    """An image with panoptic ground truth.

    Attributes:
        name: The record's name in its dataset, for errors and results.
        image: uint8 RGB `(H, W, 3)`, with the EXIF orientation applied.
        segment_map: int32 `(H, W)`: 0 for unlabeled pixels, else a `TruthSegment.id`.
        segments: The segments in the order of their ids, 1, 2, ...; each has at least one pixel.
    """

    name: str
    image: np.ndarray
    segment_map: np.ndarray
    segments: tuple[TruthSegment, ...]

    def class_map(self) -> np.ndarray:
        """Class of each pixel: int32 `(H, W)`, 0..C-1, `IGNORE` for unlabeled pixels."""
        table = np.array([IGNORE, *(segment.class_index for segment in self.segments)], np.int32)
        return table[self.segment_map]


@dataclass(frozen=True)
class SemanticSample:
    """An image with the class of each pixel.

    Attributes:
        name: The record's name in its dataset.
        image: uint8 RGB `(H, W, 3)`, with the EXIF orientation applied.
        labels: int32 `(H, W)`, 0..C-1 or `IGNORE`.
    """

    name: str
    image: np.ndarray
    labels: np.ndarray

    def class_map(self) -> np.ndarray:
        """Returns `labels`, for a common interface with panoptic samples."""
        return self.labels


def class_segments(sample: SemanticSample) -> PanopticSample:
    """Semantic ground truth as panoptic: the region of each class in the image is one segment, a thing's too."""
    present = [int(label) for label in np.unique(sample.labels) if label != IGNORE]
    segment_map = renumbered(sample.labels - IGNORE, [label - IGNORE for label in present])
    segments = tuple(TruthSegment(number, label) for number, label in enumerate(present, 1))
    return PanopticSample(sample.name, sample.image, segment_map, segments)


@dataclass(frozen=True)
class ClassList:
    """The classes of a dataset, in the order of class indices.

    Attributes:
        names: The dataset's own names; empty if its files have none.
        things: Whether each class is a thing; its length is the number of classes.
        ids: The dataset's own ids; empty if its files have none.
    """

    names: tuple[str, ...]
    things: tuple[bool, ...]
    ids: tuple[int, ...] = ()

    def __len__(self) -> int:
        """Number of classes."""
        return len(self.things)


def renumbered(segment_map: np.ndarray, ids: Sequence[int]) -> np.ndarray:
    """A segment map with `ids` replaced by 1, 2, ... in their order, and all other ids by 0: int32 `(H, W)`."""
    table = np.zeros(max(int(segment_map.max(initial=0)), *ids, 0) + 1, np.int32)
    table[list(ids)] = np.arange(1, len(ids) + 1)
    return table[segment_map]


Sample = PanopticSample | SemanticSample


class Dataset(Protocol):
    """Samples by index, read from disk on access.

    Attributes:
        name: The dataset's name on the command line.
        classes: The classes that class indices refer to.
    """

    name: str
    classes: ClassList

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def __getitem__(self, index: int) -> Sample:
        """Reads the sample at `index`, 0..len-1.

        Raises:
            DatasetError: The sample is invalid; names the file and the record.
        """
        ...
