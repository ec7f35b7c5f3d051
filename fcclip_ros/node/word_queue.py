"""The queue of requests whose words the text encoder has not encoded yet, served on a background thread."""

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
"""Words that are encoded at once; new requests are considered between two chunks."""

MAX_WAITING = 64
"""Pending requests, not counting vocabularies: of those there is at most one for each camera and one for all."""

_IMMEDIATE_RESPONSES = 8
"""Responses that are sent at once: the response queue of a ROS client holds ten."""

_RESPONSE_INTERVAL = 0.003
"""Seconds between further responses."""


class Superseded(VocabularyError):
    """A vocabulary that was replaced by a newer one before it was activated."""


class TextEncoder(Protocol):
    """The part of `Segmenter` that encodes words."""

    def unknown_words(self, words: Sequence[str]) -> list[str]:
        """See `Segmenter.unknown_words`."""
        ...

    def learn_words(self, words: Sequence[str]) -> None:
        """See `Segmenter.learn_words`."""
        ...


@dataclass(eq=False)
class Request:
    """A request that needs the text embeddings of its words.

    Attributes:
        then: Called on the queue's thread once all words are encoded; returns the result, or a future of it.
        order: Sequence number of the request.
        unencoded: Words that may still have to be encoded.
        classes: Number of classes of a vocabulary; 0 for other requests.
        future: Receives the result.
        superseded: Futures of older vocabularies that this one supersedes.
    """

    then: Callable[[Request], Any]
    order: int
    unencoded: deque[str]
    classes: int = 0
    future: Future[Any] = field(default_factory=Future)
    superseded: list[Future[Any]] = field(default_factory=list)


class WordQueue:
    """Encodes the words of requests in chunks, on a thread of its own.

    The request with the fewest unencoded words is served first, so that one or two words never wait for a vocabulary of
    thousands. Canceled and superseded requests are dropped.
    """

    def __init__(self, encoder: TextEncoder) -> None:
        """Starts the thread."""
        self._encoder = encoder
        self._changed = threading.Condition()
        self._orders = itertools.count(1)
        self._waiting: list[Request] = []
        self._vocabularies: dict[object, Request] = {}
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="vocabulary", daemon=True)
        self._thread.start()

    @property
    def classes(self) -> int:
        """Number of classes of the largest vocabulary that is being encoded; 0 for none."""
        with self._changed:
            return max((request.classes for request in self._waiting), default=0)

    def submit(self, words: Sequence[str], then: Callable[[Request], Any]) -> Future[Any]:
        """Encodes words, then calls `then`.

        Returns:
            The result of `then`; canceling it stops the encoding.

        Raises:
            FcclipError: Too many requests are pending.
        """
        with self._changed:
            if sum(not request.classes for request in self._waiting) >= MAX_WAITING:
                raise FcclipError(f"{MAX_WAITING} requests are waiting for their words to be encoded; try again later")
            return self._add(words, then, 0).future

    def submit_vocabulary(
        self, words: Sequence[str], then: Callable[[Request], Any], classes: int, target: object | None
    ) -> Request:
        """Encodes the words of a vocabulary, then calls `then`.

        It supersedes older pending vocabularies for the same target; for any target, if it is for all (None). Their
        futures fail with `Superseded` once this one's result is known.
        """
        with self._changed:
            request = self._add(words, then, classes)
            for other, older in list(self._vocabularies.items()):
                if target is None or other is target:
                    del self._vocabularies[other]
                    self._waiting.remove(older)
                    request.superseded += [*older.superseded, older.future]
                    older.superseded.clear()
            self._vocabularies[target] = request
        request.future.add_done_callback(lambda future: _fail_superseded(list(request.superseded), future))
        return request

    def close(self) -> None:
        """Cancels pending requests; the thread ends after the current chunk."""
        with self._changed:
            self._closed = True
            left, self._waiting = self._waiting, []
            self._vocabularies.clear()
            self._changed.notify_all()
        for request in left:
            request.future.cancel()

    def join(self, timeout: float) -> bool:
        """Waits for the thread to end; False if it is still running after `timeout` seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _add(self, words: Sequence[str], then: Callable[[Request], Any], classes: int) -> Request:
        request = Request(then, next(self._orders), deque(self._encoder.unknown_words(words)), classes)
        if self._closed:
            request.future.cancel()
        else:
            self._waiting.append(request)
            self._changed.notify_all()
        return request

    def _work(self) -> None:
        while (request := self._next()) is not None:
            try:
                chunk = [request.unencoded.popleft() for _ in range(min(CHUNK, len(request.unencoded)))]
                if chunk:
                    self._encoder.learn_words(chunk)
                if request.unencoded or not self._take(request):
                    continue
                outcome = request.then(request)
            except Exception as error:
                self._take(request)
                _finish(request.future, error=error)
            else:
                _forward(outcome, request.future)
                del outcome
            del request  # not kept alive while the thread is idle

    def _next(self) -> Request | None:
        """Waits for the request with the fewest unencoded words; None after `close`."""
        with self._changed:
            while True:
                for request in [request for request in self._waiting if request.future.cancelled()]:
                    self._remove(request)
                if self._waiting or self._closed:
                    return min(self._waiting, key=lambda item: (len(item.unencoded), item.order), default=None)
                self._changed.wait()

    def _take(self, request: Request) -> bool:
        """Removes a request; False if it was canceled or superseded."""
        with self._changed:
            if request not in self._waiting:
                return False
            self._remove(request)
            return not request.future.cancelled()

    def _remove(self, request: Request) -> None:
        self._waiting.remove(request)
        self._vocabularies = {target: item for target, item in self._vocabularies.items() if item is not request}


def _forward(outcome: Any, future: Future[Any]) -> None:
    """Completes `future` with a result, or with that of another future once it is done."""

    def forward(done: Future[Any]) -> None:
        if done.cancelled():
            future.cancel()
        elif (error := done.exception()) is not None:
            _finish(future, error=error)
        else:
            _finish(future, done.result())

    if isinstance(outcome, Future):
        outcome.add_done_callback(forward)
    else:
        _finish(future, outcome)


def _finish(future: Future[Any], outcome: Any = None, error: BaseException | None = None) -> None:
    if not future.set_running_or_notify_cancel():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(outcome)


def _fail_superseded(futures: list[Future[Any]], newer: Future[Any]) -> None:
    """Fails the futures of superseded vocabularies; if there are many, in the background and at intervals."""
    if newer.cancelled():
        for future in futures:
            future.cancel()
        return
    error = newer.exception()
    outcome = (
        f"version {newer.result().version}" if error is None else f"a newer vocabulary, which was rejected: {error}"
    )

    def fail_all() -> None:
        for number, future in enumerate(futures):
            if number >= _IMMEDIATE_RESPONSES:
                time.sleep(_RESPONSE_INTERVAL)
            _finish(future, error=Superseded(f"superseded by {outcome}"))

    if len(futures) <= _IMMEDIATE_RESPONSES:
        fail_all()
    else:
        threading.Thread(target=fail_all, name="superseded", daemon=True).start()
