"""ADE20K: 150 classes, panoptic and semantic, and the 847 classes of the full dataset."""

from __future__ import annotations

from pathlib import Path

from fcclip_core.datasets.coco_panoptic import CocoPanoptic
from fcclip_core.datasets.semantic_png import LabelValues, SemanticPng, pairs_by_stem
from fcclip_core.errors import DatasetError

_SHORT_SPLIT = {"training": "train", "validation": "val"}


def ade20k_panoptic(root: Path, split: str = "validation") -> CocoPanoptic:
    """ADEChallengeData2016 with the panoptic files prepared by Mask2Former's and FC-CLIP's script.

    `ade20k_panoptic_{train,val}.json`, `ade20k_panoptic_{train,val}/*.png`, `images/{training,validation}/*.jpg`.

    Raises:
        DatasetError: See `CocoPanoptic`.
    """
    if split not in _SHORT_SPLIT:
        raise DatasetError(f"ADE20K has no split {split!r}; expected {' or '.join(_SHORT_SPLIT)}")
    stem = f"ade20k_panoptic_{_SHORT_SPLIT[split]}"
    return CocoPanoptic("ade20k", root / f"{stem}.json", root / stem, root / "images" / split)


def ade20k_150(root: Path, split: str = "validation") -> SemanticPng:
    """ADEChallengeData2016 as downloaded: `images/SPLIT/*.jpg`, `annotations/SPLIT/*.png`, 0 = unlabeled, 1..150.

    Raises:
        DatasetError: See `pairs_by_stem`.
    """
    pairs = pairs_by_stem(root / "images" / split, root / "annotations" / split, ".png")
    return SemanticPng("ade20k_150", pairs, LabelValues(150, first=1, ignored=frozenset({0})))


def ade20k_847(root: Path, split: str = "validation") -> SemanticPng:
    """ADE20K_2021_17_01 as prepared by FC-CLIP's script: classes 0..846, 65535 = ignore.

    `images_detectron2/SPLIT/*.jpg` and 16-bit `annotations_detectron2/SPLIT/*.tif`.

    Raises:
        DatasetError: See `pairs_by_stem`.
    """
    pairs = pairs_by_stem(root / "images_detectron2" / split, root / "annotations_detectron2" / split, ".tif")
    return SemanticPng("ade20k_847", pairs, LabelValues(847, ignored=frozenset({65535})))
