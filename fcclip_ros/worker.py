"""A thread that others bring work to without waiting."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from fcclip_ros.mailbox import Mailbox, Task

Frame = TypeVar("Frame")


class Worker(Generic[Frame]):
    """Works on the newest frame of a stream, and between two frames on tasks, in the order they came."""

    def __init__(self, name: str, handle_frame: Callable[[Frame], None] | None = None) -> None:
        """Starts the thread.

        Args:
            name: Of the thread.
            handle_frame: Called with each frame; must not raise. None for a worker that gets tasks alone.
        """
        self._mailbox: Mailbox[Frame] = Mailbox()
        self._handle_frame = handle_frame
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def put(self, frame: Frame) -> Frame | None:
        """Leaves a frame; returns the one that will never be looked at because of it, if any."""
        return self._mailbox.put(frame)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future:
        """Runs a function on the thread before its next frame."""
        task = Task(function, arguments)
        self._mailbox.put_task(task)
        return task.future

    def discard_frame(self) -> Frame | None:
        """Takes back the frame that waits, if one does."""
        return self._mailbox.discard_frame()

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
        while (item := self._mailbox.take()) is not None:
            if isinstance(item, Task):
                item.run()
            elif self._handle_frame is not None:
                self._handle_frame(item)
