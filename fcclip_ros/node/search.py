"""Looking for words in the frames of one camera, on the inference thread."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from typing import Any, TypeVar

from fcclip_core.errors import FcclipError
from fcclip_core.segments.finding import Decoder, Found, Query, find
from fcclip_ros.conversions.frame import LabeledFrame

Outcome = TypeVar("Outcome")

FrameCallback = Callable[[LabeledFrame, Sequence[Found]], Any]
"""Called on the inference thread with a frame and its segments, the best first; a watch ends with what is not None."""

_NOT_ACTIVE = "the node is not active, so it has no pictures; ros2 lifecycle set NODE activate"
_NO_FRAME = "no picture has been labeled yet; see ~/segments and /diagnostics, or ask for a fresh one"


class PendingQuery:
    """Looks at one frame after the other until it has seen enough; `future` says when it ended and why.

    Attributes:
        query: What is looked for.
        since: Monotonic time; frames that arrived earlier do not count.
        look: See `FrameCallback`.
        future: What `look` returned in the end, or the error that ended the watch.
    """

    def __init__(self, query: Query, look: FrameCallback) -> None:
        """Counts frames from now on."""
        self.query = query
        self.since = time.monotonic()
        self.look = look
        self.future: Future = Future()

    def fail(self, error: BaseException) -> None:
        """Ends the watch with an error, unless it has ended."""
        # Whoever comes first decides: a frame, the time, the client, or the node that stops.
        with contextlib.suppress(InvalidStateError):
            self.future.set_exception(error)

    def process(self, frame: LabeledFrame, find_in: Callable[[Query], list[Found]]) -> None:
        """Looks at a frame, in which `find_in` finds what is looked for; on the inference thread."""
        if self.future.done():
            return
        try:
            outcome = self.look(frame, find_in(self.query))
        except Exception as error:  # The watch's fault must not be the stream's.
            self.fail(error)
            del self  # the error knows this call: together they would keep the frame alive, in a circle
            return
        if outcome is not None:
            with contextlib.suppress(InvalidStateError):
                self.future.set_result(outcome)


class GaveWay(FcclipError):
    """More wait than may; those who have waited longest give way."""


class Waiting:
    """The watches of one kind of request, so many at most.

    Those who wait longest may be of a client that is gone, which nobody says: they give way to newer ones.
    """

    def __init__(self, what: str, limit: int) -> None:
        """Starts empty.

        Args:
            what: The requests, in the plural, for the text.
            limit: How many may wait.
        """
        self._what = what
        self._limit = limit
        self._watches: list[PendingQuery] = []

    @contextlib.contextmanager
    def admitted(self, watch: PendingQuery) -> Iterator[None]:
        """Counts a watch while the block lasts; the oldest one fails with `GaveWay` if there are too many."""
        while len(self._watches) >= self._limit:
            self._watches.pop(0).fail(
                GaveWay(f"gave way to a newer one: {self._limit} {self._what} may wait at the same time")
            )
        self._watches.append(watch)
        try:
            yield
        finally:
            if watch in self._watches:
                self._watches.remove(watch)


class Search:
    """The newest frame of a camera, and those who wait for what its next ones show."""

    def __init__(self) -> None:
        """Starts inactive."""
        self._lock = threading.Lock()
        self._segmenter: Decoder | None = None
        self._newest: LabeledFrame | None = None
        self._watches: list[PendingQuery] = []

    def start(self, segmenter: Decoder) -> None:
        """Frames will come, with the answers of this segmenter's network."""
        with self._lock:
            self._segmenter = segmenter

    def stop(self, reason: str) -> None:
        """No more frames: forgets the newest, ends every watch with an error that says `reason`."""
        with self._lock:
            self._segmenter = self._newest = None
            watches, self._watches = self._watches, []
        for watch in watches:
            watch.fail(FcclipError(reason))

    def process(self, frame: LabeledFrame) -> None:
        """Takes a frame that was labeled; on the inference thread."""
        with self._lock:
            if self._segmenter is None:
                return
            segmenter, self._newest = self._segmenter, frame
            watches = [watch for watch in self._watches if frame.arrival_time >= watch.since]
        # Who looks for the same shares one answer.
        find_in = functools.cache(lambda query: _found(query, frame, segmenter))
        for watch in watches:
            watch.process(frame, find_in)
        del find_in  # it knows the frame
        with self._lock:
            self._watches = [watch for watch in self._watches if not watch.future.done()]

    def in_newest(self, query: Query, then: Callable[[LabeledFrame, Sequence[Found]], Outcome]) -> Outcome:
        """Looks at the newest frame; on the inference thread, which is not held up by words that are known.

        Raises:
            FcclipError: There is no frame.
        """
        with self._lock:
            segmenter, frame = self._segmenter, self._newest
        if segmenter is None:
            raise FcclipError(_NOT_ACTIVE)
        if frame is None:
            raise FcclipError(_NO_FRAME)
        return then(frame, _found(query, frame, segmenter))

    def add(self, watch: PendingQuery) -> None:
        """Lets a watch see the next frames."""
        with self._lock:
            if self._segmenter is not None:
                self._watches.append(watch)
                return
        watch.fail(FcclipError(_NOT_ACTIVE))


def _found(query: Query, frame: LabeledFrame, segmenter: Decoder) -> list[Found]:
    return find(segmenter, query, frame.encoded, frame.result, frame.snapshot)
