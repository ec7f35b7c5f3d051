"""What every dataset reader gives: images with their truth, and the classes that the truth speaks of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

IGNORE = -1
"""Class of pixels that are not evaluated. The files' own values (255, 65535, 65) are classes elsewhere."""


@dataclass(frozen=True)
class TruthSegment:
    """One segment of the truth.

    Attributes:
        id: Value of the segment's pixels in `PanopticSample.segment_map`, from 1.
        class_index: Position of the class in `ClassList`, from 0.
        is_crowd: A region of many objects that nobody told apart: neither trained on nor counted as missed.
    """

    id: int
    class_index: int
    is_crowd: bool = False


@dataclass(frozen=True)
class PanopticSample:
    """An image with panoptic truth.

    Attributes:
        name: The record's name in its dataset, for errors and results.
        image: uint8 RGB `(H, W, 3)`, upright.
        segment_map: int32 `(H, W)`: 0 where there is no truth, else a `TruthSegment.id`.
        segments: The segments in the order of their ids, 1, 2, ...; each has at least one pixel.
    """

    name: str
    image: np.ndarray
    segment_map: np.ndarray
    segments: tuple[TruthSegment, ...]

    def class_map(self) -> np.ndarray:
        """Class of each pixel: int32 `(H, W)`, 0..C-1, `IGNORE` where there is no truth."""
        table = np.array([IGNORE, *(segment.class_index for segment in self.segments)], np.int32)
        return table[self.segment_map]


@dataclass(frozen=True)
class SemanticSample:
    """An image with the class of each pixel.

    Attributes:
        name: The record's name in its dataset.
        image: uint8 RGB `(H, W, 3)`, upright.
        labels: int32 `(H, W)`, 0..C-1 or `IGNORE`.
    """

    name: str
    image: np.ndarray
    labels: np.ndarray

    def class_map(self) -> np.ndarray:
        """`labels`; panoptic samples answer the same call."""
        return self.labels


@dataclass(frozen=True)
class ClassList:
    """The classes of a dataset, in the order that the truth's class indices count.

    Attributes:
        names: The dataset's own names; empty where its files hold none.
        things: Whether each class is a countable object; its length is the number of classes.
        ids: The dataset's own ids; empty where its files hold none.
    """

    names: tuple[str, ...]
    things: tuple[bool, ...]
    ids: tuple[int, ...] = ()

    def __len__(self) -> int:
        """Number of classes."""
        return len(self.things)


Sample = PanopticSample | SemanticSample


class Dataset(Protocol):
    """Samples by index, each read from disk when asked for.

    Attributes:
        name: The dataset's name on the command line.
        classes: What the truth's class indices mean.
    """

    name: str
    classes: ClassList

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def __getitem__(self, index: int) -> Sample:
        """Reads the sample at `index`, 0..len-1.

        Raises:
            DatasetError: Naming the file and the record.
        """
        ...
