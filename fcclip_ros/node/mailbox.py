"""The place between executor and inference thread: each stream's newest frame, and tasks that go before them."""

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
"""Tasks that may go before a frame that waits: however many there are, the stream goes on."""


@dataclass(frozen=True)
class Task:
    """Work for the inference thread that is not a frame of a stream; its outcome goes into `future`."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    future: Future = field(default_factory=Future)

    def run(self) -> None:
        """Runs the function, unless the future was cancelled meanwhile."""
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            self.future.set_result(self.function(*self.arguments))
        except BaseException as error:
            self.future.set_exception(error)
            del self  # the error knows this call: together they would keep images and tensors alive, in a circle


class Mailbox(Generic[Frame]):
    """Holds at most one frame of each stream, the newest, and any number of tasks. Safe to use from several threads.

    Streams take turns, whatever their rates are: the frame that is taken first is that of the stream that was served
    longest ago.
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
        """How often something was left."""

    def replace(self, stream: object, frame: Frame) -> Frame | None:
        """Leaves a frame and returns the one of its stream that it replaced, if nobody had taken that.

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
        """Leaves a task; a closed mailbox cancels it."""
        with self._changed:
            if not self._closed:
                self._tasks.append(task)
                self._notify()
                return
        task.future.cancel()

    def take(
        self, limit: int = 1, fit: Callable[[Frame, Frame], bool] = lambda one, other: True, *, wait: bool = True
    ) -> Task | list[Frame]:
        """Takes something to do: the oldest task, else frames; an empty list if there is nothing.

        A frame that waits is taken after some tasks, so that no number of them stops the streams.

        Args:
            limit: Frames to take at most, at least one.
            fit: Whether two frames may be taken together; those that do not fit the first one stay, and may still be
                replaced by newer ones.
            wait: Wait until there is something, or the mailbox is closed.
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
            taken = self._next(limit, fit)
            self._served.update((stream, next(self._turns)) for stream in taken)
            return [self._frames.pop(stream) for stream in taken]

    def waiting(self, limit: int = 1, fit: Callable[[Frame, Frame], bool] = lambda one, other: True) -> list[Frame]:
        """The frames that `take` would give if nothing newer came; they stay. None while a task goes before them."""
        with self._changed:
            if self._closed or self._task_is_next() or not self._frames:
                return []
            return [self._frames[stream] for stream in self._next(limit, fit)]

    def wait_for_change(self, since: int, done: Callable[[], bool]) -> None:
        """Waits until something is left after `changes` were `since`, or something is done, which `wake` tells."""
        with self._changed:
            self._changed.wait_for(lambda: self.changes != since or done())

    def wake(self) -> None:
        """Has those who wait look again."""
        with self._changed:
            self._changed.notify_all()

    @property
    def tasks(self) -> int:
        """How many tasks wait."""
        return len(self._tasks)

    def _task_is_next(self) -> bool:
        return bool(self._tasks) and not (self._frames and self._in_a_row >= _TASKS_IN_A_ROW)

    def _notify(self) -> None:
        self.changes += 1
        self._changed.notify_all()

    def _next(self, limit: int, fit: Callable[[Frame, Frame], bool]) -> list[object]:
        """Whose turn it is: streams with frames that go together."""
        first, *others = sorted(self._frames, key=lambda stream: self._served.get(stream, -1))
        fitting = [stream for stream in others if fit(self._frames[first], self._frames[stream])]
        return [first, *fitting[: limit - 1]]

    def discard(self, stream: object) -> Frame | None:
        """Takes the waiting frame of a stream away, if there is one."""
        with self._changed:
            return self._frames.pop(stream, None)

    def close(self) -> list[Frame]:
        """Cancels the waiting tasks, lets `take` return nothing from now on, and returns the frames left behind."""
        with self._changed:
            self._closed = True
            self.changes += 1
            tasks, self._tasks = self._tasks, deque()
            frames, self._frames = list(self._frames.values()), {}
            self._changed.notify_all()
        for task in tasks:
            task.future.cancel()
        return frames
