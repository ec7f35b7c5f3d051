"""The datasets by their names on the command line. Importing this module loads no reader, so help texts are fast."""

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
class InputSize:
    """To what size images are resized before the network.

    Attributes:
        shorter_side: Length of the shorter side in pixels.
        max_size: Upper limit of the longer side in pixels.
    """

    shorter_side: int
    max_size: int


USUAL_SIZE = InputSize(800, 1333)
STREET_SIZE = InputSize(1024, 2560)
"""The authors' size for street scenes; these and the usual one are those of their configuration files."""


@dataclass(frozen=True)
class DatasetEntry:
    """One dataset in one published format.

    Attributes:
        title: Description for help texts.
        reader: Module below `fcclip_core.datasets` and its function from a root folder and a split to the dataset.
        split: The split that the paper evaluates.
        paper: Name of the dataset's scores in `model_zoo.PublishedModel`; empty if the paper has none.
        vocabulary: The bundled vocabulary with its classes; None if there is none.
        paper_list: The paper's list of class names in the authors' repository, without `_with_prompt_eng.txt`; the user
            must pass it if there is no bundled vocabulary. Without either, the dataset's own names are used.
        lacks: First name of the class of the paper's list that the dataset does not have; empty if it has all.
        size: The input size at which the paper evaluates; None for the model's own.
        is_panoptic: Whether its ground truth has segments.
        category_ids: Ids in its files of the classes of that vocabulary, in order; empty if ids cannot be used.
    """

    title: str
    reader: str
    split: str
    paper: str = ""
    vocabulary: str | None = None
    paper_list: str = ""
    lacks: str = ""
    size: InputSize | None = USUAL_SIZE
    is_panoptic: bool = False
    category_ids: tuple[int, ...] = ()

    def open(self, root: Path, split: str) -> CocoPanoptic | SemanticPng:
        """Opens the dataset in folder `root`.

        Raises:
            DatasetError: A file is missing or inconsistent.
        """
        module, _, function = self.reader.partition(".")
        return getattr(import_module(f"fcclip_core.datasets.{module}"), function)(root, split)


_UNUSED = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
_STUFF = (92, 93, 95, 100, 107, 109, 112, 118, 119, 122, 125, 128, 130, 133, 138, 141, 144, 145, 147, 148, 149, 151)
_MORE_STUFF = (154, 155, 156, 159, 161, 166, 168, 171, 175, 176, 177, 178, 180, 181, *range(184, 201))
_COCO_IDS = (*(number for number in range(1, 91) if number not in _UNUSED), *_STUFF, *_MORE_STUFF)
"""COCO's ids of 80 things and 53 stuff classes; ten ids in the range of things are unused."""

DATASETS: dict[str, DatasetEntry] = {
    "coco": DatasetEntry(
        "COCO panoptic, 133 classes, all of them trained on",
        "coco_panoptic.coco_panoptic",
        "val2017",
        "coco",
        "coco_panoptic",
        "coco_panoptic",
        is_panoptic=True,
        category_ids=_COCO_IDS,
    ),
    "folder": DatasetEntry(
        "a folder of one's own in the COCO panoptic format",
        "coco_panoptic.panoptic_folder",
        "",
        size=None,
        is_panoptic=True,
    ),
    "ade20k": DatasetEntry(
        "ADE20K panoptic, 150 classes",
        "ade20k.ade20k_panoptic",
        "validation",
        "ade20k",
        "ade20k_150",
        "ade20k_150",
        is_panoptic=True,
        category_ids=tuple(range(150)),
    ),
    "ade20k_150": DatasetEntry(
        "ADE20K semantic, 150 classes", "ade20k.ade20k_150", "validation", "ade20k", "ade20k_150", "ade20k_150"
    ),
    "ade20k_847": DatasetEntry(
        "ADE20K full semantic, 847 classes", "ade20k.ade20k_847", "validation", "ade20k_full", paper_list="ade20k_847"
    ),
    "cityscapes": DatasetEntry(
        "Cityscapes panoptic, 19 classes",
        "cityscapes.cityscapes_panoptic",
        "val",
        "cityscapes",
        "cityscapes",
        "cityscapes",
        size=STREET_SIZE,
        is_panoptic=True,
    ),
    "cityscapes_semantic": DatasetEntry(
        "Cityscapes semantic, 19 classes",
        "cityscapes.cityscapes_semantic",
        "val",
        "cityscapes",
        "cityscapes",
        "cityscapes",
        size=STREET_SIZE,
    ),
    "mapillary_vistas": DatasetEntry(
        "Mapillary Vistas panoptic, 65 classes",
        "mapillary.mapillary_panoptic",
        "validation",
        "mapillary",
        paper_list="mapillary_vistas",
        size=STREET_SIZE,
        is_panoptic=True,
    ),
    "mapillary_vistas_semantic": DatasetEntry(
        "Mapillary Vistas semantic, 65 classes",
        "mapillary.mapillary_semantic",
        "validation",
        "mapillary",
        paper_list="mapillary_vistas",
        size=STREET_SIZE,
    ),
    "pascal_context_59": DatasetEntry(
        "PASCAL Context, 59 classes",
        "pascal.pascal_context_59",
        "validation",
        "pascal_context_59",
        "pascal_context_59",
        "pascal_ctx_59",
    ),
    "pascal_context_459": DatasetEntry(
        "PASCAL Context, 459 classes",
        "pascal.pascal_context_459",
        "validation",
        "pascal_context_459",
        paper_list="pascal_ctx_459",
    ),
    "pascal_voc_20": DatasetEntry(
        "PASCAL VOC, 20 classes",
        "pascal.pascal_voc_20",
        "val",
        "pascal_voc_20",
        "pascal_voc_20",
        "pascal_voc_21",
        lacks="background",
    ),
    "pascal_voc_21": DatasetEntry(
        "PASCAL VOC, 20 classes and background",
        "pascal.pascal_voc_21",
        "val",
        "pascal_voc_21",
        "pascal_voc_21",
        "pascal_voc_21",
    ),
}


