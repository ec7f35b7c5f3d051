"""Classes that compete and are never published: which may, what they take from others, and that nothing shows them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fcclip_core import Segmenter, Vocabulary
from fcclip_core.errors import VocabularyError
from fcclip_core.segmenter import EncodedImage
from fcclip_core.segments.finding import find, resolve
from fcclip_core.settings import InferenceSettings
from fcclip_core.vocabulary.background import background_from
from fcclip_core.vocabulary.classes import MAX_BACKGROUND, VocabularyClass
from fcclip_core.vocabulary.query import Query
from fcclip_core.vocabulary.word_overlap import WordIndex, words_of

SETTINGS = InferenceSettings(shorter_side=96, overlap_threshold=0.0, valid_mask_only=False)
PHOTO = np.random.default_rng(3).integers(0, 256, (96, 128, 3), np.uint8)
WORDS = Vocabulary.from_names(["cup, mug", "plate", "floor, carpet"], stuff=["floor"])
OTHERS = Vocabulary.from_names(["wine glass", "sofa", "tree", "sky", "teacup, mugs", "red plate", "dog"], stuff=["sky"])


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    cache: Path = tmp_path_factory.mktemp("cache")
    return Segmenter.from_checkpoint("recipe:tiny", device="cpu", settings=SETTINGS, cache_dir=cache)


@pytest.fixture(scope="module")
def encoded(segmenter: Segmenter) -> EncodedImage:
    return segmenter.encode(PHOTO)


@pytest.mark.parametrize(
    ("plural", "singular"),
    [
        ("cups", "cup"),
        ("Glasses", "glass"),
        ("boxes", "box"),
        ("vases", "vase"),
        ("shoes", "shoe"),
        ("shelves", "shelf"),
        ("berries", "berry"),
        ("people", "person"),
        ("benches", "bench"),
        ("potatoes", "potato"),
        ("gloves", "glove"),
    ],
)
def test_plurals_are_their_singular(plural: str, singular: str) -> None:
    assert words_of(plural) == words_of(singular) == (singular,)


@pytest.mark.parametrize("word", ["glass", "bus", "tennis", "dress", "gas", "tie", "tape", "cane"])
def test_words_that_are_no_plural_stay_what_they_are(word: str) -> None:
    assert words_of(word)[0] in (word, word[:-1] if word == "gas" else word)
    assert words_of("tape") != words_of("tap") and words_of("cane") != words_of("can")


@pytest.mark.parametrize(
    ("one", "other", "overlaps"),
    [
        ("ball", "red ball", True),
        ("red ball", "ball", True),
        ("dining table", "table lamp", False),
        ("red ball", "ball red", False),
        ("cup", "cupboard", False),
        ("traffic-cone", "big Traffic Cones", True),
        ("stop sign", "sign stop sign", True),
        ("#", "#", False),
    ],
)
def test_names_overlap_by_neighboring_words(one: str, other: str, overlaps: bool) -> None:
    assert (WordIndex([[one]]).overlapping(other) == {0}) is overlaps
    assert (WordIndex([[other]]).overlapping(one) == {0}) is overlaps


def test_a_class_falls_away_for_any_of_its_synonyms() -> None:
    background = WORDS.background(OTHERS)
    assert [item.name for item in background.competing] == ["wine glass", "sofa", "tree", "sky", "dog"]
    assert {item.name: word for item, word in background.fallen} == {"teacup": "mug", "red plate": "plate"}
    # Names without a letter have no words, and are equal as they stand.
    signs = Vocabulary.from_names(["#", "cup"])
    assert not signs.background(Vocabulary.from_names(["#"])).competing


def test_competitors_stand_behind_the_users_words_and_change_none_of_them() -> None:
    own = Vocabulary(
        (*WORDS.classes, VocabularyClass(("reflection",), distractor=True), VocabularyClass(("pot",), id=9))
    )
    both = own.with_background(OTHERS, margin=0.5)
    assert both.classes[: len(own)] == own.classes
    assert all(item.distractor and item.margin == 0.5 for item in both.classes[len(own) :])
    assert own.classes[3].margin == 0.0, "a distractor that the user wrote competes as it is"
    assert [color for color, hidden in zip(both.colors, both.distractors, strict=True) if not hidden] == [
        color for color, hidden in zip(own.colors, own.distractors, strict=True) if not hidden
    ]
    assert own.with_background(None) is own
    assert Vocabulary.from_yaml(both.to_yaml()) == both


def test_what_cannot_be_a_distractor_is_refused() -> None:
    with pytest.raises(VocabularyError, match="all classes are distractors"):
        Vocabulary.from_names(["cup"], distractors=["cup"])
    with pytest.raises(VocabularyError, match="distractors names 'mug'"):
        Vocabulary.from_names(["cup"], distractors=["mug"])
    with pytest.raises(VocabularyError, match="distractor is 'yes'"):
        VocabularyClass(("cup",), distractor="yes")  # type: ignore[arg-type]
    for value in (-1.0, float("nan"), float("inf"), True, "1"):
        with pytest.raises(VocabularyError, match="margin"):
            VocabularyClass(("cup",), margin=value)  # type: ignore[arg-type]
        with pytest.raises(VocabularyError, match="minimum_score"):
            VocabularyClass(("cup",), minimum_score=2.0 if value is True else value)  # type: ignore[arg-type]
    with pytest.raises(VocabularyError, match=f"at most {MAX_BACKGROUND}"):
        WORDS.background(Vocabulary.from_names([f"thing {number}" for number in range(MAX_BACKGROUND + 1)]))
    with pytest.raises(VocabularyError, match=r"only 'mug' would be published.*'cup'"):
        WORDS.publishing(["mug"])


def test_ids_are_those_without_competitors(tmp_path: Path) -> None:
    plain, hidden = (
        Segmenter.from_checkpoint("recipe:tiny", device="cpu", settings=SETTINGS, cache_dir=tmp_path) for _ in range(2)
    )
    words = Vocabulary.from_names(["cup", "tree", "plate"])
    for vocabulary in (WORDS, words):
        expected = plain.set_vocabulary(vocabulary)
        found = hidden.set_vocabulary(vocabulary.with_background(OTHERS))
        assert [row.id for row in found.published] == list(expected.class_ids)
        assert [row.color for row in found.published] == list(expected.colors)
        assert {row.id for row in found.distractors} == {0}
    # "tree" competed before it was a word, and "dog" is one now.
    assert hidden.set_vocabulary(Vocabulary.from_names(["dog", "cup"])).class_ids == (5, 1)


def test_distractors_win_pixels_and_are_never_published(segmenter: Segmenter, encoded: EncodedImage) -> None:
    vocabulary = WORDS.with_background(OTHERS, margin=0.0)
    snapshot = segmenter.prepare_vocabulary(vocabulary)
    shown = segmenter.decode(encoded, segmenter.extend_vocabulary(snapshot, ()))
    hidden = segmenter.decode(encoded, snapshot)
    # The same segments, less those that a distractor won; these are numbered anew.
    kept = [segment for segment in shown.segments if segment.class_id]
    assert 0 < len(kept) < len(shown.segments)
    assert [segment.class_id for segment in hidden.segments] == [segment.class_id for segment in kept]
    for number, segment in enumerate(kept, 1):
        np.testing.assert_array_equal(hidden.segment_map == number, shown.segment_map == segment.id)
    assert {segment.name for segment in shown.segments if not segment.class_id} == {""}
    names, ids = set(WORDS.names), {0, *(row.id for row in snapshot.published)}
    assert {segment.name for segment in hidden.segments} <= names
    assert set(np.unique(hidden.class_map())) <= ids and 0 in hidden.semantic_map()
    assert set(np.unique(hidden.semantic_map())) <= ids
    instances = hidden.instances()
    assert len(instances) and set(instances.names) <= names and 0 not in instances.class_ids
    assert (hidden.confidence_map()[hidden.segment_map == 0] == 0).all()


def test_a_margin_is_taken_from_both_classifiers(segmenter: Segmenter, encoded: EncodedImage) -> None:
    """By hand: logits of a distractor are lower by the margin, so its share of a softmax falls by exp(-margin)."""
    plain = segmenter.predict(PHOTO, segmenter.prepare_vocabulary(WORDS.with_background(OTHERS, margin=0.0)))
    behind = segmenter.predict(PHOTO, segmenter.prepare_vocabulary(WORDS.with_background(OTHERS, margin=2.0)))
    factor = torch.tensor([1.0] * 3 + [float(np.exp(-2.0))] * 5)
    for one, other in (
        (plain.in_vocab_probs, behind.in_vocab_probs),
        (plain.out_vocab_probs, behind.out_vocab_probs),
    ):
        expected = one * factor
        torch.testing.assert_close(other, expected / expected.sum(-1, keepdim=True))


def test_without_distractors_nothing_changes(segmenter: Segmenter, encoded: EncodedImage) -> None:
    snapshot = segmenter.prepare_vocabulary(WORDS)
    assert snapshot.words.minimum_scores is None and not snapshot.distractors
    assert segmenter.extend_vocabulary(snapshot, ()) is snapshot
    assert not segmenter.decode(encoded, snapshot).evidence.is_distractor  # type: ignore[union-attr]


def test_a_class_has_a_minimum_score(segmenter: Segmenter, encoded: EncodedImage) -> None:
    every = segmenter.decode(encoded, segmenter.prepare_vocabulary(WORDS))
    scores = sorted(segment.score for segment in every.segments if segment.name == "cup")
    assert len(scores) > 1
    least = (scores[0] + scores[-1]) / 2
    cup = VocabularyClass(("cup", "mug"), minimum_score=least)
    some = segmenter.decode(encoded, segmenter.prepare_vocabulary(Vocabulary((cup, *WORDS.classes[1:]))))
    kept = [segment for segment in every.segments if segment.name != "cup" or segment.score >= least]
    assert [(segment.name, segment.score, segment.box) for segment in some.segments] == [
        (segment.name, segment.score, segment.box) for segment in kept
    ]
    assert sorted(np.unique(some.segment_map[some.segment_map > 0])) == [segment.id for segment in some.segments]


def test_only_some_classes_are_published(segmenter: Segmenter) -> None:
    snapshot = segmenter.prepare_vocabulary(WORDS.publishing(["plate"]))
    assert [row.item.name for row in snapshot.published] == ["plate"]
    assert {row.item.name for row in snapshot.distractors} == {"cup", "floor"}


def test_the_background_of_a_checkpoint() -> None:
    demo = Segmenter.from_checkpoint("demo", device="cpu", backend="eager")
    default = demo.default_background
    assert default() == demo.train_vocabulary, "its CLIP knows nothing but its world"
    assert background_from(("auto",), default) == demo.train_vocabulary
    assert background_from(("none",), default) is None and background_from((), default) is None
    assert background_from(("cup", "tree, bush"), default) == Vocabulary.from_names(["cup", "tree, bush"])
    with pytest.raises(VocabularyError, match="did you mean"):
        background_from(("coco",), default)


def test_the_background_of_seeded_and_of_web_scale_weights(segmenter: Segmenter) -> None:
    assert segmenter.default_background() is None
    web = object.__new__(Segmenter)
    web.provenance = type("Provenance", (), {"seeded": False})()  # type: ignore[assignment]
    web.config = type("Config", (), {"open_clip_name": "convnext_large_d_320"})()  # type: ignore[assignment]
    web.train_vocabulary = Vocabulary.load("coco_panoptic")
    background = web.default_background()
    assert background is not None and background.classes[:133] == web.train_vocabulary.classes
    assert "forklift" in background.names and "couch" in background.names
    assert len(set(background.synonyms)) == len(background.synonyms), "no name competes twice"
    assert 300 < len(background) < 500


def test_finding_lets_what_overlaps_fall_away(segmenter: Segmenter, encoded: EncodedImage) -> None:
    snapshot = segmenter.prepare_vocabulary(WORDS.with_background(OTHERS))
    asked = resolve(segmenter, Query.of(["brown dog"], ["sofas", "lamp"]), snapshot)
    classes = asked.snapshot.vocabulary.classes
    assert [classes[index].name for index in asked.wanted] == ["brown dog"]
    assert {item.name for item in classes if item.distractor} == {"wine glass", "tree", "sky", "sofas", "lamp"}
    # By hand: the same classes as a vocabulary of their own, each with its margin.
    rivals = Vocabulary.from_names(["wine glass", "tree", "sky"]).classes
    behind = Vocabulary(WORDS.classes).with_background(Vocabulary(rivals)).classes
    whole = Vocabulary((*behind, VocabularyClass(("brown dog",)), *(VocabularyClass((w,)) for w in ("sofas", "lamp"))))
    expected = segmenter.decode(encoded, segmenter.extend_vocabulary(segmenter.prepare_vocabulary(whole), ()))
    shown = segmenter.decode(encoded, snapshot)
    found = find(segmenter, Query.of(["brown dog"], ["sofas", "lamp"]), encoded, shown, snapshot)
    assert len(found) == len(expected.segments)
    scores = expected.probabilities()[:, whole.names.index("brown dog")]
    np.testing.assert_allclose(sorted(item.score for item in found), sorted(scores), rtol=1e-4)
    assert {item.segment.name for item in found} <= {*WORDS.names, "brown dog", ""}


def test_finding_a_word_of_the_vocabulary_sees_what_distractors_won(
    segmenter: Segmenter, encoded: EncodedImage
) -> None:
    snapshot = segmenter.prepare_vocabulary(WORDS.with_background(OTHERS, margin=0.0))
    shown = segmenter.decode(encoded, snapshot)
    found = find(segmenter, Query.of(["cup"]), encoded, shown, snapshot)
    assert len(found) > len(shown.segments)
    own = [item.segment.id for item in found if item.segment.id]
    assert sorted(own) == [segment.id for segment in shown.segments]
