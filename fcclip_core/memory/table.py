"""The numbers of all objects as columns, kept in step with their records: what questions and observations compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from fcclip_core.memory.objects import RememberedObject, State

_BLOCK = 256
"""Rows compared at a time: few enough to skip what filters leave out, and for BLAS to take one thread; the product
waits for memory alone, and further threads for other programs of a busy robot."""

_FIRST_CAPACITY = 64

_STATES = {state: number for number, state in enumerate(State)}

_COLUMNS: dict[str, tuple[tuple[int, ...], type]] = {
    "ids": ((), np.int64),
    "positions": ((3,), np.float64),
    "covariances": ((3, 3), np.float64),
    "low": ((3,), np.float64),
    "high": ((3,), np.float64),
    "are_things": ((), np.bool_),
    "last_seen": ((), np.int64),
    "states": ((), np.int8),
}
"""Shape of a row and type of each column, without the embeddings, whose dimension the first object decides."""

_SEARCHED = ("ids", "embeddings", "positions", "last_seen", "states")
_PLACED = ("positions", "covariances", "low", "high", "are_things")


class ObjectTable:
    """A row for each object. One thread writes and takes `Places`; readers take `Columns`, which are never resized."""

    def __init__(self) -> None:
        """Starts empty; the first object decides the dimension of embeddings."""
        self._slots: dict[int, int] = {}
        self._columns: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        """Number of objects."""
        return len(self._slots)

    def put(self, item: RememberedObject) -> None:
        """Adds an object, or updates it."""
        if not self._columns:
            self._columns = {
                name: np.zeros((_FIRST_CAPACITY, *shape), kind) for name, (shape, kind) in _COLUMNS.items()
            }
            self._columns["embeddings"] = np.zeros((_FIRST_CAPACITY, len(item.embedding_sum)), np.float32)
        slot = self._slots.setdefault(item.id, len(self._slots))
        if slot == len(self._columns["ids"]):
            # A half more: growing by a fixed amount would copy the matrix again and again.
            further = slot // 2
            self._columns = {
                name: np.concatenate([column, np.zeros((further, *column.shape[1:]), column.dtype)])
                for name, column in self._columns.items()
            }
        columns = self._columns
        columns["ids"][slot] = item.id
        columns["embeddings"][slot] = item.embedding
        columns["positions"][slot] = item.position
        columns["covariances"][slot] = item.covariance
        columns["low"][slot] = item.low
        columns["high"][slot] = item.high
        columns["are_things"][slot] = item.is_thing
        columns["last_seen"][slot] = item.last_seen
        columns["states"][slot] = _STATES[item.state]

    def remove(self, number: int) -> None:
        """Removes an object; the last one takes its place."""
        slot, last = self._slots.pop(number), len(self._slots)
        if slot != last:
            for column in self._columns.values():
                column[slot] = column[last]
            self._slots[int(self._columns["ids"][slot])] = slot

    def counts(self) -> dict[State, int]:
        """How many objects are in each state."""
        states = self._columns["states"][: len(self)] if self._columns else np.zeros(0, np.int8)
        counts = np.bincount(states, minlength=len(_STATES)).tolist()
        return {state: counts[number] for state, number in _STATES.items()}

    def columns(self) -> Columns:
        """What readers search; a row that is written meanwhile may be mixed, so what it finds is looked up again."""
        count = len(self._slots)
        return Columns(**{name: self._columns[name][:count] for name in _SEARCHED}) if count else EMPTY

    def places(self, numbers: Sequence[int]) -> Places:
        """Where the objects with these ids are, in this order; a copy."""
        if not numbers:
            return _NOWHERE
        slots = [self._slots[number] for number in numbers]
        return Places(**{name: self._columns[name][slots] for name in _PLACED})

    def embeddings(self, numbers: Sequence[int]) -> np.ndarray:
        """float32 `(M, D)`, unit vectors of the objects with these ids, in this order; a copy."""
        if not numbers:
            return EMPTY.embeddings
        return self._columns["embeddings"][[self._slots[number] for number in numbers]]


@dataclass(frozen=True)
class Places:
    """Where M objects are, a row each.

    Attributes:
        positions: float64 `(M, 3)`, centers in the map, meters.
        covariances: float64 `(M, 3, 3)` of the positions, square meters.
        low: float64 `(M, 3)`, smallest corners of their map-aligned boxes.
        high: float64 `(M, 3)`, largest corners.
        are_things: bool `(M,)`.
    """

    positions: np.ndarray
    covariances: np.ndarray
    low: np.ndarray
    high: np.ndarray
    are_things: np.ndarray

    @classmethod
    def of(cls, items: Sequence[RememberedObject]) -> Places:
        """Those of some objects, which need not be in a table; at least one."""
        return cls(
            positions=np.stack([item.position for item in items]),
            covariances=np.stack([item.covariance for item in items]),
            low=np.stack([item.low for item in items]),
            high=np.stack([item.high for item in items]),
            are_things=np.array([item.is_thing for item in items]),
        )

    def __len__(self) -> int:
        """M."""
        return len(self.positions)

    @property
    def centers(self) -> np.ndarray:
        """float64 `(M, 3)`, centers of the boxes."""
        return (self.low + self.high) / 2

    @property
    def extents(self) -> np.ndarray:
        """float64 `(M, 3)`, sides of the boxes, meters."""
        return self.high - self.low

    def take(self, rows: Sequence[int] | np.ndarray) -> Places:
        """Some of them, by index or mask."""
        return Places(**{item.name: getattr(self, item.name)[rows] for item in fields(self)})

    def distances(self, place: np.ndarray) -> np.ndarray:
        """Meters from a place `(3,)` to each position: float64 `(M,)`."""
        distances: np.ndarray = np.sqrt(((self.positions - place) ** 2).sum(1))
        return distances


class Columns:
    """A view of the index: N objects, one row each."""

    def __init__(
        self,
        ids: np.ndarray,
        embeddings: np.ndarray,
        positions: np.ndarray,
        last_seen: np.ndarray,
        states: np.ndarray,
    ) -> None:
        """Holds int64 `(N,)`, float32 `(N, D)`, float64 `(N, 3)`, int64 `(N,)` and int8 `(N,)`."""
        self.ids = ids
        self.embeddings = embeddings
        self.positions = positions
        self.last_seen = last_seen
        self._states = states

    def in_states(self, states: Sequence[State]) -> np.ndarray:
        """Which objects are in one of the states: bool `(N,)`."""
        mask: np.ndarray = np.isin(self._states, [_STATES[state] for state in states])
        return mask

    def best_cosines(self, rows: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """Largest cosine of each chosen object with any of the rows.

        Args:
            rows: float32 `(R, D)`, unit vectors.
            chosen: bool `(N,)`.

        Returns:
            float32 `(N,)`, -inf for objects that were not chosen.
        """
        best: np.ndarray = np.full(len(self.ids), -np.inf, np.float32)
        few = np.count_nonzero(chosen) < len(chosen) // 4
        for start in range(0, len(best), _BLOCK):
            block = slice(start, start + _BLOCK)
            kept = chosen[block]
            if not kept.any():
                continue
            part = self.embeddings[block][kept] if few else self.embeddings[block]
            cosines = (part @ rows.T).max(1)
            best[block][kept] = cosines if few else cosines[kept]
        return best


EMPTY = Columns(
    np.zeros(0, np.int64), np.zeros((0, 1), np.float32), np.zeros((0, 3)), np.zeros(0, np.int64), np.zeros(0, np.int8)
)

_NOWHERE = Places(np.zeros((0, 3)), np.zeros((0, 3, 3)), np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0, bool))
