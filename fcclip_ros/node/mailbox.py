"""The queue between the executor and a worker: the newest frame of each stream, and tasks with priority."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

Frame = TypeVar("Frame")

_TASKS_IN_A_ROW = 8
"""Tasks that may run before a queued frame, so that no number of tasks starves the streams."""


@dataclass(frozen=True)
class Task:
    """A function call for the worker; `future` receives its result."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    future: Future[Any] = field(default_factory=Future)

    def run(self) -> None:
        """Runs the function, unless the future has been canceled."""
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            self.future.set_result(self.function(*self.arguments))
        except BaseException as error:
            self.future.set_exception(error)
            del self  # breaks the reference cycle through the traceback, which would keep images and tensors alive


class Mailbox(Generic[Frame]):
    """Holds the newest frame of each stream and any number of tasks. Thread-safe.

    Streams are served in round-robin order regardless of their rates: the stream that was served longest ago is next.
    """

    def __init__(self) -> None:
        """Starts empty and open."""
        self._changed = threading.Condition()
        self._frames: dict[object, Frame] = {}
        self._tasks: deque[Task] = deque()
        self._turns = itertools.count()
        self._served: dict[object, int] = {}
        self._in_a_row = 0
        self._closed = False
        self.changes = 0
        """Counts the calls that added something."""

    def replace(self, stream: object, frame: Frame) -> Frame | None:
        """Enqueues a stream's newest frame and returns the queued one that it replaces, if any.

        A closed mailbox returns the frame itself.
        """
        with self._changed:
            if self._closed:
                return frame
            replaced = self._frames.get(stream)
            self._frames[stream] = frame
            self._notify()
        return replaced

    def add_task(self, task: Task) -> None:
        """Enqueues a task; a closed mailbox cancels it."""
        with self._changed:
            if not self._closed:
                self._tasks.append(task)
                self._notify()
                return
        task.future.cancel()

    def take(
        self, limit: int = 1, can_batch: Callable[[Frame, Frame], bool] = lambda one, other: True, *, wait: bool = True
    ) -> Task | list[Frame]:
        """Takes the oldest task, else a batch of frames; an empty list if there is neither.

        A queued frame is taken after at most `_TASKS_IN_A_ROW` tasks.

        Args:
            limit: Largest batch, at least 1.
            can_batch: Whether two frames can be in one batch; frames that do not match the first one stay queued and
                may still be replaced by newer ones.
            wait: Block until there is something or the mailbox is closed.
        """
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._closed or self._tasks or self._frames)
            if self._closed or not (self._tasks or self._frames):
                return []
            if self._task_is_next():
                self._in_a_row += 1
                return self._tasks.popleft()
            self._in_a_row = 0
            taken = self._next(limit, can_batch)
            self._served.update((stream, next(self._turns)) for stream in taken)
            return [self._frames.pop(stream) for stream in taken]

    def peek(self, limit: int = 1, can_batch: Callable[[Frame, Frame], bool] = lambda one, other: True) -> list[Frame]:
        """The frames that `take` would return now, which stay queued; an empty list while a task is next."""
        with self._changed:
            if self._closed or self._task_is_next() or not self._frames:
                return []
            return [self._frames[stream] for stream in self._next(limit, can_batch)]

    def wait_for_change(self, since: int, done: Callable[[], bool]) -> None:
        """Blocks until something is added after `changes` was `since`, or `done` returns True after a `wake`."""
        with self._changed:
            self._changed.wait_for(lambda: self.changes != since or done())

    def wake(self) -> None:
        """Wakes the threads that wait, so that they check their conditions again."""
        with self._changed:
            self._changed.notify_all()

    @property
    def tasks(self) -> int:
        """Number of queued tasks."""
        return len(self._tasks)

    def _task_is_next(self) -> bool:
        return bool(self._tasks) and not (self._frames and self._in_a_row >= _TASKS_IN_A_ROW)

    def _notify(self) -> None:
        self.changes += 1
        self._changed.notify_all()

    def _next(self, limit: int, can_batch: Callable[[Frame, Frame], bool]) -> list[object]:
        """The streams whose frames form the next batch."""
        first, *others = sorted(self._frames, key=lambda stream: self._served.get(stream, -1))
        fitting = [stream for stream in others if can_batch(self._frames[first], self._frames[stream])]
        return [first, *fitting[: limit - 1]]

    def discard(self, stream: object) -> Frame | None:
        """Removes and returns the queued frame of a stream, if there is one."""
        with self._changed:
            return self._frames.pop(stream, None)

    def close(self) -> list[Frame]:
        """Cancels the queued tasks, unblocks `take` for good, and returns the queued frames."""
        with self._changed:
            self._closed = True
            self.changes += 1
            tasks, self._tasks = self._tasks, deque()
            frames, self._frames = list(self._frames.values()), {}
            self._changed.notify_all()
        for task in tasks:
            task.future.cancel()
        return frames
