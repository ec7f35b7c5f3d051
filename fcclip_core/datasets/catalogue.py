"""The datasets by the names that commands know them by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from fcclip_core.datasets.ade20k import ade20k_150, ade20k_847, ade20k_panoptic
from fcclip_core.datasets.cityscapes import cityscapes_panoptic, cityscapes_semantic
from fcclip_core.datasets.coco_panoptic import CocoPanoptic, coco_panoptic, panoptic_folder
from fcclip_core.datasets.mapillary import mapillary_panoptic, mapillary_semantic
from fcclip_core.datasets.pascal import pascal_context_59, pascal_context_459, pascal_voc_20, pascal_voc_21
from fcclip_core.datasets.records import ClassList
from fcclip_core.datasets.semantic_png import SemanticPng
from fcclip_core.errors import VocabularyError
from fcclip_core.model_zoo import AUTHORS
from fcclip_core.vocabulary import Vocabulary, VocabularyClass


@dataclass(frozen=True)
class DatasetEntry:
    """One dataset in one published form.

    Attributes:
        title: What it is, for help texts.
        open: From its root folder and a split to the dataset.
        split: The split that the paper evaluates.
        vocabulary: The bundled vocabulary with its classes, in order; None where there is none.
        paper: Name of the dataset's scores in `model_zoo.PublishedModel`; empty where the paper has none.
        paper_list: The paper's list of class names, a file in the authors' repository, which must be given where there
            is no bundled one; without either the dataset's own names are the words.
    """

    title: str
    open: Callable[[Path, str], CocoPanoptic | SemanticPng]
    split: str
    vocabulary: str | None
    paper: str
    paper_list: str = ""

    @property
    def is_panoptic(self) -> bool:
        """Whether its truth has segments."""
        return self.open in _PANOPTIC


_PANOPTIC = (coco_panoptic, panoptic_folder, ade20k_panoptic, cityscapes_panoptic, mapillary_panoptic)

DATASETS: dict[str, DatasetEntry] = {
    "coco": DatasetEntry(
        "COCO panoptic, 133 classes, all of them trained on", coco_panoptic, "val2017", "coco_panoptic", "coco"
    ),
    "folder": DatasetEntry("a folder of one's own in the COCO panoptic format", panoptic_folder, "", None, ""),
    "ade20k": DatasetEntry("ADE20K panoptic, 150 classes", ade20k_panoptic, "validation", "ade20k_150", "ade20k"),
    "ade20k_150": DatasetEntry("ADE20K semantic, 150 classes", ade20k_150, "validation", "ade20k_150", "ade20k"),
    "ade20k_847": DatasetEntry(
        "ADE20K full semantic, 847 classes",
        ade20k_847,
        "validation",
        None,
        "ade20k_full",
        "ade20k_847_with_prompt_eng.txt",
    ),
    "cityscapes": DatasetEntry("Cityscapes panoptic", cityscapes_panoptic, "val", "cityscapes", "cityscapes"),
    "cityscapes_semantic": DatasetEntry("Cityscapes semantic", cityscapes_semantic, "val", "cityscapes", "cityscapes"),
    "mapillary_vistas": DatasetEntry(
        "Mapillary Vistas panoptic, 65 classes",
        mapillary_panoptic,
        "validation",
        None,
        "mapillary",
        "mapillary_vistas_with_prompt_eng.txt",
    ),
    "mapillary_vistas_semantic": DatasetEntry(
        "Mapillary Vistas semantic, 65 classes",
        mapillary_semantic,
        "validation",
        None,
        "mapillary",
        "mapillary_vistas_with_prompt_eng.txt",
    ),
    "pascal_context_59": DatasetEntry(
        "PASCAL Context, 59 classes", pascal_context_59, "validation", "pascal_context_59", "pascal_context_59"
    ),
    "pascal_context_459": DatasetEntry(
        "PASCAL Context, 459 classes",
        pascal_context_459,
        "validation",
        None,
        "pascal_context_459",
        "pascal_ctx_459_with_prompt_eng.txt",
    ),
    "pascal_voc_20": DatasetEntry("PASCAL VOC, 20 classes", pascal_voc_20, "val", "pascal_voc_20", "pascal_voc_20"),
    "pascal_voc_21": DatasetEntry(
        "PASCAL VOC, 20 classes and background",
        pascal_voc_21,
        "val",
        None,
        "pascal_voc_21",
        "pascal_voc_21_with_prompt_eng.txt",
    ),
}


def dataset_vocabulary(entry: DatasetEntry, classes: ClassList, given: Vocabulary | None = None) -> Vocabulary:
    """The words for a dataset's classes, which are matched by position, as the paper does.

    Args:
        entry: The dataset.
        classes: Its classes; where its files say what is a thing, that counts.
        given: Words to use instead of the bundled ones.

    Raises:
        VocabularyError: Words must be given, or there are not as many as the dataset has classes.
    """
    if given is None and entry.vocabulary is None and entry.paper_list:
        raise VocabularyError(
            f"{entry.title}: no list of its class names is bundled; pass --vocabulary with the paper's "
            f"{entry.paper_list} (fcclip/data/datasets/ in {AUTHORS}), or a list of your own in that order"
        )
    vocabulary = given or (Vocabulary.load(entry.vocabulary) if entry.vocabulary else _own_names(classes))
    if len(vocabulary) != len(classes):
        raise VocabularyError(
            f"the vocabulary has {len(vocabulary)} classes, but the dataset has {len(classes)}; they are matched by "
            "position, so pass --vocabulary with one class for each of the dataset's, in its order"
        )
    if not classes.names:
        return vocabulary
    paired = zip(vocabulary.classes, classes.things, strict=True)
    return replace(vocabulary, classes=tuple(replace(item, is_thing=thing) for item, thing in paired))


def _own_names(classes: ClassList) -> Vocabulary:
    # One class a name, commas and all.
    return Vocabulary(tuple(VocabularyClass((name,)) for name in classes.names))
