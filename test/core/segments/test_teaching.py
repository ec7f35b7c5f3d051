"""Classes taught by showing, with the real (tiny) network and with hand-made embeddings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fcclip_core import Segmenter, Vocabulary
from fcclip_core.errors import ImageError, VocabularyError
from fcclip_core.inference.classification import classify
from fcclip_core.segmenter import EncodedImage
from fcclip_core.segments.teaching import (
    Lesson,
    calibration,
    doubts,
    embed_region,
    forgotten,
    segment_embeddings,
    taught,
)
from fcclip_core.settings import InferenceSettings
from fcclip_core.vocabulary.classes import VocabularyClass
from fcclip_core.vocabulary.examples import Calibration, Examples, calibrate, distinct

PHOTO = np.random.default_rng(3).integers(0, 256, (96, 128, 3), np.uint8)
SETTINGS = InferenceSettings(shorter_side=96, overlap_threshold=0.0, valid_mask_only=False)
STREAM = Vocabulary.from_names(["cup, mug", "plate", "floor, carpet"], stuff=["floor"])


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    cache: Path = tmp_path_factory.mktemp("cache")
    words = Vocabulary.from_names(["cat", "dog", "road"])
    return Segmenter.from_checkpoint(
        "recipe:tiny", device="cpu", settings=SETTINGS, cache_dir=cache, train_vocabulary=words
    )


@pytest.fixture(scope="module")
def encoded(segmenter: Segmenter) -> EncodedImage:
    return segmenter.encode(PHOTO)


@pytest.fixture(scope="module")
def measured(segmenter: Segmenter, encoded: EncodedImage) -> Calibration:
    return calibration(segmenter, segment_embeddings(segmenter, encoded))


def model_of(segmenter: Segmenter) -> str:
    return segmenter.embed_text(["a"]).model


def units(count: int, dimension: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_a_matching_example_is_worth_what_a_matching_word_is() -> None:
    """Four classes along axes; all segments share a part that no text has, and are more alike than words are."""
    rng = np.random.default_rng(0)
    texts = np.eye(6, dtype=np.float32)[:4]
    names = np.repeat(np.arange(4), 30)
    segments = 0.6 * texts[names] + 0.8 * np.eye(6)[4] + rng.normal(scale=0.02, size=(120, 6))
    segments = (segments / np.linalg.norm(segments, axis=1, keepdims=True)).astype(np.float32)
    found = calibrate(segments, texts, range(4), 100.0)
    rows = np.stack([found.shift + found.gain * segments[names == name][:5].mean(0) for name in range(4)])
    by_words, by_examples = segments @ texts.T, segments @ rows.T
    centered = [item - item.mean(1, keepdims=True) for item in (by_words, by_examples)]
    own = [item[np.arange(120), names].mean() for item in centered]
    assert own[1] == pytest.approx(own[0], rel=0.05)
    # As they are, the examples would win by far.
    assert (segments[:5].mean(0) @ segments[0]) > 1.5 * (texts[0] @ segments[0])


def test_the_same_view_counts_once() -> None:
    rows = units(5, 64)
    assert len(distinct(np.concatenate((rows, rows, rows)))) == 5
    one = calibrate(rows, units(3, 64, 1), range(3), 10.0)
    many = calibrate(np.concatenate((rows, rows)), units(3, 64, 1), range(3), 10.0)
    assert (one.gain, one.segments) == (many.gain, many.segments) == (one.gain, 5)


@pytest.mark.parametrize("ensemble", ["geometric", "arithmetic", "in_vocabulary", "out_of_vocabulary"])
def test_without_examples_nothing_changes(
    segmenter: Segmenter, encoded: EncodedImage, measured: Calibration, ensemble: str
) -> None:
    """A class that was taught and forgotten leaves no bit behind; neither does the taught path itself."""
    lesson = Lesson(("plate",), units(3, segmenter.config.embed_dim))
    after = forgotten(taught(STREAM, lesson, measured, model_of(segmenter)), "plate")
    assert after == STREAM
    plain = segmenter.prepare_vocabulary(STREAM).classifier
    assert plain.in_vocab_rows is None
    unmixed = plain.with_examples(plain.rows, torch.zeros(3))
    settings = replace(segmenter.settings, ensemble=ensemble)
    for changed in (segmenter.prepare_vocabulary(after).classifier, unmixed):
        for name in ("ensemble", "in_vocab", "out_vocab"):
            found, expected = (getattr(classify(encoded.output, item, settings), name) for item in (changed, plain))
            assert torch.equal(found, expected)


def test_a_shown_segment_gets_the_taught_name(segmenter: Segmenter, measured: Calibration) -> None:
    dimension = segmenter.config.embed_dim
    row = units(1, dimension, 5)
    vocabulary = taught(STREAM, Lesson(("part 4711",), row, True), replace(measured, gain=5.0), model_of(segmenter))
    classifier = segmenter.prepare_vocabulary(vocabulary).classifier
    assert classifier.logits(torch.from_numpy(row), 1.0).argmax() == 3
    assert classifier.taught.tolist() == [0, 0, 0, 1]


def test_a_word_and_its_examples_share_the_row(segmenter: Segmenter, measured: Calibration) -> None:
    """Ten examples weigh as much as the word; the in-vocabulary classifier keeps the word's own row."""
    rows = units(10, segmenter.config.embed_dim, 5)
    before = segmenter.prepare_vocabulary(STREAM).classifier
    vocabulary = taught(STREAM, Lesson(("plate",), rows), measured, model_of(segmenter))
    after = segmenter.prepare_vocabulary(vocabulary).classifier
    shown = torch.from_numpy(measured.shift + measured.gain * rows.mean(0))
    torch.testing.assert_close(after.rows[2], (before.rows[2] + shown) / 2)
    assert torch.equal(after.rows[[0, 1, 3, 4]], before.rows[[0, 1, 3, 4]])
    assert torch.equal(after.in_vocab_rows, before.rows)
    assert after.taught.tolist() == [0, 0.5, 0]


