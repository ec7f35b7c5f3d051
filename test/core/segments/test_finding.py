"""Words against a frame that was labeled with other words, and text as vectors, with the real (tiny) network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fcclip_core import Segmenter, Vocabulary
from fcclip_core.errors import VocabularyError
from fcclip_core.results import Label
from fcclip_core.segmenter import EncodedImage
from fcclip_core.segments.finding import find, resolve
from fcclip_core.settings import InferenceSettings
from fcclip_core.vocabulary.classes import VocabularyClass
from fcclip_core.vocabulary.query import Query

PHOTO = np.random.default_rng(3).integers(0, 256, (96, 128, 3), np.uint8)
# Seeded masks overlap at random; with the published threshold hardly one of them stays.
SETTINGS = InferenceSettings(shorter_side=96, overlap_threshold=0.0, valid_mask_only=False)
STREAM = Vocabulary.from_names(["cup, mug", "plate", "floor, carpet"], stuff=["floor"])


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    cache: Path = tmp_path_factory.mktemp("cache")
    segmenter = Segmenter.from_checkpoint("recipe:tiny", device="cpu", settings=SETTINGS, cache_dir=cache)
    segmenter.set_vocabulary(STREAM)
    return segmenter


@pytest.fixture(scope="module")
def encoded(segmenter: Segmenter) -> EncodedImage:
    return segmenter.encode(PHOTO)


def probabilities_with(segmenter: Segmenter, encoded: EncodedImage, *names: str) -> tuple[Vocabulary, np.ndarray]:
    """Probabilities under a vocabulary that was made the usual way, all else being equal."""
    stuff = [name.split(",")[0] for name in names if name.startswith("floor")]
    vocabulary = Vocabulary.from_names(names, stuff=stuff)
    return vocabulary, segmenter.decode(encoded, segmenter.prepare_vocabulary(vocabulary)).probabilities()


def test_words_are_read_as_people_write_them() -> None:
    query = Query.of(["red mug, red cup", "red mug"], ["bowl, dish", "spoon"])
    assert query.words == ("red mug", "red cup")
    assert query.distractors == (("bowl", "dish"), ("spoon",))
    assert query.names == ("red mug", "red cup", "bowl", "dish", "spoon")


@pytest.mark.parametrize(
    ("words", "distractors", "expected"),
    [
        ([], [], "words is empty"),
        ([""], [], "words: a class name is empty"),
        (["cup,"], [], "words: a class name is empty"),
        (["cup"], ["x" * 1001], "distractors: the class name"),
        (["cu\x07p"], [], "control character"),
    ],
)
def test_words_that_cannot_be_used_are_refused(words: list[str], distractors: list[str], expected: str) -> None:
    with pytest.raises(VocabularyError, match=expected):
        Query.of(words, distractors)


def test_a_class_of_the_stream_is_wanted_as_it_is(segmenter: Segmenter) -> None:
    snapshot = segmenter.vocabulary
    resolved = resolve(segmenter, Query.of(["cup"]), snapshot)
    assert resolved.snapshot is snapshot
    assert resolved.wanted == (0,)
    assert resolve(segmenter, Query.of(["plate", "cup"]), snapshot).wanted == (0, 1)


def test_a_further_synonym_is_the_querys_for_once(segmenter: Segmenter, encoded: EncodedImage) -> None:
    snapshot = segmenter.vocabulary
    resolved = resolve(segmenter, Query.of(["carpet"]), snapshot)
    assert resolved.wanted == (3,)
    expected = probabilities_with(segmenter, encoded, "cup, mug", "plate", "floor", "carpet")[1]
    found = segmenter.decode(encoded, resolved.snapshot).probabilities()
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_new_words_compete_with_the_stream_and_with_what_was_given(segmenter: Segmenter, encoded: EncodedImage) -> None:
    snapshot = segmenter.vocabulary
    resolved = resolve(segmenter, Query.of(["tin", "can"], ["box, crate", "plate", "tin"]), snapshot)
    assert resolved.wanted == (3,)
    assert [item.synonyms for item in resolved.snapshot.vocabulary.classes[3:]] == [("tin", "can"), ("box", "crate")]
    _, expected = probabilities_with(segmenter, encoded, "cup, mug", "plate", "floor, carpet", "tin, can", "box, crate")
    found = segmenter.decode(encoded, resolved.snapshot).probabilities()
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_asking_promises_no_ids_and_changes_nothing(tmp_path: Path, encoded: EncodedImage) -> None:
    segmenter = Segmenter.from_checkpoint("recipe:tiny", device="cpu", settings=SETTINGS, cache_dir=tmp_path)
    snapshot = segmenter.set_vocabulary(STREAM)
    shown = segmenter.decode(encoded)
    find(segmenter, Query.of(["tin"], ["box"]), encoded, shown, snapshot)
    assert segmenter.vocabulary is snapshot
    again = segmenter.decode(encoded)
    assert (again.segment_map == shown.segment_map).all()
    assert segmenter.set_vocabulary(Vocabulary.from_names(["spoon"])).class_ids == (4,)


def test_segments_are_ranked_by_the_probability_of_what_is_wanted(segmenter: Segmenter, encoded: EncodedImage) -> None:
    snapshot, shown = segmenter.vocabulary, segmenter.decode(encoded)
    for words in (["cup"], ["cup", "floor"], ["tin"]):
        query = Query.of(words)
        resolved = resolve(segmenter, query, snapshot)
        result = segmenter.decode(encoded, resolved.snapshot)
        expected = result.probabilities()[:, list(resolved.wanted)].sum(1)
        found = find(segmenter, query, encoded, shown, snapshot)
        assert len(found) == len(result.segments) > 3
        assert [item.score for item in found] == sorted((float(x) for x in expected), reverse=True)
        for item in found:
            x_min, y_min, x_max, y_max = item.segment.box
            assert item.mask.shape == (y_max - y_min, x_max - x_min)
            assert item.mask.sum() == item.segment.area


def test_segments_that_the_stream_has_too_keep_its_ids(segmenter: Segmenter, encoded: EncodedImage) -> None:
    snapshot, shown = segmenter.vocabulary, segmenter.decode(encoded)
    shown = shown.with_ids([100 + segment.id for segment in shown.segments])
    same = find(segmenter, Query.of(["cup"]), encoded, shown, snapshot)
    assert {item.segment.id for item in same} == {segment.id for segment in shown.segments}
    masks = {segment.id: shown.segment_map == segment.id for segment in shown.segments}
    # A word that nothing looks like changes little.
    other = find(segmenter, Query.of(["tin"]), encoded, shown, snapshot)
    known = [item for item in other if item.segment.id]
    assert known
    assert len({item.segment.id for item in known}) == len(known)
    for item in other:
        x_min, y_min, x_max, y_max = item.segment.box
        mask = np.zeros(shown.segment_map.shape, bool)
        mask[y_min:y_max, x_min:x_max] = item.mask
        overlaps = {number: (mask & m).sum() / (mask | m).sum() for number, m in masks.items()}
        best = max(overlaps, key=lambda number: overlaps[number])
        assert item.segment.id == (best if overlaps[best] > 0.5 else 0)


def test_what_the_frame_ignores_is_not_found_under_other_words_either(
    segmenter: Segmenter, encoded: EncodedImage
) -> None:
    snapshot = segmenter.vocabulary
    assert snapshot is not None
    result = segmenter.decode(encoded, snapshot)
    ignored = np.zeros(result.segment_map.shape, bool)
    ignored[:, :100] = True
    for words in (["cup"], ["something new"]):
        shown = result.without_pixels(ignored)
        found = find(segmenter, Query.of(words), encoded, shown, snapshot)
        assert found
        for item in found:
            x_min, y_min, x_max, y_max = item.segment.box
            assert x_min >= 100 and item.mask.shape == (y_max - y_min, x_max - x_min)
            assert np.count_nonzero(item.mask) == item.segment.area


def test_what_is_found_is_called_what_this_frame_calls_it(segmenter: Segmenter, encoded: EncodedImage) -> None:
    """Whatever earlier frames voted, and whether or not the words are the stream's."""
    snapshot, plain = segmenter.vocabulary, segmenter.decode(encoded)
    voted = replace(plain, segments=[item.voted(Label(99, "robot", 0.5)) for item in plain.segments])
    for word in ("cup", "tin"):
        query = Query.of([word])
        found, expected = (find(segmenter, query, encoded, shown, snapshot) for shown in (voted, plain))
        assert [item.segment for item in found] == [item.segment for item in expected]


