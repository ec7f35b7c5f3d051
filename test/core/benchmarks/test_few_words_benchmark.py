"""The benchmark of short lists of words counts what it says it counts."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.quality import few_words
from fcclip_core import PanopticResult, Vocabulary
from fcclip_core.results import Segment
from fcclip_core.simulation.frames import Frame, TruthSegment

NAMES = (("red ball", True), ("blue ball", True), ("traffic cone", True), ("wooden floor", False), ("rug", False))


def frame() -> Frame:
    """Five columns of two pixels, one segment each."""
    ids = np.repeat([[1, 2, 3, 4, 5]], 2, axis=0).astype(np.int32)
    segments = tuple(TruthSegment(number, *item) for number, item in enumerate(NAMES, 1))
    return Frame(np.zeros((2, 5, 3), np.uint8), ids, segments, ids.astype(np.float32), np.eye(3), np.eye(4))


def test_truth_is_what_the_words_mean() -> None:
    words = Vocabulary.from_names(["cone", "ball", "traffic cone", "floor"], stuff=["floor"])
    sample = few_words.truth_of(frame(), words)
    assert [segment.class_index for segment in sample.segments] == [1, 1, 2, 3, 4]
    np.testing.assert_array_equal(sample.segment_map[0], [1, 2, 3, 4, 5])
    general = few_words.truth_of(frame(), Vocabulary.from_names(["tree"]))
    assert [segment.class_index for segment in general.segments] == [1], "all else is one segment"
    assert (general.segment_map == 1).all()


class Snapshot:
    published = ()


def test_segments_on_what_no_word_means_are_false_ones() -> None:
    words = Vocabulary.from_names(["ball", "floor"], stuff=["floor"])
    tally = few_words.Tally(words, Snapshot())  # type: ignore[arg-type]
    tally._index_of = {"ball": 0, "floor": 1}
    embedding = np.zeros(1, np.float32)
    # One ball is found, the other is taken for the floor, the rug for a ball; the cone is left alone.
    columns = {1: "ball", 2: "floor", 5: "ball"}
    ids = np.repeat([[1, 2, 0, 0, 3]], 2, axis=0).astype(np.int32)
    segments = [
        Segment(number, number, name, 0.5, True, 2, (column - 1, 0, column, 2), embedding)
        for number, (column, name) in enumerate(columns.items(), 1)
    ]
    tally.add(few_words.truth_of(frame(), words), PanopticResult(ids, segments, 1, {}))
    record = tally.record()
    assert (record["found"], record["truths"], record["fp"]) == (1, 2, 2)
    # Ball: one match of IoU 1, one invented, one missed; floor: one invented, one missed.
    assert record["pq_of_class"] == {"ball": pytest.approx(50.0), "floor": 0.0}
    assert record["pq"] == pytest.approx(25.0)


def test_lists_have_their_words_and_another_seed_gives_others() -> None:
    lists = few_words.word_lists(3)
    assert [len(words) for words in lists["12"]] == [12, 12, 12]
    assert all(sum(words.things) == 9 for words in lists["12"])
    trained = set(few_words.train_vocabulary().names)
    assert all(set(words.names) <= trained for words in lists["12 seen"])
    assert not any(set(words.names) & trained for words in lists["12 unseen"])
    assert lists["40"] != few_words.word_lists(4)["40"]
