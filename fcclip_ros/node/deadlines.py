"""Timeouts of pending requests, all on one thread."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MAX_SECONDS = 86_400.0
"""The longest timeout of a request, one day."""


class Deadlines:
    """Calls functions when their deadlines expire, on one thread that starts with the first deadline."""

    def __init__(self) -> None:
        """Starts without deadlines."""
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None
        self._closed = False

    @contextmanager
    def within(self, seconds: float, late: Callable[[], None]) -> Iterator[None]:
        """Calls `late` if the block takes longer than `seconds`; `late` must neither block nor raise."""
        number = next(self._numbers)
        with self._changed:
            heapq.heappush(self._due, (time.monotonic() + min(seconds, MAX_SECONDS), number, late))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="deadlines", daemon=True)
                self._thread.start()
            self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                # A linear search will do: there is one entry for each pending request.
                self._due = [item for item in self._due if item[1] != number]
                heapq.heapify(self._due)

    def close(self) -> None:
        """Ends the thread and drops all deadlines."""
        with self._changed:
            self._closed = True
            self._due.clear()
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._closed and not (self._due and self._due[0][0] <= time.monotonic()):
                    self._changed.wait(self._due[0][0] - time.monotonic() if self._due else None)
                if self._closed:
                    return
                late = heapq.heappop(self._due)[2]
            late()
            del late  # not kept alive while the thread is idle
