"""A thread that others bring work to without waiting."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from fcclip_ros.mailbox import Mailbox, Task

Frame = TypeVar("Frame")


class Worker(Generic[Frame]):
    """Works on the newest frames of streams, which take turns, and before them on tasks, in the order they came.

    Attributes:
        limit: Frames to work on at once, at most.
    """

    def __init__(
        self,
        name: str,
        handle_frames: Callable[[list[Frame]], None] | None = None,
        fit: Callable[[Frame, Frame], bool] = lambda one, other: True,
        limit: int = 1,
    ) -> None:
        """Starts the thread.

        Args:
            name: Of the thread.
            handle_frames: Called with frames of different streams; must not raise. None for a worker that gets tasks
                alone.
            fit: Whether two frames can be worked on at once.
            limit: See the attribute.
        """
        self.limit = limit
        self._mailbox: Mailbox[Frame] = Mailbox()
        self._handle_frames = handle_frames
        self._fit = fit
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def put(self, stream: object, frame: Frame) -> Frame | None:
        """Leaves a stream's frame; returns the one that will never be looked at because of it, if any."""
        return self._mailbox.put(stream, frame)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future:
        """Runs a function on the thread before its next frames."""
        task = Task(function, arguments)
        self._mailbox.put_task(task)
        return task.future

    def discard(self, stream: object) -> Frame | None:
        """Takes back the frame of a stream that waits, if one does."""
        return self._mailbox.discard(stream)

    def stop(self, timeout: float | None = None) -> bool:
        """Ends the thread after what it is doing now; tasks that wait are cancelled.

        Args:
            timeout: Seconds to wait for the end; None waits as long as it takes.

        Returns:
            False if the thread still works.
        """
        self._mailbox.close()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while work := self._mailbox.take(self.limit, self._fit):
            if isinstance(work, Task):
                work.run()
            elif self._handle_frames is not None:
                self._handle_frames(work)
