"""What waits for words: requests whose words the text tower has to read first, beside the stream."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from fcclip_core.errors import FcclipError, VocabularyError

CHUNK = 16
"""Words that are read without looking at what came meanwhile."""

MAX_WAITING = 64
"""Requests that may wait, vocabularies apart: of those there is one for each camera and one for all."""


_AT_ONCE = 8
"""Answers that a client of ROS surely keeps until it reads them: it has room for ten."""

_PAUSE = 0.003
"""Seconds between two further ones."""


class Superseded(VocabularyError):
    """A vocabulary that a newer one replaced before it was ready."""


class Reader(Protocol):
    """What reads words: a `Segmenter`."""

    def unknown_words(self, words: Sequence[str]) -> list[str]:
        """See `Segmenter.unknown_words`."""
        ...

    def learn_words(self, words: Sequence[str]) -> None:
        """See `Segmenter.learn_words`."""
        ...


@dataclass(eq=False)
class Request:
    """Something that needs words.

    Attributes:
        then: Called on the queue's thread once all words are known; returns its outcome, or a future of it.
        future: Gets the outcome.
        classes: Of a vocabulary, how many; 0 for anything else.
        order: When it came.
        unread: Words that may be unknown still.
        replaced: Futures of older vocabularies that this one supersedes.
    """

    then: Callable[[Request], Any]
    order: int
    unread: deque[str]
    classes: int = 0
    future: Future = field(default_factory=Future)
    replaced: list[Future] = field(default_factory=list)


class WordQueue:
    """Reads the words of requests, a few at a time, on a thread of its own.

    The request with the fewest unknown words is next, so that a word or two never wait for a vocabulary of thousands;
    one without any is served at once. A request that was cancelled, or superseded, is left where it is.
    """

    def __init__(self, reader: Reader) -> None:
        """Starts the thread."""
        self._reader = reader
        self._changed = threading.Condition()
        self._orders = itertools.count(1)
        self._waiting: list[Request] = []
        self._vocabularies: dict[object, Request] = {}
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="vocabulary", daemon=True)
        self._thread.start()

    @property
    def classes(self) -> int:
        """Number of classes of the largest vocabulary that waits for its words; 0 for none."""
        with self._changed:
            return max((request.classes for request in self._waiting), default=0)

    def submit(self, words: Sequence[str], then: Callable[[Request], Any]) -> Future:
        """Has words read and then something done.

        Returns:
            The outcome of `then`; canceling it before ends the reading. FcclipError: too many requests wait.
        """
        with self._changed:
            others = sum(not request.classes for request in self._waiting)
            if others < MAX_WAITING:
                return self._add(words, then, 0).future
        future: Future = Future()
        future.set_exception(FcclipError(f"{MAX_WAITING} requests wait for their words already; ask again later"))
        return future

    def submit_vocabulary(
        self, words: Sequence[str], then: Callable[[Request], Any], classes: int, target: object | None
    ) -> Request:
        """Has the words of a vocabulary read and then something done.

        It supersedes older vocabularies that still wait: for the same target; if it is for all (None), any. Their
        futures get `Superseded` when this one's outcome is known.
        """
        with self._changed:
            request = self._add(words, then, classes)
            for other, older in list(self._vocabularies.items()):
                if target is None or other is target:
                    del self._vocabularies[other]
                    self._waiting.remove(older)
                    request.replaced += [*older.replaced, older.future]
                    older.replaced.clear()
            self._vocabularies[target] = request
        request.future.add_done_callback(lambda future: _tell_replaced(list(request.replaced), future))
        return request

    def close(self) -> None:
        """Cancels what waits; the thread ends after the words that it is reading."""
        with self._changed:
            self._closed = True
            left, self._waiting = self._waiting, []
            self._vocabularies.clear()
            self._changed.notify_all()
        for request in left:
            request.future.cancel()

    def join(self, timeout: float) -> bool:
        """Waits for the thread to end; False if it still reads after `timeout` seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _add(self, words: Sequence[str], then: Callable[[Request], Any], classes: int) -> Request:
        request = Request(then, next(self._orders), deque(self._reader.unknown_words(words)), classes)
        if self._closed:
            request.future.cancel()
        else:
            self._waiting.append(request)
            self._changed.notify_all()
        return request

    def _work(self) -> None:
        while (request := self._next()) is not None:
            try:
                chunk = [request.unread.popleft() for _ in range(min(CHUNK, len(request.unread)))]
                if chunk:
                    self._reader.learn_words(chunk)
                if request.unread or not self._take(request):
                    continue
                outcome = request.then(request)
            except Exception as error:
                self._take(request)
                _finish(request.future, error=error)
            else:
                _pass_on(outcome, request.future)
                del outcome
            del request  # not kept while there is nothing to do

    def _next(self) -> Request | None:
        """Waits for the request with the fewest unknown words; None when there will be none."""
        with self._changed:
            while True:
                for request in [request for request in self._waiting if request.future.cancelled()]:
                    self._remove(request)
                if self._waiting or self._closed:
                    return min(self._waiting, key=lambda item: (len(item.unread), item.order), default=None)
                self._changed.wait()

    def _take(self, request: Request) -> bool:
        """Removes a request; False if it is not there any more: cancelled, or superseded."""
        with self._changed:
            if request not in self._waiting:
                return False
            self._remove(request)
            return not request.future.cancelled()

    def _remove(self, request: Request) -> None:
        self._waiting.remove(request)
        self._vocabularies = {target: item for target, item in self._vocabularies.items() if item is not request}


def _pass_on(outcome: Any, future: Future) -> None:
    if not isinstance(outcome, Future):
        _finish(future, outcome)
        return

    def tell(done: Future) -> None:
        if done.cancelled():
            future.cancel()
        elif (error := done.exception()) is not None:
            _finish(future, error=error)
        else:
            _finish(future, done.result())

    outcome.add_done_callback(tell)


def _finish(future: Future, outcome: Any = None, error: BaseException | None = None) -> None:
    if not future.set_running_or_notify_cancel():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(outcome)


def _tell_replaced(replaced: list[Future], newer: Future) -> None:
    """Answers those whose vocabulary a newer one superseded; many of them beside everything else, not at once."""

    def tell() -> None:
        for number, future in enumerate(replaced):
            if number >= _AT_ONCE:
                time.sleep(_PAUSE)
            if newer.cancelled():
                future.cancel()
            elif (error := newer.exception()) is not None:
                _finish(future, error=Superseded(f"superseded by a newer vocabulary, which was not accepted: {error}"))
            else:
                _finish(future, error=Superseded(f"superseded by version {newer.result().version}"))

    if len(replaced) <= _AT_ONCE:
        tell()
    else:
        threading.Thread(target=tell, name="superseded", daemon=True).start()
