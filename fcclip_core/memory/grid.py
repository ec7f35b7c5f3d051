"""Which objects are near: a hash of the map's floor in square cells."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np

_CELL = 1.0
"""Side of a cell, meters: objects and gates are smaller, so that most queries look into four to nine cells."""

_MOST_CELLS = 4096
"""Cells that an entry or a query may cover; larger ones are compared with everything."""

Cell = tuple[int, int]


class Grid:
    """Boxes on the map's floor by cell."""

    def __init__(self) -> None:
        """Starts empty."""
        self._cells: dict[Cell, set[int]] = defaultdict(set)
        self._where: dict[int, tuple[int, int, int, int]] = {}
        self._large: set[int] = set()

    def put(self, number: int, low: np.ndarray, high: np.ndarray) -> None:
        """Adds an object's box, or moves it; corners `(3,)` in meters."""
        span = _span(low, high)
        if self._where.get(number) == span:
            return
        self.remove(number)
        self._where[number] = span
        if _count(span) > _MOST_CELLS:
            self._large.add(number)
        else:
            for cell in _cells(span):
                self._cells[cell].add(number)

    def remove(self, number: int) -> None:
        """Removes an object; nothing happens if it is not there."""
        span = self._where.pop(number, None)
        if span is None:
            return
        if number in self._large:
            self._large.remove(number)
            return
        for cell in _cells(span):
            members = self._cells[cell]
            members.remove(number)
            if not members:
                del self._cells[cell]

    def near(self, low: np.ndarray, high: np.ndarray) -> set[int]:
        """The objects in the cells that a box touches."""
        span = _span(low, high)
        if _count(span) > max(_MOST_CELLS, len(self._cells)):
            return set(self._where)
        members = (self._cells[cell] for cell in _cells(span) if cell in self._cells)
        return self._large.union(*members)


def _span(low: np.ndarray, high: np.ndarray) -> tuple[int, int, int, int]:
    return (
        math.floor(low[0] / _CELL),
        math.floor(low[1] / _CELL),
        math.floor(high[0] / _CELL),
        math.floor(high[1] / _CELL),
    )


def _count(span: tuple[int, int, int, int]) -> int:
    return (span[2] - span[0] + 1) * (span[3] - span[1] + 1)


def _cells(span: tuple[int, int, int, int]) -> list[Cell]:
    return [(x, y) for x in range(span[0], span[2] + 1) for y in range(span[1], span[3] + 1)]
