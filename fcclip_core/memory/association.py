"""Which segment of a frame is which remembered object: assignment over distance, overlap and similarity."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from fcclip_core.memory.measurement import Measurements
from fcclip_core.memory.settings import MemorySettings
from fcclip_core.memory.table import Places

MAX_GATE = 1.5
"""Largest distance of a segment's center from an object's, meters beyond half its box, whatever the uncertainty."""

_CONTAINED = 0.5
"""Share of the smaller box inside the other at which two boxes are in one place, however uncertain their centers."""

_PART = 0.7
"""Share of a segment's box inside an object's at which it is a further part of that object."""

_TAKEN = 0.4
"""Share of each of two boxes inside the other at which only one of them can be there."""

_PADDING = 0.02
"""Meters by which boxes are enlarged before they are compared; flat surfaces have none in one direction."""

_NEW = 18.0
"""Cost of a new object: what a match may cost at most."""

_DISSIMILARITY = 20.0
"""Cost of a cosine of 0 instead of 1."""

_OTHER_NAME = 2.0
"""Cost of another name: two names for one thing are common, and so are two things of one name."""

_OVERLAP = 4.0
"""Gain of a segment's box that lies in the object's."""


@dataclass(frozen=True)
class Assignment:
    """The outcome for the measurements of a frame, in their order.

    Attributes:
        matched: Index of the object for each measurement, -1 for none.
        part_of: Index of the object that a measurement without a match is a further part of, -1 for none.
    """

    matched: tuple[int, ...]
    part_of: tuple[int, ...]


def assign(
    measured: Measurements,
    places: Places,
    embeddings: np.ndarray,
    names: Sequence[Iterable[str]],
    settings: MemorySettings,
) -> Assignment:
    """Assigns each measurement to at most one object, and each object to at most one measurement.

    Args:
        measured: The measurements, N.
        places: Where the M objects are.
        embeddings: float32 `(M, D)`, theirs, unit vectors.
        names: What frames called each of them.
        settings: The memory's.
    """
    if not len(measured) or not len(places):
        return Assignment((-1,) * len(measured), (-1,) * len(measured))
    pairs = _Pairs.of(measured, places, embeddings, names, settings)
    matched = _cheapest(np.where(pairs.allowed, pairs.cost, np.inf))
    part_of = [-1] * len(measured)
    taken = {column: row for row, column in enumerate(matched) if column >= 0}
    for row, column in enumerate(matched):
        if column < 0:
            part_of[row] = _whole(row, pairs, measured, taken)
    return Assignment(tuple(matched), tuple(part_of))


def same_place(first: Places, others: Places, cosines: np.ndarray, settings: MemorySettings) -> np.ndarray:
    """Which pairs of objects may be the same by place and looks.

    Args:
        first: One object of each of P pairs; or one for all pairs.
        others: The other one of each.
        cosines: float32 `(P,)`, of their embeddings.
        settings: The memory's.

    Returns:
        bool `(P,)`.
    """
    contained = np.maximum(*_shares(first.low, first.high, others.low, others.high)) >= _CONTAINED
    sides = np.linalg.norm(np.maximum(others.extents, first.extents), axis=1)
    near = np.linalg.norm(others.positions - first.positions, axis=1) <= sides / 2
    same: np.ndarray = contained & near & (cosines >= settings.merge_cosine) & (first.are_things == others.are_things)
    return same


def taken_places(places: Places, measured: Measurements) -> np.ndarray:
    """In which of the M places something is seen: bool `(M,)`."""
    known_in, seen_in = _shares(places.low[:, None], places.high[:, None], measured.low, measured.high)
    taken: np.ndarray = (np.minimum(known_in, seen_in) >= _TAKEN).any(1)
    return taken


@dataclass(frozen=True)
class _Pairs:
    """All pairs of N measurements and M objects: `(N, M)` each."""

    cost: np.ndarray
    allowed: np.ndarray
    similarity: np.ndarray
    part: np.ndarray

    @classmethod
    def of(
        cls,
        measured: Measurements,
        places: Places,
        embeddings: np.ndarray,
        names: Sequence[Iterable[str]],
        settings: MemorySettings,
    ) -> _Pairs:
        similarity = measured.embedding @ embeddings.T
        same_name = _same_names([segment.name for segment in measured.segments], names)
        are_things = np.array([segment.is_thing for segment in measured.segments])
        difference = measured.position[:, None] - places.positions
        spread = measured.covariance[:, None] + places.covariances
        distance = _mahalanobis(difference, spread + settings.position_floor**2 * np.eye(3))
        seen_in, known_in = _shares(measured.low[:, None], measured.high[:, None], places.low, places.high)
        contained = np.maximum(seen_in, known_in)
        limit = settings.max_mahalanobis**2
        near = (distance <= limit) | (contained >= _CONTAINED)
        half_diagonals = np.linalg.norm(measured.high - measured.low, axis=1) / 2
        near &= np.linalg.norm(difference, axis=-1) <= MAX_GATE + half_diagonals[:, None]
        similar = similarity >= np.where(same_name, settings.min_cosine_same_name, settings.min_cosine)
        cost = (
            np.minimum(distance, limit)
            + _DISSIMILARITY * (1 - similarity)
            + _OTHER_NAME * ~same_name
            - _OVERLAP * contained
        )
        return cls(cost, near & similar & (are_things[:, None] == places.are_things), similarity, seen_in)


def _same_names(called: Sequence[str], names: Sequence[Iterable[str]]) -> np.ndarray:
    """Whether each of N segments has one of the names of each of M objects: bool `(N, M)`; no name is like none."""
    having: dict[str, list[int]] = {}
    for column, known in enumerate(names):
        for name in known:
            having.setdefault(name, []).append(column)
    same = np.zeros((len(called), len(names)), bool)
    for row, name in enumerate(called):
        if name:
            same[row, having.get(name, [])] = True
    return same


def _whole(row: int, pairs: _Pairs, measured: Measurements, taken: dict[int, int]) -> int:
    """The object that the measurement is a further part of: one that another segment of its name was assigned to."""
    name = measured.segments[row].name
    fits = [
        (pairs.similarity[row, column], column)
        for column, other in taken.items()
        if pairs.allowed[row, column] and pairs.part[row, column] >= _PART and measured.segments[other].name == name
    ]
    return max(fits)[1] if fits else -1


def _cheapest(cost: np.ndarray) -> list[int]:
    """For each row its column, or -1 where a new object is cheaper."""
    rows, columns = cost.shape
    own = np.where(np.eye(rows, dtype=bool), _NEW, np.inf)
    # Finite numbers throughout: the solver refuses matrices without a finite assignment.
    full = np.minimum(np.concatenate([cost, own], axis=1), 1e6)
    chosen = linear_sum_assignment(full)[1]
    return [
        int(column) if column < columns and np.isfinite(cost[row, column]) else -1 for row, column in enumerate(chosen)
    ]


def _mahalanobis(difference: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Squared Mahalanobis distances: `(..., 3)` and `(..., 3, 3)` -> `(...)`."""
    solved = np.linalg.solve(covariance, difference[..., None])[..., 0]
    squared: np.ndarray = (difference * solved).sum(-1)
    return squared


def _shares(
    low: np.ndarray, high: np.ndarray, other_low: np.ndarray, other_high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Shares of boxes inside others, and the other way round; corners `(..., 3)`, whose axes are broadcast."""
    low, high = low - _PADDING, high + _PADDING
    other_low, other_high = other_low - _PADDING, other_high + _PADDING
    common = np.minimum(high, other_high) - np.maximum(low, other_low)
    volume = np.maximum(common, 0).prod(-1)
    return volume / (high - low).prod(-1), volume / (other_high - other_low).prod(-1)
