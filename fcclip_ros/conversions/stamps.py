"""Message stamps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

Item = TypeVar("Item")

_FROZEN = 5
"""Consecutive messages with the same stamp after which the stamps count as frozen."""


def nanoseconds(stamp: Any) -> int:
    """A builtin_interfaces/Time, of ROS or a bag reader, in nanoseconds."""
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def nearest(stamp: int, items: Iterable[tuple[int, Item]]) -> Item | None:
    """The item with the nearest stamp; the last one of equally near ones.

    Args:
        stamp: Nanoseconds.
        items: (stamp in nanoseconds, item), the newest last.
    """
    best, least = None, None
    for other, item in items:
        off = abs(other - stamp)
        if least is None or off <= least:
            best, least = item, off
    return best


class StampMonitor:
    """Detects that the stamps of a topic do not advance."""

    def __init__(self) -> None:
        """Starts without stamps."""
        self._last: int | None = None
        self._times = 0

    def add(self, stamp: int) -> None:
        """Adds the stamp of the next message, in nanoseconds."""
        self._times = self._times + 1 if stamp == self._last else 1
        self._last = stamp

    def describe(self) -> str:
        """Description of the problem; empty while the stamps advance."""
        if self._last is None or self._times < _FROZEN:
            return ""
        return f"the last {_FROZEN} or more messages have the stamp {1e-9 * self._last:.9g} s"
