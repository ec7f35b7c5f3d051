"""Open-vocabulary queries on the frames of one camera, evaluated on the inference thread."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from typing import Any, Protocol, TypeVar

from fcclip_core.errors import FcclipError
from fcclip_core.segments.finding import Decoder, Found, find
from fcclip_core.segments.seen_segments import SeenSegments
from fcclip_core.vocabulary.query import Query
from fcclip_ros.conversions.frame import LabeledFrame

Outcome = TypeVar("Outcome")

FrameCallback = Callable[[LabeledFrame, Sequence[Found]], Any]
"""Called on the inference thread with a frame and its matches, best first; not None completes the query."""

_NOT_ACTIVE = "the node is not active, so there are no frames; run: ros2 lifecycle set NODE activate"
_NO_FRAME = "no frame has been labeled yet; check ~/segments and /diagnostics, or set fresh to wait for the next frame"


class PendingQuery:
    """A query that is evaluated on each new frame until its callback returns a result.

    Attributes:
        query: The query.
        since: Monotonic time; frames that arrived earlier are ignored.
        future: The result of the callback, or the error that ended the query.
    """

    def __init__(self, query: Query, callback: FrameCallback) -> None:
        """Accepts frames that arrive from now on.

        Args:
            query: The query.
            callback: See `FrameCallback`.
        """
        self.query = query
        self.since = time.monotonic()
        self.future: Future[Any] = Future()
        self._callback = callback

    def fail(self, error: BaseException) -> None:
        """Completes the query with an error, unless it is already complete."""
        # A frame, a timeout, a cancel request and a shutdown may race; the first one wins.
        with contextlib.suppress(InvalidStateError):
            self.future.set_exception(error)

    def process(self, frame: LabeledFrame, find_in: Callable[[Query], list[Found]]) -> None:
        """Evaluates a frame on the inference thread; `find_in` returns the frame's matches for a query."""
        if self.future.done():
            return
        try:
            outcome = self._callback(frame, find_in(self.query))
        except Exception as error:  # A failing query must not stop the stream.
            self.fail(error)
            del self  # breaks the reference cycle through the traceback, which would keep the frame alive
            return
        if outcome is not None:
            with contextlib.suppress(InvalidStateError):
                self.future.set_result(outcome)


class Pending(Protocol):
    """What goals and requests wait for: a query on frames, or a question to another node."""

    future: Future[Any]

    def fail(self, error: BaseException) -> None:
        """Ends it with an error, unless it has ended."""
        ...


class Evicted(FcclipError):
    """The oldest pending query was dropped because too many were pending."""


class PendingLimit:
    """Limits how many queries of one kind are pending.

    A client that disappears does not cancel its request, so the oldest query is dropped to admit a new one.
    """

    def __init__(self, what: str, limit: int) -> None:
        """Starts empty.

        Args:
            what: What is limited, in the plural, for the error message.
            limit: How many may be pending.
        """
        self._what = what
        self._limit = limit
        self._pending: list[Pending] = []

    @contextlib.contextmanager
    def admitted(self, pending: Pending) -> Iterator[None]:
        """Counts a query within the block; the oldest one fails with `Evicted` if the limit is exceeded."""
        while len(self._pending) >= self._limit:
            self._pending.pop(0).fail(
                Evicted(f"dropped in favor of a newer one: at most {self._limit} {self._what} may be pending")
            )
        self._pending.append(pending)
        try:
            yield
        finally:
            if pending in self._pending:
                self._pending.remove(pending)


class Search:
    """The latest frame of a camera, and the queries that are pending for its next frames.

    Attributes:
        seen: The segments of its frames.
    """

    def __init__(self) -> None:
        """Starts inactive."""
        self.seen = SeenSegments()
        self._lock = threading.Lock()
        self._decoder: Decoder | None = None
        self._latest: LabeledFrame | None = None
        self._pending: list[PendingQuery] = []

    def start(self, decoder: Decoder) -> None:
        """Accepts queries; `decoder` is the segmenter that labels the frames."""
        with self._lock:
            self._decoder = decoder

    def stop(self, reason: str) -> None:
        """Drops the latest frame and fails all pending queries with `reason`."""
        with self._lock:
            self._decoder = self._latest = None
            pending, self._pending = self._pending, []
        for query in pending:
            query.fail(FcclipError(reason))

    def process(self, frame: LabeledFrame) -> None:
        """Evaluates the pending queries on a labeled frame; on the inference thread."""
        with self._lock:
            if self._decoder is None:
                return
            decoder, self._latest = self._decoder, frame
            self.seen.add(frame.result.segments, frame.arrival_time)
            pending = [query for query in self._pending if frame.arrival_time >= query.since]
        # Equal queries share one evaluation.
        find_in = functools.cache(lambda query: _matches(query, frame, decoder))
        for query in pending:
            query.process(frame, find_in)
        del find_in  # it references the frame
        with self._lock:
            self._pending = [query for query in self._pending if not query.future.done()]

    def in_latest(self, query: Query, then: Callable[[LabeledFrame, Sequence[Found]], Outcome]) -> Outcome:
        """Evaluates a query on the latest frame; on the inference thread, with the query's text already encoded.

        Raises:
            FcclipError: There is no frame.
        """
        decoder, frame = self._decoder_and_latest()
        return then(frame, _matches(query, frame, decoder))

    def latest(self) -> LabeledFrame:
        """The latest frame.

        Raises:
            FcclipError: There is no frame.
        """
        return self._decoder_and_latest()[1]

    def _decoder_and_latest(self) -> tuple[Decoder, LabeledFrame]:
        with self._lock:
            decoder, frame = self._decoder, self._latest
        if decoder is None:
            raise FcclipError(_NOT_ACTIVE)
        if frame is None:
            raise FcclipError(_NO_FRAME)
        return decoder, frame

    def add(self, pending: PendingQuery) -> None:
        """Evaluates a query on the next frames."""
        with self._lock:
            if self._decoder is not None:
                self._pending.append(pending)
                return
        pending.fail(FcclipError(_NOT_ACTIVE))


def _matches(query: Query, frame: LabeledFrame, decoder: Decoder) -> list[Found]:
    return find(decoder, query, frame.encoded, frame.result, frame.snapshot)
