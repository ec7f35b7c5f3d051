"""Votes for the class of a thing, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fcclip_core.segments.voting import FORGETTING, Votes, elect


def mean_of(*rows: list[float]) -> np.ndarray:
    votes = Votes()
    for row in rows:
        votes.cast(np.array(row, np.float32))
    return votes.mean


def test_one_vote_is_what_it_says() -> None:
    assert mean_of([0.1, 0.7, 0.15]).tolist() == np.array([0.1, 0.7, 0.15], np.float32).tolist()


def test_older_votes_count_less_by_the_same_factor_a_frame() -> None:
    rows = [[0.9, 0.0], [0.2, 0.6], [0.1, 0.8]]
    weights = FORGETTING ** np.array([2, 1, 0])
    np.testing.assert_allclose(mean_of(*rows), np.average(rows, axis=0, weights=weights), rtol=1e-6)


def test_a_mean_of_probabilities_stays_one_however_long() -> None:
    votes = mean_of(*[[0.25, 0.5]] * 10_000)
    np.testing.assert_allclose(votes, [0.25, 0.5], rtol=1e-5)


def test_votes_keep_no_hold_of_what_they_were_cast_from() -> None:
    row = np.array([0.3, 0.6], np.float32)
    votes = Votes()
    votes.cast(row)
    row[:] = 0.0
    assert votes.mean.tolist() == pytest.approx([0.3, 0.6])


@pytest.mark.parametrize(
    ("may_win", "winners", "scores"),
    [
        ([True, True, True], [1, 0], [0.5, 0.4]),
        ([True, False, True], [2, 0], [0.3, 0.4]),
        ([False, False, True], [2, 2], [0.3, 0.4]),
    ],
)
def test_only_those_win_who_may(may_win: list[bool], winners: list[int], scores: list[float]) -> None:
    """The second thing's first and last class are equal: the first that may win has it."""
    probabilities = np.array([[0.1, 0.5, 0.3], [0.4, 0.2, 0.4]], np.float32)
    found, with_scores = elect(probabilities, np.array(may_win))
    assert found.tolist() == winners
    assert with_scores.tolist() == pytest.approx(scores)
    assert with_scores.dtype == np.float32
