"""A thread that others bring work to without waiting."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, Protocol, TypeVar

from fcclip_ros.node.mailbox import Mailbox, Task

Frame = TypeVar("Frame")


class Started(Protocol):
    """Frames that something else computes, a GPU for example, while this thread does more."""

    def wait(self) -> None:
        """Waits until they are computed; must not raise."""

    def finish(self) -> None:
        """Does what is left; must not raise."""


class Worker(Generic[Frame]):
    """Works on the newest frames of streams, which take turns, and before them on tasks, in the order they came.

    Frames may be started and finished apart. Then the next ones are looked at while these are computed, taken when
    they are (so that no frame is started while a newer one of its stream waits), and started before these are finished.

    Attributes:
        limit: Frames to work on at once, at most.
    """

    def __init__(
        self,
        name: str,
        handle_frames: Callable[[list[Frame]], Started | None] | None = None,
        fit: Callable[[Frame, Frame], bool] = lambda one, other: True,
        limit: int = 1,
        look_ahead: Callable[[Frame], object] = lambda frame: None,
        failed: Callable[[list[Frame], Exception], None] | None = None,
    ) -> None:
        """Starts the thread.

        Args:
            name: Of the thread.
            handle_frames: Called with frames of different streams, which it works on, or starts; must not raise. None
                for a worker that gets tasks alone.
            fit: Whether two frames can be worked on at once.
            limit: See the attribute.
            look_ahead: Called with a frame that may be next, while others are computed; must not raise.
            failed: Called with frames on which `handle_frames` raised all the same: the thread goes on.
        """
        self.limit = limit
        self._mailbox: Mailbox[Frame] = Mailbox()
        self._handle_frames = handle_frames
        self._can_batch = fit
        self._look_ahead = look_ahead
        self._failed = failed
        # Its thread starts with the first work.
        self._waiter = ThreadPoolExecutor(1, f"{name} waits")
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def replace(self, stream: object, frame: Frame) -> Frame | None:
        """Leaves a stream's frame; returns the one that will never be looked at because of it, if any."""
        return self._mailbox.replace(stream, frame)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future:
        """Runs a function on the thread before its next frames."""
        task = Task(function, arguments)
        self._mailbox.add_task(task)
        return task.future

    @property
    def tasks(self) -> int:
        """How many functions wait for their turn."""
        return self._mailbox.tasks

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
        started: Started | None = None
        while True:
            if started:
                self._look_ahead_until_computed(started)
            work = self._mailbox.take(self.limit, self._can_batch, wait=started is None)
            following = None
            if isinstance(work, list) and work and self._handle_frames:
                following = self._handle(work)
            if started:
                started.finish()
            elif not work:
                self._waiter.shutdown(wait=False)
                return
            if isinstance(work, Task):
                work.run()
            started = following
            del work, following  # not kept while there is nothing to do

    def _handle(self, frames: list[Frame]) -> Started | None:
        assert self._handle_frames is not None
        try:
            return self._handle_frames(frames)
        except Exception as error:
            if self._failed is None:
                raise
            self._failed(frames, error)
            return None

    def _look_ahead_until_computed(self, started: Started) -> None:
        computed = self._waiter.submit(started.wait)
        computed.add_done_callback(lambda _: self._mailbox.wake())
        while not computed.done():
            changes = self._mailbox.changes
            for frame in self._mailbox.waiting(self.limit, self._can_batch):
                self._look_ahead(frame)
            self._mailbox.wait_for_change(changes, computed.done)
