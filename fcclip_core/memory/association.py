"""Which segment of a frame is which remembered object: assignment over distance, overlap and similarity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from fcclip_core.memory.measurement import Measurement
from fcclip_core.memory.objects import RememberedObject
from fcclip_core.memory.settings import MemorySettings

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
    measured: Sequence[Measurement], objects: Sequence[RememberedObject], settings: MemorySettings
) -> Assignment:
    """Assigns each measurement to at most one object, and each object to at most one measurement."""
    if not measured or not objects:
        return Assignment((-1,) * len(measured), (-1,) * len(measured))
    pairs = _Pairs.of(measured, objects, settings)
    cost = np.where(pairs.allowed, pairs.cost, np.inf)
    matched = _cheapest(cost)
    part_of = [-1] * len(measured)
    taken = {column: row for row, column in enumerate(matched) if column >= 0}
    for row, column in enumerate(matched):
        if column < 0:
            part_of[row] = _whole(row, pairs, measured, taken)
    return Assignment(tuple(matched), tuple(part_of))


def same_place(first: RememberedObject, others: Sequence[RememberedObject], settings: MemorySettings) -> np.ndarray:
    """Whether each of the others may be the same object as the first by place and looks: bool `(M,)`."""
    low, high = (np.stack([getattr(item, side) for item in others]) for side in ("low", "high"))
    first_in, others_in = _shares(first.low[None], first.high[None], low, high)
    contained = np.maximum(first_in[0], others_in[0]) >= _CONTAINED
    sides = np.linalg.norm(np.maximum(high - low, first.extents), axis=1)
    near = np.linalg.norm(np.stack([item.position for item in others]) - first.position, axis=1) <= sides / 2
    similar = np.stack([item.embedding for item in others]) @ first.embedding >= settings.merge_cosine
    kind = np.array([item.is_thing == first.is_thing for item in others])
    return contained & near & similar & kind


def taken_places(objects: Sequence[RememberedObject], measured: Sequence[Measurement]) -> np.ndarray:
    """In the places of which objects something is seen: bool `(N,)`; `measured` must not be empty."""
    boxes = [
        [np.stack([getattr(item, side) for item in items]) for side in ("low", "high")] for items in (objects, measured)
    ]
    known_in, seen_in = _shares(*boxes[0], *boxes[1])
    taken: np.ndarray = (np.minimum(known_in, seen_in) >= _TAKEN).any(1)
    return taken


@dataclass(frozen=True)
class _Pairs:
    """All pairs of N measurements and M objects: `(N, M)` each."""

    cost: np.ndarray
    allowed: np.ndarray
    similarity: np.ndarray
    same_name: np.ndarray
    part: np.ndarray

    @classmethod
    def of(
        cls, measured: Sequence[Measurement], objects: Sequence[RememberedObject], settings: MemorySettings
    ) -> _Pairs:
        similarity = np.stack([item.embedding for item in measured]) @ np.stack([item.embedding for item in objects]).T
        same_name = np.array([[bool(m.segment.name) and m.segment.name in o.names for o in objects] for m in measured])
        same_kind = np.array([[m.segment.is_thing == o.is_thing for o in objects] for m in measured])
        difference = np.stack([m.position for m in measured])[:, None] - np.stack([o.position for o in objects])
        spread = np.stack([m.covariance for m in measured])[:, None] + np.stack([o.covariance for o in objects])
        distance = _mahalanobis(difference, spread + settings.position_floor**2 * np.eye(3))
        seen_in, known_in = _shares(
            *(np.stack([getattr(m, side) for m in measured]) for side in ("low", "high")),
            *(np.stack([getattr(o, side) for o in objects]) for side in ("low", "high")),
        )
        contained = np.maximum(seen_in, known_in)
        limit = settings.max_mahalanobis**2
        near = (distance <= limit) | (contained >= _CONTAINED)
        near &= np.linalg.norm(difference, axis=-1) <= MAX_GATE + _half_diagonals(measured)[:, None]
        similar = similarity >= np.where(same_name, settings.min_cosine_same_name, settings.min_cosine)
        cost = (
            np.minimum(distance, limit)
            + _DISSIMILARITY * (1 - similarity)
            + _OTHER_NAME * ~same_name
            - _OVERLAP * contained
        )
        return cls(cost, near & similar & same_kind, similarity, same_name, seen_in)


def _whole(row: int, pairs: _Pairs, measured: Sequence[Measurement], taken: dict[int, int]) -> int:
    """The object that the measurement is a further part of: one that another segment of its name was assigned to."""
    name = measured[row].segment.name
    fits = [
        (pairs.similarity[row, column], column)
        for column, other in taken.items()
        if pairs.allowed[row, column] and pairs.part[row, column] >= _PART and measured[other].segment.name == name
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
    """Share of each of N boxes inside each of M others, and the other way round: `(N, M)` each; corners `(., 3)`."""
    low, high = low - _PADDING, high + _PADDING
    other_low, other_high = other_low - _PADDING, other_high + _PADDING
    common = np.minimum(high[:, None], other_high) - np.maximum(low[:, None], other_low)
    volume = np.maximum(common, 0).prod(-1)
    return volume / (high - low).prod(-1)[:, None], volume / (other_high - other_low).prod(-1)


def _half_diagonals(measured: Sequence[Measurement]) -> np.ndarray:
    half: np.ndarray = np.linalg.norm(np.stack([item.high - item.low for item in measured]), axis=1) / 2
    return half
