"""Making backends ready beside a stream: for the forms of image that recur, or that somebody expects."""

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
"""Images of a form after which it counts as one that recurs: a folder of photographs is over by then."""

LARGEST_BATCH = 4
"""Images of the largest batch that is made ready: each has memory of its own, and larger ones can be put together."""

Shape = tuple[int, int, int]
"""(batch, height, width) of images, padding included."""

Prepare = Callable[[Shape, bool, Progress], object]
"""Makes a form ready; takes the form, whether it was asked for, and what is told the progress and may end it."""


class Abandoned(Exception):
    """Nobody waits for what is being made ready any more."""


class Preparations:
    """Makes forms ready one after the other, on a thread that lives as long as there are any.

    At the end of the process the thread finishes what it is at, unless that ends when it reports progress.
    """

    def __init__(self, prepare: Prepare) -> None:
        """Begins nothing.

        Args:
            prepare: Called on the thread; whatever it raises is logged, and larger batches of that size are given up.
        """
        self._prepare = prepare
        self._lock = threading.Lock()
        self._met: Counter[Shape] = Counter()
        self._sizes: set[tuple[int, int]] = set()
        self._taken: set[tuple[Shape, bool]] = set()
        self._waiting: deque[tuple[Shape, bool]] = deque()
        self._thread: threading.Thread | None = None
        self._closed = False

    def meet(self, shape: Shape) -> None:
        """Counts an image of a form that is not ready, and makes the form ready once it recurs."""
        with self._lock:
            self._met[shape] += 1
            recurs = self._met[shape] == RECURS
        if recurs:
            self.request(shape, requested=False)

    def request(self, shape: Shape, *, requested: bool) -> None:
        """Makes a form ready as soon as those before it are; returns at once.

        Args:
            shape: The form.
            requested: Whether somebody asked for it; unasked, no more than `MAX_SIZES` sizes are made ready.
        """
        with self._lock:
            sizes = self._sizes | {shape[1:]}
            if self._closed or (shape, requested) in self._taken or (not requested and len(sizes) > MAX_SIZES):
                return
            self._sizes = sizes
            self._taken.add((shape, requested))
            self._waiting.append((shape, requested))
            if self._thread is None:
                threads = torch.get_num_threads()  # holds for the thread that sets it
                self._thread = threading.Thread(target=self._work, args=(threads,), name="preparation")
                self._thread.start()

    def close(self, timeout: float | None = None) -> bool:
        """Makes nothing ready any more.

        Args:
            timeout: Seconds to wait for what is being made; None: as long as it takes.

        Returns:
            False if it is still being made.
        """
        with self._lock:
            self._closed = True
            self._waiting.clear()
            thread = self._thread
        if thread is not None:
            thread.join(timeout)
        return thread is None or not thread.is_alive()

    def _work(self, threads: int) -> None:
        if torch.get_num_threads() != threads:  # asked first, because a thread's first question sets it to a default
            torch.set_num_threads(threads)
        while (work := self._next()) is not None:
            shape, requested = work
            try:
                self._prepare(shape, requested, self._progress())
            except Abandoned:
                _logger.info("%s is not made ready any more", _named(shape))
            except Exception as error:
                _logger.warning("%s cannot be made ready: %s", _named(shape), error)
                self._give_up(shape)

    def _next(self) -> tuple[Shape, bool] | None:
        with self._lock:
            if self._waiting and not self._is_over():
                return self._waiting.popleft()
            self._thread = None
            return None

    def _give_up(self, shape: Shape) -> None:
        """Larger batches of a size would not fit either."""
        with self._lock:
            self._waiting = deque(work for work in self._waiting if work[0][1:] != shape[1:] or work[0][0] < shape[0])

    def _progress(self) -> Progress:
        log = log_progress()

        def report(what: str, done: int, total: int) -> None:
            if self._is_over():
                raise Abandoned
            log(what, done, total)

        return report

    def _is_over(self) -> bool:
        # The interpreter waits for this thread once the main one has ended.
        return self._closed or not threading.main_thread().is_alive()


def _named(shape: Shape) -> str:
    return "x".join(map(str, shape))
