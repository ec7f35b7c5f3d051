"""The published results for a dataset, under the names of our metrics, and whether they may stand beside ours."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from fcclip_core.datasets.catalog import DATASETS, DatasetEntry, authors_list
from fcclip_core.datasets.records import ClassList
from fcclip_core.evaluation.timing import TABLE_4, TIME_RULES, TimeRule
from fcclip_core.quoting import short
from fcclip_core.vocabulary.class_matching import match_classes
from fcclip_core.vocabulary.classes import Vocabulary
from fcclip_core.weights.checkpoints import Provenance
from fcclip_core.weights.model_zoo import (
    AUTHORS,
    FURTHER_SCORES,
    MAIN_PRESET,
    PUBLISHED_MODELS,
    FurtherScores,
    PublishedModel,
    Scores,
    published_from,
)

PAPER_WORDS: Mapping[str, str] = {
    "coco": "6f07f36d7b1ff5ee",
    "ade20k": "ab8a15e3f2b24f69",
    "ade20k_full": "74c430ddd02e0c83",
    "cityscapes": "49ba45667d255708",
    "mapillary": "fd487a2e2cd1b26e",
    "pascal_context_59": "d5a8661efba1caba",
    "pascal_context_459": "0cc85b7850f64882",
    "pascal_voc_20": "bceee4b9886f180a",
    "pascal_voc_21": "9d2c53c3b33f3e28",
}
"""`fingerprint` of the words with which the paper evaluates each dataset (the authors' revision 2b0bbe2)."""

_TRAINED_ON = "coco"
_AP_BY_OTHER_RULES = frozenset({"cityscapes"})
"""Datasets whose published AP is not pycocotools': Cityscapes' is by cityscapesScripts."""


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation was made with.

    Attributes:
        entry: The dataset.
        classes: The classes that its files have.
        split: Its part.
        is_complete: Whether all images of that part were evaluated.
        words: The vocabulary, in the order of `classes`.
        trained_on: The vocabulary that decides which classes count as seen.
    """

    entry: DatasetEntry
    classes: ClassList
    split: str
    is_complete: bool
    words: Vocabulary
    trained_on: Vocabulary


def published_model(preset: str, provenance: Provenance) -> PublishedModel:
    """The published model that weights of a preset are; the paper's main model for unpublished presets."""
    return published_from((source.origin for source in provenance.sources), preset) or PUBLISHED_MODELS[0]


def paper_scores(model: PublishedModel, entry: DatasetEntry, rule: TimeRule) -> dict[str, float]:
    """Metric -> published result, in per cent; `fps` in images per second.

    Only what was measured by the rules that ours follows: without the AP of Cityscapes, and with images per second only
    where time is counted as in Table 4. A semantic dataset has neither PQ nor AP, and Table 4's times are of panoptic
    ones.
    """
    scores: Scores | None = getattr(model, entry.paper) if entry.paper else None
    if scores is None:
        return {}
    further = FURTHER_SCORES[entry.paper] if model.key == MAIN_PRESET else FurtherScores()
    named = {"miou.all": scores.miou, "grounding.miou": further.grounding_miou}
    if entry.is_panoptic:
        named |= {"pq.all": scores.pq, "sq.all": further.sq, "rq.all": further.rq}
        named |= {"grounding.pq": further.grounding_pq}
        if entry.paper not in _AP_BY_OTHER_RULES:
            named["ap.all"] = scores.ap
        if rule == TIME_RULES[TABLE_4]:
            named["fps"] = further.fps
    return {name: value for name, value in named.items() if value is not None}


def difference(evaluated: Evaluated) -> str:
    """What differs from the paper's evaluation in images, classes or words; empty if nothing does.

    Published results stand beside ours only where nothing does.
    """
    entry = evaluated.entry
    if evaluated.split != entry.split:
        return f"the split is {short(evaluated.split)}, the paper's is {entry.split}"
    if not evaluated.is_complete:
        return "only a part of the images was evaluated"
    names = evaluated.classes.names
    if names and match_classes(names, evaluated.words, evaluated.classes.ids, entry.category_ids) is None:
        return "most classes of the dataset's files are not the paper's"
    missing = []
    if fingerprint(evaluated.words) != PAPER_WORDS[entry.paper]:
        missing.append(f"--vocabulary {authors_list(entry.paper_list)}")
    if fingerprint(evaluated.trained_on) != PAPER_WORDS[_TRAINED_ON]:
        missing.append(f"--train-vocabulary {authors_list(DATASETS[_TRAINED_ON].paper_list)}")
    if missing:
        return f"the words are not the paper's; pass {' '.join(missing)} (fcclip/data/datasets/ in {AUTHORS})"
    return ""


def fingerprint(vocabulary: Vocabulary) -> str:
    """16 hexadecimal digits that tell lists of names and synonyms apart; the order of the classes does not count."""
    rows = sorted(",".join(item.synonyms) for item in vocabulary.classes)
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]
