"""Where the published numbers may stand beside ours: the same images, classes, words and rules."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fcclip_core.datasets.catalog import DATASETS, authors_list
from fcclip_core.datasets.records import ClassList
from fcclip_core.evaluation import paper
from fcclip_core.evaluation.paper import Evaluated, difference, fingerprint, paper_scores, published_model
from fcclip_core.evaluation.timing import SEGMENTS, TABLE_4, TIME_RULES
from fcclip_core.vocabulary.classes import Vocabulary
from fcclip_core.weights.checkpoints import Provenance
from fcclip_core.weights.model_zoo import MAIN_PRESET, model_named

WORDS = Vocabulary.from_names(["wall, walls", "cat", "sky"])
TRAINED = Vocabulary.from_names(["cat", "dog"])
NAMED = ClassList(("wall", "cat", "sky"), (False, True, False))


@pytest.fixture(autouse=True)
def small_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for the authors' lists, which are not ours to keep."""
    monkeypatch.setattr(paper, "PAPER_WORDS", {"ade20k": fingerprint(WORDS), "coco": fingerprint(TRAINED)})


def evaluated(**changes: object) -> Evaluated:
    return replace(Evaluated(DATASETS["ade20k"], NAMED, "validation", True, WORDS, TRAINED), **changes)


def test_nothing_differs_from_the_paper() -> None:
    assert difference(evaluated()) == ""
    assert difference(evaluated(classes=ClassList((), (False,) * 3))) == "", "label images have no names"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"split": "training"}, "the split is 'training', the paper's is validation"),
        ({"is_complete": False}, "only a part of the images"),
        ({"classes": ClassList(("rack", "pallet", "sky"), (True,) * 3)}, "most classes of the dataset's files"),
        ({"words": Vocabulary.from_names(["wall", "cat", "sky"])}, "--vocabulary ade20k_150_with_prompt_eng.txt ("),
        ({"trained_on": WORDS}, "pass --train-vocabulary coco_panoptic_with_prompt_eng.txt ("),
        (
            {"words": TRAINED, "trained_on": WORDS, "classes": ClassList((), (True,) * 2)},
            "--vocabulary ade20k_150_with_prompt_eng.txt --train-vocabulary coco_panoptic_with_prompt_eng.txt (",
        ),
    ],
)
def test_a_difference_is_named(changes: dict[str, object], words: str) -> None:
    assert words in difference(evaluated(**changes))


def test_a_fingerprint_knows_words_and_not_the_order_of_classes() -> None:
    assert fingerprint(Vocabulary(WORDS.classes[::-1])) == fingerprint(WORDS)
    for other in (["wall", "walls, cat", "sky"], ["walls, wall", "cat", "sky"], ["wall, walls", "cat"]):
        assert fingerprint(Vocabulary.from_names(other)) != fingerprint(WORDS)


def test_only_numbers_by_the_same_rules_are_given() -> None:
    def published(dataset: str, preset: str = MAIN_PRESET, rule: str = SEGMENTS) -> dict[str, float]:
        return paper_scores(published_model(preset, Provenance()), DATASETS[dataset], TIME_RULES[rule])

    assert "ap.all" not in published("cityscapes"), "cityscapesScripts' AP is another measure"
    assert published("coco")["ap.all"] == 44.6
    assert published("ade20k_150") == {"miou.all": 34.1, "grounding.miou": 54.1}, "it has no segments"
    assert published("folder") == {}
    ovrcoat = model_named("ovrcoat")
    assert ovrcoat is not None
    rest = paper_scores(ovrcoat, DATASETS["ade20k"], TIME_RULES[SEGMENTS])
    assert rest == {"pq.all": 28.6}, "SQ, RQ and grounding of the same preset are FC-CLIP's"
    large = published("ade20k")
    assert (large["sq.all"], large["rq.all"], large["grounding.pq"]) == (71.6, 32.3, 38.4)
    assert "fps" not in large and published("ade20k", rule=TABLE_4)["fps"] == 2.71
    assert published("ade20k", "rn50", TABLE_4) == {"miou.all": 23.3, "pq.all": 17.9, "ap.all": 9.5}


@pytest.mark.parametrize("name", [name for name, entry in DATASETS.items() if entry.paper])
def test_every_published_dataset_has_a_list_and_its_fingerprint(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    entry = DATASETS[name]
    assert authors_list(entry.paper_list).endswith("_with_prompt_eng.txt") and entry.paper_list
    assert len(paper.PAPER_WORDS[entry.paper]) == 16
