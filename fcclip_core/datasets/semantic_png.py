"""The usual format of semantic segmentation datasets: a label image for each photograph."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fcclip_core.datasets.annotation_files import names_in, read_labels, read_photograph, require_same_size
from fcclip_core.datasets.records import IGNORE, ClassList, SemanticSample
from fcclip_core.errors import DatasetError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class LabelValues:
    """The meaning of annotation values: `first`, `first + 1`, ... are the classes 0, 1, ...

    Attributes:
        classes: Number of classes.
        first: Value of class 0.
        ignored: Values of pixels that are not evaluated.
    """

    classes: int
    first: int = 0
    ignored: frozenset[int] = frozenset({255})

    def to_classes(self, labels: np.ndarray, where: Path) -> np.ndarray:
        """Converts stored values to classes: int32 `(H, W)`, 0..C-1 or `IGNORE`.

        Raises:
            DatasetError: A value is neither a class nor ignored, or the annotation is a color image.
        """
        if labels.ndim != 2 or labels.dtype.kind not in "ui":
            raise DatasetError(f"{where} is a color image; expected one class number per pixel")
        present, inverse = np.unique(labels, return_inverse=True)
        table = present.astype(np.int32) - self.first
        ignored = np.isin(present, list(self.ignored))
        unknown = present[~ignored & ((table < 0) | (table >= self.classes))]
        if len(unknown):
            raise DatasetError(
                f"{where} has the unknown class number {unknown[0]}; expected {self.first} to "
                f"{self.first + self.classes - 1}, or {', '.join(map(str, sorted(self.ignored)))} for ignored pixels"
            )
        table[ignored] = IGNORE
        return table[inverse].reshape(labels.shape)


@dataclass(frozen=True)
class FilePair:
    """An image and its annotation."""

    name: str
    image: Path
    annotation: Path


class SemanticPng:
    """A dataset of images and label images."""

    def __init__(self, name: str, pairs: Sequence[FilePair], values: LabelValues) -> None:
        """Opens the dataset; files are read one by one.

        Raises:
            DatasetError: There are no pairs.
        """
        if not pairs:
            raise DatasetError(f"the dataset {name} is empty: no annotations were found")
        self.name = name
        # Semantic evaluation does not distinguish things and stuff.
        self.classes = ClassList(names=(), things=(False,) * values.classes)
        self._pairs, self._values = tuple(pairs), values

    def __len__(self) -> int:
        """Number of annotated images."""
        return len(self._pairs)

    def __getitem__(self, index: int) -> SemanticSample:
        """Reads the image at `index` and its labels.

        Raises:
            DatasetError: A file is missing or damaged, sizes differ, or a class number is unknown.
        """
        pair = self._pairs[index]
        image, labels = read_photograph(pair.image), read_labels(pair.annotation)
        require_same_size(image, pair.image, labels, pair.annotation)
        return SemanticSample(pair.name, image, self._values.to_classes(labels, pair.annotation))


def pairs_by_stem(images: Path, annotations: Path, suffix: str) -> list[FilePair]:
    """Pairs each annotation with the image of the same stem.

    Args:
        images: Folder of the images.
        annotations: Folder of the annotations.
        suffix: Suffix of the annotations, for example ".png".

    Raises:
        DatasetError: A folder is missing, or an annotation has no image.
    """
    stems = [Path(name).stem for name in names_in(annotations) if name.endswith(suffix)]
    return named_pairs(stems, images, annotations, suffix)


def named_pairs(stems: Iterable[str], images: Path, annotations: Path, suffix: str) -> list[FilePair]:
    """Pairs images and annotations of the given stems.

    Raises:
        DatasetError: A folder is missing, or a stem has no image or no annotation.
    """
    image_of = {Path(name).stem: name for name in names_in(images) if Path(name).suffix.lower() in IMAGE_SUFFIXES}
    annotated = set(names_in(annotations))
    pairs = []
    for stem in stems:
        if stem not in image_of:
            raise DatasetError(f"the image {images / stem} ({', '.join(IMAGE_SUFFIXES)}) is missing")
        if f"{stem}{suffix}" not in annotated:
            raise DatasetError(f"the annotation {annotations / stem}{suffix} is missing")
        pairs.append(FilePair(stem, images / image_of[stem], annotations / f"{stem}{suffix}"))
    return pairs