@dataclass(frozen=True)
class DatasetWords:
    """The vocabulary for a dataset's classes, in the order of its class indices.

    Attributes:
        vocabulary: One class for each of the dataset's.
        how: Human-readable: the source of the words and how they were matched with the classes.
    """

    vocabulary: Vocabulary
    how: str


def dataset_words(entry: DatasetEntry, classes: ClassList, given: Vocabulary | None = None) -> DatasetWords:
    """The vocabulary for a dataset's classes, matched by name if both have names.

    Args:
        entry: The dataset.
        classes: Its classes; if its files define which are things, this overrides the vocabulary.
        given: Vocabulary to use; None: the bundled one if it matches, else the dataset's own names.

    Raises:
        VocabularyError: A vocabulary must be given, the numbers of classes differ, or the order differs and not all
            classes can be matched by name.
    """
    vocabulary, how = _words(entry, classes, given)
    if len(vocabulary) != len(classes):
        raise VocabularyError(
            f"the vocabulary has {len(vocabulary)} classes, but the dataset has {len(classes)}; its files have no "
            "class names, so classes are matched by position: pass one class for each of the dataset's, in its order"
        )
    if not classes.names:
        return DatasetWords(vocabulary, how)
    paired = zip(vocabulary.classes, classes.things, strict=True)
    return DatasetWords(
        replace(vocabulary, classes=tuple(replace(item, is_thing=thing) for item, thing in paired)), how
    )


def authors_list(name: str) -> str:
    """The file of a `DatasetEntry.paper_list` in the authors' repository."""
    return f"{name}_with_prompt_eng.txt"


def _words(entry: DatasetEntry, classes: ClassList, given: Vocabulary | None) -> tuple[Vocabulary, str]:
    from fcclip_core.vocabulary.class_matching import match_classes, match_in_order
    from fcclip_core.vocabulary.classes import Vocabulary, VocabularyClass

    if given is not None:
        kept, left_out = _without(given, entry.lacks, len(classes))
        matching = match_in_order(classes.names, kept, "the dataset")
        return replace(kept, classes=matching.classes), f"the given words{left_out}, {matching.how}"
    if entry.vocabulary is not None:
        bundled = Vocabulary.load(entry.vocabulary)
        if not classes.names:
            return bundled, f"{entry.vocabulary}, by position"
        found = match_classes(classes.names, bundled, classes.ids, entry.category_ids)
        if found is not None:
            return replace(bundled, classes=found.classes), f"{entry.vocabulary}, {found.how}"
    if entry.vocabulary is None and entry.paper_list:
        raise VocabularyError(
            f"{entry.title}: no list of its class names is bundled; pass --vocabulary with the paper's "
            f"{authors_list(entry.paper_list)} (fcclip/data/datasets/ in {AUTHORS}), or your own list in that order"
        )
    # A user's own dataset in a known layout may have other classes. One class per name; commas are part of the name.
    own = "the dataset's own names"
    how = own if entry.vocabulary is None else f"{own}, since most of them are not in {entry.vocabulary}"
    return Vocabulary(tuple(VocabularyClass((name,)) for name in classes.names), description=own), how


def _without(given: Vocabulary, name: str, count: int) -> tuple[Vocabulary, str]:
    """The words without the class that the dataset lacks, where just this one is too many, and what to say of it."""
    kept = tuple(item for item in given.classes if item.name != name)
    if not name or not len(kept) == count == len(given) - 1:
        return given, ""
    return replace(given, classes=kept), f" without {name}"
