"""The place between the executor and the inference thread: the newest frame, and tasks that go before it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

Frame = TypeVar("Frame")


@dataclass(frozen=True)
class Task:
    """Work for the inference thread that is not a frame of the stream; its outcome goes into `future`."""

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


class Mailbox(Generic[Frame]):
    """Holds at most one frame, the newest, and any number of tasks. Safe to use from several threads."""

    def __init__(self) -> None:
        """Starts empty and open."""
        self._changed = threading.Condition()
        self._frame: Frame | None = None
        self._tasks: deque[Task] = deque()
        self._closed = False

    def put(self, frame: Frame) -> Frame | None:
        """Leaves a frame and returns the one that it replaced, if nobody had taken that.

        A closed mailbox returns the frame itself.
        """
        with self._changed:
            if self._closed:
                return frame
            replaced, self._frame = self._frame, frame
            self._changed.notify()
        return replaced

    def put_task(self, task: Task) -> None:
        """Leaves a task; a closed mailbox cancels it."""
        with self._changed:
            if not self._closed:
                self._tasks.append(task)
                self._changed.notify()
                return
        task.future.cancel()

    def take(self) -> Task | Frame | None:
        """Waits for something to do: the oldest task, else the frame; None once the mailbox is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._tasks or self._frame is not None)
            if self._closed:
                return None
            if self._tasks:
                return self._tasks.popleft()
            frame, self._frame = self._frame, None
            return frame

    def discard_frame(self) -> Frame | None:
        """Takes the waiting frame away, if there is one."""
        with self._changed:
            frame, self._frame = self._frame, None
            return frame

    def close(self) -> Frame | None:
        """Cancels the waiting tasks, lets `take` return None from now on, and returns the frame left behind."""
        with self._changed:
            self._closed = True
            tasks, self._tasks = self._tasks, deque()
            frame, self._frame = self._frame, None
            self._changed.notify_all()
        for task in tasks:
            task.future.cancel()
        return frame
