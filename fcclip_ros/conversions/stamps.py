"""Stamps of messages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

Item = TypeVar("Item")

_STANDING = 5
"""Messages in a row with one stamp after which stamps count as standing."""


def nanoseconds(stamp: Any) -> int:
    """A builtin_interfaces/Time, ROS's own or a bag reader's, in nanoseconds."""
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def nearest(wanted: int, items: Iterable[tuple[int, Item]]) -> Item | None:
    """The item whose stamp is nearest to a stamp; of equally near ones the last.

    Args:
        wanted: Nanoseconds.
        items: (stamp in nanoseconds, item), the newest last.
    """
    best, least = None, None
    for stamp, item in items:
        off = abs(stamp - wanted)
        if least is None or off <= least:
            best, least = item, off
    return best


class StandingStamps:
    """Notices that the stamps of a topic do not move."""

    def __init__(self) -> None:
        """Starts without any."""
        self._last: int | None = None
        self._times = 0

    def see(self, stamp: int) -> None:
        """Takes the stamp of the next message, in nanoseconds."""
        self._times = self._times + 1 if stamp == self._last else 1
        self._last = stamp

    def describe(self) -> str:
        """What is wrong, in words; empty while stamps move."""
        if self._last is None or self._times < _STANDING:
            return ""
        return f"the last {_STANDING} or more have the stamp {1e-9 * self._last:.9g} s"