def test_a_frame_without_segments_holds_nothing(segmenter: Segmenter, encoded: EncodedImage) -> None:
    strict = InferenceSettings(shorter_side=96, object_mask_threshold=1.0)
    empty = segmenter.decode(encoded, settings=strict)
    assert not empty.segments
    assert find(segmenter, Query.of(["cup"]), encoded, empty, segmenter.vocabulary) == []


def test_a_segments_embedding_times_text_is_the_classifiers_out_of_vocabulary_cosine(
    segmenter: Segmenter, encoded: EncodedImage
) -> None:
    names = ["cup", "plate", "floor", "something else"]
    text = segmenter.embed_text(names)
    assert text.rows.shape == (4, segmenter.config.embed_dim)
    np.testing.assert_allclose(np.linalg.norm(text.rows, axis=1), 1.0, atol=1e-6)
    snapshot = segmenter.prepare_vocabulary(Vocabulary.from_names(names))
    classifier, embeddings = snapshot.classifier, encoded.output.out_vocab_embedding[0]
    cosines = classifier.logits(embeddings, 1.0).numpy()
    settings = InferenceSettings(
        shorter_side=96, overlap_threshold=0.0, valid_mask_only=False, ensemble="out_of_vocabulary"
    )
    queries = {row.tobytes(): index for index, row in enumerate(_unit(embeddings.numpy()).astype(np.float16))}
    result = segmenter.decode(encoded, snapshot, settings)
    assert len(result.segments) > 3
    for segment, probabilities in zip(result.segments, result.probabilities(), strict=True):
        ours = text.rows @ segment.embedding
        np.testing.assert_allclose(ours, cosines[queries[segment.embedding.astype(np.float16).tobytes()]], atol=1e-5)
        logits = text.logit_scale * ours
        softmax = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        # The ensemble of that one classifier is its softmax, but for void's share.
        np.testing.assert_allclose(probabilities / probabilities.sum(), softmax, atol=1e-4)


def test_text_that_cannot_be_embedded_is_refused(segmenter: Segmenter) -> None:
    for names, expected in (([], "no name"), (["cup", " "], "empty"), (["x" * 1001], "1001 characters")):
        with pytest.raises(VocabularyError, match=expected):
            segmenter.embed_text(names)
    with pytest.raises(VocabularyError, match="both have the name"):
        segmenter.extend_vocabulary(segmenter.vocabulary, [VocabularyClass(("cup",))])


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@pytest.mark.parametrize("wrong", ["mug", b"mug", None, 7, [7]])
def test_a_query_of_the_wrong_type_gets_a_sentence(wrong: object) -> None:
    with pytest.raises(VocabularyError, match="words (is|has) .*expected"):
        Query.of(wrong)
    with pytest.raises(VocabularyError, match="distractors (is|has) .*expected"):
        Query.of(["mug"], wrong)
