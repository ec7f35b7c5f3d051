"""PASCAL VOC 2012 (20 and 21 classes) and PASCAL Context (59 and 459 classes)."""

from __future__ import annotations

from pathlib import Path

from fcclip_core.datasets.semantic_png import FilePair, LabelValues, SemanticPng, named_pairs, pairs_by_stem
from fcclip_core.errors import DatasetError


def pascal_voc_20(root: Path, split: str = "val") -> SemanticPng:
    """VOC2012 as downloaded, 20 object classes 1..20; background (0) and borders (255) are ignored.

    `ImageSets/Segmentation/SPLIT.txt`, `JPEGImages/*.jpg`, `SegmentationClass/*.png`.

    Raises:
        DatasetError: A file is missing.
    """
    return SemanticPng("pascal_voc_20", _voc_pairs(root, split), LabelValues(20, 1, frozenset({0, 255})))


def pascal_voc_21(root: Path, split: str = "val") -> SemanticPng:
    """The same files with background as class 0; only borders (255) are ignored.

    Raises:
        DatasetError: A file is missing.
    """
    return SemanticPng("pascal_voc_21", _voc_pairs(root, split), LabelValues(21))


def pascal_context_59(root: Path, split: str = "validation") -> SemanticPng:
    """PASCAL Context as prepared by FC-CLIP's script: classes 0..58, 255 = ignore.

    `images/SPLIT/*.jpg`, `annotations_ctx59/SPLIT/*.png`.

    Raises:
        DatasetError: See `pairs_by_stem`.
    """
    pairs = pairs_by_stem(root / "images" / split, root / "annotations_ctx59" / split, ".png")
    return SemanticPng("pascal_context_59", pairs, LabelValues(59))


def pascal_context_459(root: Path, split: str = "validation") -> SemanticPng:
    """The same with 459 classes in 16-bit `annotations_ctx459/SPLIT/*.tif`, 65535 = ignore.

    Raises:
        DatasetError: See `pairs_by_stem`.
    """
    pairs = pairs_by_stem(root / "images" / split, root / "annotations_ctx459" / split, ".tif")
    return SemanticPng("pascal_context_459", pairs, LabelValues(459, ignored=frozenset({65535})))


def _voc_pairs(root: Path, split: str) -> list[FilePair]:
    listing = root / "ImageSets" / "Segmentation" / f"{split}.txt"
    try:
        stems = listing.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"cannot read {listing}: {getattr(error, 'strerror', None) or error}") from error
    if not stems:
        raise DatasetError(f"{listing} lists no image; the dataset is empty")
    return named_pairs(stems, root / "JPEGImages", root / "SegmentationClass", ".png")