def test_more_examples_join_and_too_many_are_refused(segmenter: Segmenter, measured: Calibration) -> None:
    dimension, model = segmenter.config.embed_dim, model_of(segmenter)
    vocabulary = taught(None, Lesson(("mug", "cup"), units(15, dimension)), measured, model)
    assert vocabulary.classes[0].synonyms == ("mug", "cup")
    vocabulary = taught(vocabulary, Lesson(("mug",), units(5, dimension, 1)), measured, model)
    assert vocabulary.example_counts == (20,)
    with pytest.raises(VocabularyError, match="has 20 examples, and 1 more are too many: at most 20"):
        taught(vocabulary, Lesson(("mug",), units(1, dimension, 2)), measured, model)
    with pytest.raises(VocabularyError, match="21 examples; at most 20"):
        taught(None, Lesson(("mug",), units(21, dimension)), measured, model)


def test_examples_of_another_model_are_refused(segmenter: Segmenter, measured: Calibration) -> None:
    vocabulary = taught(STREAM, Lesson(("plate",), units(1, segmenter.config.embed_dim)), measured, "another")
    with pytest.raises(VocabularyError, match="examples of 'plate' were made by another model"):
        segmenter.prepare_vocabulary(vocabulary)


def test_a_wordless_class_is_forgotten_as_a_whole(segmenter: Segmenter, measured: Calibration) -> None:
    lesson = Lesson(("zork",), units(1, segmenter.config.embed_dim), wordless=True)
    vocabulary = taught(STREAM, lesson, measured, "m")
    assert forgotten(vocabulary, "zork") == STREAM
    assert forgotten(taught(None, lesson, measured, "m"), "zork") is None
    with pytest.raises(VocabularyError, match="no examples to forget"):
        forgotten(vocabulary, "plate")
    with pytest.raises(VocabularyError, match="wordless and has no examples"):
        VocabularyClass(("zork",), wordless=True)


def test_a_region_is_embedded_by_the_mask_that_overlaps_most(segmenter: Segmenter, encoded: EncodedImage) -> None:
    result = segmenter.decode(encoded, segmenter.prepare_vocabulary(STREAM))
    segment = max(result.segments, key=lambda item: item.area)
    query = result.evidence.queries[segment.id - 1]
    logits = encoded.output.mask_logits[:1, query : query + 1]
    mask = torch.nn.functional.interpolate(logits, size=PHOTO.shape[:2], mode="bilinear")[0, 0].numpy() > 0
    found = embed_region(encoded, mask=mask)
    np.testing.assert_allclose(found.embedding, segment.embedding, atol=1e-5)
    assert found.overlap > 0.5  # seeded masks are noise, of which little is left at a quarter of the size
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    assert embed_region(encoded, box=box).overlap > 0.5


@pytest.mark.parametrize(
    ("region", "expected"),
    [
        ({}, "exactly one"),
        ({"mask": np.zeros((96, 128), bool)}, "the mask is empty"),
        ({"mask": np.ones((9, 9), bool)}, "the mask has shape"),
        ({"box": (0, 0, 129, 5)}, "is not inside the image of 128 x 96"),
        ({"box": (5, 5, 5, 9)}, "is not inside the image"),
        ({"box": (3, 3, 4, 4)}, "no mask of the network fits the region"),
    ],
)
def test_regions_that_cannot_be_used(encoded: EncodedImage, region: dict[str, object], expected: str) -> None:
    with pytest.raises(ImageError, match=expected):
        embed_region(encoded, **region)


def test_doubtful_examples_are_named(segmenter: Segmenter, measured: Calibration) -> None:
    alike = units(1, segmenter.config.embed_dim).repeat(4, 0)
    alike[3] = -alike[0]
    vocabulary = taught(STREAM, Lesson(("plate",), alike), measured, model_of(segmenter))
    found = " ".join(doubts(segmenter, vocabulary, "plate", replace(measured, segments=3)))
    assert "only 3 different segments" in found
    assert "the examples 4 of 'plate' differ much" in found


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"embeddings": np.full((1, 4), np.nan)}, "no array of finite numbers"),
        ({"embeddings": np.ones((1, 4))}, "not of unit length"),
        ({"embeddings": np.ones(4) / 2}, "no array of finite numbers of shape"),
        ({"shift": np.zeros(3)}, "shift of the examples"),
        ({"shift": np.full(4, 99.0)}, "shift of the examples"),
        ({"gain": float("nan")}, "gain of the examples"),
        ({"gain": 99.0}, "gain of the examples"),
        ({"model": ""}, "model of the examples"),
    ],
)
def test_numbers_are_not_trusted(change: dict[str, object], expected: str) -> None:
    good = {"embeddings": units(2, 4), "model": "m", "shift": np.zeros(4), "gain": 1.0}
    assert Examples(**good) == Examples(**good)
    assert len({Examples(**good), Examples(**good)}) == 1
    with pytest.raises(VocabularyError, match=expected):
        Examples(**good | change)
