"""The datasets by the names that commands know them by. Importing this loads no reader: help texts need it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from fcclip_core.errors import VocabularyError
from fcclip_core.weights.model_zoo import AUTHORS

if TYPE_CHECKING:
    from fcclip_core.datasets.coco_panoptic import CocoPanoptic
    from fcclip_core.datasets.records import ClassList
    from fcclip_core.datasets.semantic_png import SemanticPng
    from fcclip_core.vocabulary.classes import Vocabulary


@dataclass(frozen=True)
class DatasetEntry:
    """One dataset in one published form.

    Attributes:
        title: What it is, for help texts.
        module: The module of `fcclip_core.datasets` that reads it.
        reader: The function in it: from a root folder and a split to the dataset.
        split: The split that the paper evaluates.
        is_panoptic: Whether its truth has segments.
        vocabulary: The bundled vocabulary with its classes; None where there is none.
        category_ids: Ids that its files have for the classes of that vocabulary, in its order; empty where ids are no
            help.
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
    category_ids: tuple[int, ...] = ()
    paper: str = ""
    paper_list: str = ""

    def open(self, root: Path, split: str) -> CocoPanoptic | SemanticPng:
        """Opens the dataset in folder `root`.

        Raises:
            DatasetError: A file is missing, or contradicts itself.
        """
        return getattr(import_module(f"fcclip_core.datasets.{self.module}"), self.reader)(root, split)


_NO_THINGS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
_STUFF = (92, 93, 95, 100, 107, 109, 112, 118, 119, 122, 125, 128, 130, 133, 138, 141, 144, 145, 147, 148, 149, 151)
_MORE_STUFF = (154, 155, 156, 159, 161, 166, 168, 171, 175, 176, 177, 178, 180, 181, *range(184, 201))
_COCO_IDS = (*(number for number in range(1, 91) if number not in _NO_THINGS), *_STUFF, *_MORE_STUFF)
"""COCO's 80 things and 53 stuff classes; it left out ten of the ids that it had planned for things."""

DATASETS: dict[str, DatasetEntry] = {
    "coco": DatasetEntry(
        title="COCO panoptic, 133 classes, all of them trained on",
        module="coco_panoptic",
        reader="coco_panoptic",
        split="val2017",
        is_panoptic=True,
        vocabulary="coco_panoptic",
        category_ids=_COCO_IDS,
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
        category_ids=tuple(range(150)),
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


@dataclass(frozen=True)
class DatasetWords:
    """The words for a dataset's classes, in the order of its class indices.

    Attributes:
        vocabulary: One class for each of the dataset's.
        how: Whose words they are and how they were matched with the classes, for people.
    """

    vocabulary: Vocabulary
    how: str


def dataset_words(entry: DatasetEntry, classes: ClassList, given: Vocabulary | None = None) -> DatasetWords:
    """The words for a dataset's classes, matched by name wherever both sides have names.

    Args:
        entry: The dataset.
        classes: Its classes; where its files say what is a thing, that counts.
        given: Words to use; None takes the bundled ones where they fit, else the dataset's own names.

    Raises:
        VocabularyError: Words must be given, there are not as many as the dataset has classes, or they stand in another
            order and cannot all be matched by name.
    """
    vocabulary, how = _words(entry, classes, given)
    if len(vocabulary) != len(classes):
        raise VocabularyError(
            f"the vocabulary has {len(vocabulary)} classes, but the dataset has {len(classes)}; its files have no "
            "names, so they are matched by position: give one class for each of the dataset's, in its order"
        )
    if not classes.names:
        return DatasetWords(vocabulary, how)
    paired = zip(vocabulary.classes, classes.things, strict=True)
    return DatasetWords(
        replace(vocabulary, classes=tuple(replace(item, is_thing=thing) for item, thing in paired)), how
    )


def _words(entry: DatasetEntry, classes: ClassList, given: Vocabulary | None) -> tuple[Vocabulary, str]:
    from fcclip_core.vocabulary.class_matching import match_classes, match_in_order
    from fcclip_core.vocabulary.classes import Vocabulary, VocabularyClass

    if given is not None:
        matching = match_in_order(classes.names, given, "the dataset")
        return replace(given, classes=matching.classes), f"the given words, {matching.how}"
    if entry.vocabulary is not None:
        bundled = Vocabulary.load(entry.vocabulary)
        if not classes.names:
            return bundled, f"{entry.vocabulary}, by position"
        found = match_classes(classes.names, bundled, classes.ids, entry.category_ids)
        if found is not None:
            return replace(bundled, classes=found.classes), f"{entry.vocabulary}, {found.how}"
    if entry.paper_list:
        raise VocabularyError(
            f"{entry.title}: no list of its class names is bundled; pass --vocabulary with the paper's "
            f"{entry.paper_list} (fcclip/data/datasets/ in {AUTHORS}), or a list of your own in that order"
        )
    # Somebody's own labels may lie in a known layout, with other classes. One class a name, commas and all.
    own = "the dataset's own names"
    how = own if entry.vocabulary is None else f"{own}, since most of them are not in {entry.vocabulary}"
    return Vocabulary(tuple(VocabularyClass((name,)) for name in classes.names), description=own), how
