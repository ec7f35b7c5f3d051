"""Cityscapes, the 19 classes of its benchmarks, panoptic and semantic."""

from __future__ import annotations

from pathlib import Path

from fcclip_core.datasets.annotation_files import names_in
from fcclip_core.datasets.coco_panoptic import CocoPanoptic
from fcclip_core.datasets.semantic_png import FilePair, LabelValues, SemanticPng
from fcclip_core.errors import DatasetError

_LABELS, _IMAGE = "_gtFine_labelTrainIds.png", "_leftImg8bit.png"


def cityscapes_panoptic(root: Path, split: str = "val") -> CocoPanoptic:
    """Cityscapes with the panoptic files of cityscapesScripts' createPanopticImgs.py.

    `gtFine/cityscapes_panoptic_SPLIT.json`, `gtFine/cityscapes_panoptic_SPLIT/*.png`, `leftImg8bit/SPLIT/CITY/*.png`.

    Raises:
        DatasetError: See `CocoPanoptic`.
    """
    stem = f"cityscapes_panoptic_{split}"
    folder = root / "gtFine"
    # The image names in the JSON contain "_gtFine_" and no city, so they do not exist as files.
    return CocoPanoptic(
        "cityscapes",
        folder / f"{stem}.json",
        folder / stem,
        root / "leftImg8bit" / split,
        lambda image_id: f"{image_id.split('_')[0]}/{image_id}{_IMAGE}",
    )


def cityscapes_semantic(root: Path, split: str = "val") -> SemanticPng:
    """Cityscapes with the label images of cityscapesScripts' createTrainIdLabelImgs.py: 0..18, 255 = ignore.

    `gtFine/SPLIT/CITY/*_gtFine_labelTrainIds.png`, `leftImg8bit/SPLIT/CITY/*_leftImg8bit.png`.

    Raises:
        DatasetError: A folder is missing, or an annotation has no image.
    """
    pairs = []
    for city in names_in(root / "gtFine" / split):
        labels, images = root / "gtFine" / split / city, root / "leftImg8bit" / split / city
        present = set(names_in(images))
        for name in names_in(labels):
            if not name.endswith(_LABELS):
                continue
            stem = name.removesuffix(_LABELS)
            if stem + _IMAGE not in present:
                raise DatasetError(f"the image {images / (stem + _IMAGE)} of {labels / name} is missing")
            pairs.append(FilePair(stem, images / (stem + _IMAGE), labels / name))
    if not pairs:
        raise DatasetError(
            f"{root / 'gtFine' / split} has no *{_LABELS}; create them with cityscapesScripts' "
            "createTrainIdLabelImgs.py"
        )
    return SemanticPng("cityscapes_semantic", pairs, LabelValues(19))
