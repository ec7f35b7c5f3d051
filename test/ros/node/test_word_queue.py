"""The order in which words are read, and what becomes of requests."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from types import SimpleNamespace

import pytest

from fcclip_core.errors import FcclipError
from fcclip_ros.node.word_queue import CHUNK, MAX_WAITING, Superseded, WordQueue

MANY = [f"new {number}" for number in range(10 * CHUNK)]


class Reader:
    """Reads a chunk whenever the test lets it."""

    def __init__(self) -> None:
        self.known: set[str] = set()
        self.chunks: list[list[str]] = []
        self.reading = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)

    def unknown_words(self, words: Sequence[str]) -> list[str]:
        return [word for word in dict.fromkeys(words) if word not in self.known]

    def learn_words(self, words: Sequence[str]) -> None:
        self.chunks.append(list(words))
        self.reading.release()
        self.go_on.acquire()
        if "bad" in words:
            raise FcclipError("no usable numbers")
        self.known |= set(words)

    def let_all_through(self) -> None:
        self.go_on.release(10_000)


@pytest.fixture
def queue() -> Iterator[tuple[WordQueue, Reader]]:
    reader = Reader()
    queue = WordQueue(reader)
    yield queue, reader
    queue.close()
    reader.let_all_through()
    assert queue.join(10.0)


def vocabulary(queue: WordQueue, words: Sequence[str], version: int, target: object | None = None) -> Future:
    outcome = SimpleNamespace(version=version)
    return queue.submit_vocabulary(words, lambda request: outcome, len(words), target).future


def test_few_new_words_and_known_ones_overtake_many(queue: tuple[WordQueue, Reader]) -> None:
    words, reader = queue
    done: list[str] = []
    futures = [words.submit(MANY, lambda _: done.append("many"))]
    reader.reading.acquire()
    futures += [words.submit(["one"], lambda _: done.append("one")), words.submit([], lambda _: done.append("none"))]
    reader.let_all_through()
    for future in futures:
        future.result(10)
    assert done == ["none", "one", "many"]
    assert [len(chunk) for chunk in reader.chunks] == [CHUNK, 1, *[CHUNK] * 9]


def test_a_cancelled_request_is_read_no_further(queue: tuple[WordQueue, Reader]) -> None:
    words, reader = queue
    cancelled = words.submit(MANY, lambda _: None)
    reader.reading.acquire()
    assert cancelled.cancel()
    after = words.submit(["after"], lambda _: "read")
    reader.let_all_through()
    assert after.result(10) == "read"
    assert reader.chunks == [MANY[:CHUNK], ["after"]]


def test_each_of_a_row_of_vocabularies_is_told_which_superseded_it(queue: tuple[WordQueue, Reader]) -> None:
    words, reader = queue
    older = [vocabulary(words, [f"{number} {word}" for word in MANY], number) for number in range(30)]
    newest = vocabulary(words, ["last"], 77)
    reader.let_all_through()
    assert newest.result(10).version == 77
    for future in older:
        assert str(future.exception(10)) == "superseded by version 77"
        assert isinstance(future.exception(), Superseded)


def test_a_camera_of_its_own_does_not_supersede_the_others_but_all_supersede_it(
    queue: tuple[WordQueue, Reader],
) -> None:
    words, reader = queue
    everybody = vocabulary(words, MANY, 1)
    left, right = object(), object()
    futures = [vocabulary(words, [f"left {word}" for word in MANY], 2, left), vocabulary(words, ["r"], 3, right)]
    assert not everybody.done()
    newest = vocabulary(words, ["new"], 4)
    reader.let_all_through()
    assert newest.result(10).version == 4
    for future in (everybody, futures[0]):
        assert isinstance(future.exception(10), Superseded)


def test_the_newer_one_that_fails_says_so_to_those_it_superseded(queue: tuple[WordQueue, Reader]) -> None:
    words, reader = queue
    older = vocabulary(words, MANY, 1)
    reader.reading.acquire()
    newer = vocabulary(words, ["bad"], 2)
    reader.let_all_through()
    assert str(newer.exception(10)) == "no usable numbers"
    assert str(older.exception(10)).startswith("superseded by a newer vocabulary, which was rejected: no usable")
    assert words.submit(["fine"], lambda _: "read").result(10) == "read"


def test_too_many_requests_are_refused_and_a_vocabulary_is_not(queue: tuple[WordQueue, Reader]) -> None:
    words, reader = queue
    waiting = [words.submit([f"word {number}"], lambda _: "read") for number in range(MAX_WAITING)]
    with pytest.raises(FcclipError, match="64 requests are waiting for their words"):
        words.submit(["more"], lambda _: None)
    change = vocabulary(words, ["vocabulary"], 1)
    reader.let_all_through()
    assert {future.result(10) for future in waiting} == {"read"}
    assert change.result(10).version == 1


def test_closing_cancels_and_ends_after_the_words_that_are_being_read(queue: tuple[WordQueue, Reader]) -> None:
    words, reader = queue
    futures = [words.submit(MANY, lambda _: None), vocabulary(words, ["new"], 1)]
    reader.reading.acquire()
    words.close()
    reader.go_on.release()
    assert words.join(10.0)
    assert all(future.cancelled() for future in futures)
    assert len(reader.chunks) == 1
    assert words.submit(["later"], lambda _: None).cancelled()
