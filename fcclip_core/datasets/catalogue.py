"""The datasets by the names that commands know them by. Importing this loads no reader: help texts need it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from fcclip_core.errors import VocabularyError
from fcclip_core.model_zoo import AUTHORS

if TYPE_CHECKING:
    from fcclip_core.datasets.coco_panoptic import CocoPanoptic
    from fcclip_core.datasets.records import ClassList
    from fcclip_core.datasets.semantic_png import SemanticPng
    from fcclip_core.vocabulary import Vocabulary


@dataclass(frozen=True)
class DatasetEntry:
    """One dataset in one published form.

    Attributes:
        title: What it is, for help texts.
        module: The module of `fcclip_core.datasets` that reads it.
        reader: The function in it: from a root folder and a split to the dataset.
        split: The split that the paper evaluates.
        is_panoptic: Whether its truth has segments.
        vocabulary: The bundled vocabulary with its classes, in order; None where there is none.
        paper: Name of the dataset's scores in `model_zoo.PublishedModel`; empty where the paper has none.
        paper_list: The paper's list of class names, a file in the authors' repository, which must be given where there
            is no bundled one; without either the dataset's own names are the words.
    """

    title: str
    module: str
    reader: str
    split: str
    is_panoptic: bool = False
    vocabulary: str | None = None
    paper: str = ""
    paper_list: str = ""

    def open(self, root: Path, split: str) -> CocoPanoptic | SemanticPng:
        """Opens the dataset in folder `root`.

        Raises:
            DatasetError: A file is missing, or contradicts itself.
        """
        return getattr(import_module(f"fcclip_core.datasets.{self.module}"), self.reader)(root, split)


DATASETS: dict[str, DatasetEntry] = {
    "coco": DatasetEntry(
        title="COCO panoptic, 133 classes, all of them trained on",
        module="coco_panoptic",
        reader="coco_panoptic",
        split="val2017",
        is_panoptic=True,
        vocabulary="coco_panoptic",
        paper="coco",
    ),
    "folder": DatasetEntry(
        title="a folder of one's own in the COCO panoptic format",
        module="coco_panoptic",
        reader="panoptic_folder",
        split="",
        is_panoptic=True,
    ),
    "ade20k": DatasetEntry(
        title="ADE20K panoptic, 150 classes",
        module="ade20k",
        reader="ade20k_panoptic",
        split="validation",
        is_panoptic=True,
        vocabulary="ade20k_150",
        paper="ade20k",
    ),
    "ade20k_150": DatasetEntry(
        title="ADE20K semantic, 150 classes",
        module="ade20k",
        reader="ade20k_150",
        split="validation",
        vocabulary="ade20k_150",
        paper="ade20k",
    ),
    "ade20k_847": DatasetEntry(
        title="ADE20K full semantic, 847 classes",
        module="ade20k",
        reader="ade20k_847",
        split="validation",
        paper="ade20k_full",
        paper_list="ade20k_847_with_prompt_eng.txt",
    ),
    "cityscapes": DatasetEntry(
        title="Cityscapes panoptic, 19 classes",
        module="cityscapes",
        reader="cityscapes_panoptic",
        split="val",
        is_panoptic=True,
        vocabulary="cityscapes",
        paper="cityscapes",
    ),
    "cityscapes_semantic": DatasetEntry(
        title="Cityscapes semantic, 19 classes",
        module="cityscapes",
        reader="cityscapes_semantic",
        split="val",
        vocabulary="cityscapes",
        paper="cityscapes",
    ),
    "mapillary_vistas": DatasetEntry(
        title="Mapillary Vistas panoptic, 65 classes",
        module="mapillary",
        reader="mapillary_panoptic",
        split="validation",
        is_panoptic=True,
        paper="mapillary",
        paper_list="mapillary_vistas_with_prompt_eng.txt",
    ),
    "mapillary_vistas_semantic": DatasetEntry(
        title="Mapillary Vistas semantic, 65 classes",
        module="mapillary",
        reader="mapillary_semantic",
        split="validation",
        paper="mapillary",
        paper_list="mapillary_vistas_with_prompt_eng.txt",
    ),
    "pascal_context_59": DatasetEntry(
        title="PASCAL Context, 59 classes",
        module="pascal",
        reader="pascal_context_59",
        split="validation",
        vocabulary="pascal_context_59",
        paper="pascal_context_59",
    ),
    "pascal_context_459": DatasetEntry(
        title="PASCAL Context, 459 classes",
        module="pascal",
        reader="pascal_context_459",
        split="validation",
        paper="pascal_context_459",
        paper_list="pascal_ctx_459_with_prompt_eng.txt",
    ),
    "pascal_voc_20": DatasetEntry(
        title="PASCAL VOC, 20 classes",
        module="pascal",
        reader="pascal_voc_20",
        split="val",
        vocabulary="pascal_voc_20",
        paper="pascal_voc_20",
    ),
    "pascal_voc_21": DatasetEntry(
        title="PASCAL VOC, 20 classes and background",
        module="pascal",
        reader="pascal_voc_21",
        split="val",
        paper="pascal_voc_21",
        paper_list="pascal_voc_21_with_prompt_eng.txt",
    ),
}


def dataset_vocabulary(entry: DatasetEntry, classes: ClassList, given: Vocabulary | None = None) -> Vocabulary:
    """The words for a dataset's classes, which are matched by position, as the paper does.

    Args:
        entry: The dataset.
        classes: Its classes; where its files say what is a thing, that counts.
        given: Words to use; None takes the bundled ones where they fit, else the dataset's own names.

    Raises:
        VocabularyError: Words must be given, or there are not as many as the dataset has classes.
    """
    vocabulary = given or _default_vocabulary(entry, classes)
    if len(vocabulary) != len(classes):
        raise VocabularyError(
            f"the vocabulary has {len(vocabulary)} classes, but the dataset has {len(classes)}; they are matched by "
            "position: give one class for each of the dataset's, in its order"
        )
    if not classes.names:
        return vocabulary
    paired = zip(vocabulary.classes, classes.things, strict=True)
    return replace(vocabulary, classes=tuple(replace(item, is_thing=thing) for item, thing in paired))


def _default_vocabulary(entry: DatasetEntry, classes: ClassList) -> Vocabulary:
    from fcclip_core.vocabulary import Vocabulary, VocabularyClass

    if entry.vocabulary is not None:
        bundled = Vocabulary.load(entry.vocabulary)
        # Somebody's own labels may lie in the same layout, with other classes.
        if not classes.names or bundled.things == classes.things:
            return bundled
    if entry.paper_list:
        raise VocabularyError(
            f"{entry.title}: no list of its class names is bundled; pass --vocabulary with the paper's "
            f"{entry.paper_list} (fcclip/data/datasets/ in {AUTHORS}), or a list of your own in that order"
        )
    # One class a name, commas and all.
    return Vocabulary(tuple(VocabularyClass((name,)) for name in classes.names), description="the dataset's own names")
