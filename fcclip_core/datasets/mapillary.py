"""Mapillary Vistas 1.2, 65 classes, panoptic and semantic, as downloaded."""

from __future__ import annotations

from pathlib import Path

from fcclip_core.datasets.coco_panoptic import CocoPanoptic
from fcclip_core.datasets.semantic_png import LabelValues, SemanticPng, pairs_by_stem


def mapillary_panoptic(root: Path, split: str = "validation") -> CocoPanoptic:
    """`SPLIT/panoptic/panoptic_2018.json`, `SPLIT/panoptic/*.png`, `SPLIT/images/*.jpg`.

    Raises:
        DatasetError: See `CocoPanoptic`.
    """
    folder = root / split / "panoptic"
    return CocoPanoptic(
        "mapillary_vistas",
        folder / "panoptic_2018.json",
        folder,
        root / split / "images",
        lambda image_id: f"{image_id}.jpg",
    )


def mapillary_semantic(root: Path, split: str = "validation") -> SemanticPng:
    """`SPLIT/labels/*.png` with classes 0..64, 65 = unlabeled, and `SPLIT/images/*.jpg`.

    Raises:
        DatasetError: See `pairs_by_stem`.
    """
    pairs = pairs_by_stem(root / split / "images", root / split / "labels", ".png")
    return SemanticPng("mapillary_vistas_semantic", pairs, LabelValues(65, ignored=frozenset({65})))
