"""Embedding search: a matrix kept in step with the objects, and what questions filter by beside it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fcclip_core.memory.objects import RememberedObject, State

_BLOCK = 1024
"""Rows compared at a time: few enough to skip what filters leave out."""

_FIRST_CAPACITY = 64

_STATES = {state: number for number, state in enumerate(State)}


class SearchIndex:
    """Columns over all objects. One thread writes; readers take `Columns`, which later writes may not resize."""

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
                "ids": np.zeros(_FIRST_CAPACITY, np.int64),
                "embeddings": np.zeros((_FIRST_CAPACITY, len(item.embedding_sum)), np.float32),
                "positions": np.zeros((_FIRST_CAPACITY, 3)),
                "last_seen": np.zeros(_FIRST_CAPACITY, np.int64),
                "states": np.zeros(_FIRST_CAPACITY, np.int8),
            }
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
        columns["last_seen"][slot] = item.last_seen
        columns["states"][slot] = _STATES[item.state]

    def remove(self, number: int) -> None:
        """Removes an object; the last one takes its place."""
        slot, last = self._slots.pop(number), len(self._slots)
        if slot != last:
            for column in self._columns.values():
                column[slot] = column[last]
            self._slots[int(self._columns["ids"][slot])] = slot

    def columns(self) -> Columns:
        """What readers search; a row that is written meanwhile may be mixed, so what it finds is looked up again."""
        count = len(self._slots)
        return Columns(**{name: column[:count] for name, column in self._columns.items()}) if count else EMPTY


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
            # Not by BLAS: the product waits for memory alone, and its threads for other programs of a busy robot.
            cosines = np.max([np.einsum("ij,j->i", part, row) for row in rows], axis=0)
            best[block][kept] = cosines if few else cosines[kept]
        return best


EMPTY = Columns(
    np.zeros(0, np.int64), np.zeros((0, 1), np.float32), np.zeros((0, 3)), np.zeros(0, np.int64), np.zeros(0, np.int8)
)
