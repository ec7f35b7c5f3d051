"""Prepares backends in the background, for image shapes that recur or that the user expects."""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable

import torch

from fcclip_core.backends.compiled import MAX_SIZES
from fcclip_core.backends.graph import log_progress
from fcclip_core.backends.interface import Progress

_logger = logging.getLogger(__name__)

RECURS = 8
"""Number of images after which a shape counts as recurring; photographs of mixed sizes rarely reach it."""

LARGEST_BATCH = 4
"""Largest batch size that is prepared: each takes its own memory, and larger batches can be split."""

Shape = tuple[int, int, int]
"""(batch, height, width) of images, padding included."""

Prepare = Callable[[Shape, bool, Progress], object]
"""Prepares a shape; arguments: the shape, whether it was requested, and a progress callback that may stop it."""


class Abandoned(Exception):
    """Preparation was cancelled."""


class Preparations:
    """Prepares shapes one after the other, on a thread that ends when its queue is empty.

    At the end of the process, the thread finishes its current task or stops it at the next progress report.
    """

    def __init__(self, prepare: Prepare) -> None:
        """Starts no thread yet.

        Args:
            prepare: Called on the thread; exceptions are logged, and larger batches of that size are dropped.
        """
        self._prepare = prepare
        self._lock = threading.Lock()
        self._counts: Counter[Shape] = Counter()
        self._sizes: set[tuple[int, int]] = set()
        self._accepted: set[tuple[Shape, bool]] = set()
        self._queue: deque[tuple[Shape, bool]] = deque()
        self._thread: threading.Thread | None = None
        self._closed = False

    def count(self, shape: Shape) -> None:
        """Counts an image of a shape that is not ready, and prepares the shape once it recurs."""
        with self._lock:
            self._counts[shape] += 1
            recurs = self._counts[shape] == RECURS
        if recurs:
            self.request(shape, requested=False)

    def request(self, shape: Shape, *, requested: bool) -> None:
        """Adds a shape to the queue; returns at once.

        Args:
            shape: The shape.
            requested: Whether the user requested it; others are limited to `MAX_SIZES` sizes.
        """
        with self._lock:
            sizes = self._sizes | {shape[1:]}
            if self._closed or (shape, requested) in self._accepted or (not requested and len(sizes) > MAX_SIZES):
                return
            self._sizes = sizes
            self._accepted.add((shape, requested))
            self._queue.append((shape, requested))
            if self._thread is None:
                threads = torch.get_num_threads()  # a per-thread setting
                self._thread = threading.Thread(target=self._work, args=(threads,), name="preparation")
                self._thread.start()

    def close(self, timeout: float | None = None) -> bool:
        """Stops preparing.

        Args:
            timeout: Seconds to wait for the current task; None: no limit.

        Returns:
            False if the task is still running.
        """
        with self._lock:
            self._closed = True
            self._queue.clear()
            thread = self._thread
        if thread is not None:
            thread.join(timeout)
        return thread is None or not thread.is_alive()

    def _work(self, threads: int) -> None:
        if torch.get_num_threads() != threads:  # read first: a thread's first read resets the number to a default
            torch.set_num_threads(threads)
        while (work := self._next()) is not None:
            shape, requested = work
            try:
                self._prepare(shape, requested, self._progress())
            except Abandoned:
                _logger.info("preparing %s was cancelled", _named(shape))
            except Exception as error:
                _logger.warning("%s cannot be prepared: %s", _named(shape), error)
                self._drop_larger(shape)

    def _next(self) -> tuple[Shape, bool] | None:
        with self._lock:
            if self._queue and not self._is_over():
                return self._queue.popleft()
            self._thread = None
            return None

    def _drop_larger(self, shape: Shape) -> None:
        """Drops larger batches of the same size, which would not fit either."""
        with self._lock:
            self._queue = deque(work for work in self._queue if work[0][1:] != shape[1:] or work[0][0] < shape[0])

    def _progress(self) -> Progress:
        log = log_progress()

        def report(what: str, done: int, total: int) -> None:
            if self._is_over():
                raise Abandoned
            log(what, done, total)

        return report

    def _is_over(self) -> bool:
        # The interpreter waits for this thread after the main thread has ended.
        return self._closed or not threading.main_thread().is_alive()


def _named(shape: Shape) -> str:
    return "x".join(map(str, shape))
