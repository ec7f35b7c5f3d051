"""A thread that processes the newest frames and tasks of other threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, Protocol, TypeVar

from fcclip_ros.node.mailbox import Mailbox, Task

Frame = TypeVar("Frame")


class Started(Protocol):
    """Frames that are computed asynchronously, on a GPU for example, while this thread continues."""

    def wait(self) -> None:
        """Blocks until they are computed; must not raise."""

    def finish(self) -> None:
        """Completes them, for example publishes their results; must not raise."""


class Worker(Generic[Frame]):
    """Processes the newest frames of streams in round-robin order, and tasks first, in order of submission.

    Frames may be started and finished separately. Then the next frames are preprocessed while these are computed, taken
    once they are computed (so that no frame is started while a newer one of its stream is queued), and started before
    these are finished.

    Attributes:
        limit: Largest batch of frames.
    """

    def __init__(
        self,
        name: str,
        handle_frames: Callable[[list[Frame]], Started | None] | None = None,
        can_batch: Callable[[Frame, Frame], bool] = lambda one, other: True,
        limit: int = 1,
        look_ahead: Callable[[Frame], object] = lambda frame: None,
        failed: Callable[[list[Frame], Exception], None] | None = None,
    ) -> None:
        """Starts the thread.

        Args:
            name: Name of the thread.
            handle_frames: Called with a batch of frames of different streams, which it processes or starts; must not
                raise. None for a worker that only runs tasks.
            can_batch: Whether two frames can be in one batch.
            limit: See the attribute.
            look_ahead: Called with a frame that may be next, while others are computed; must not raise.
            failed: Called with a batch on which `handle_frames` raised nevertheless; the thread continues.
        """
        self.limit = limit
        self._mailbox: Mailbox[Frame] = Mailbox()
        self._handle_frames = handle_frames
        self._can_batch = can_batch
        self._look_ahead = look_ahead
        self._failed = failed
        # Its thread starts with the first call.
        self._waiter = ThreadPoolExecutor(1, f"{name} waits")
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def replace(self, stream: object, frame: Frame) -> Frame | None:
        """Enqueues a stream's newest frame; returns the one that it replaces, which is dropped, if any."""
        return self._mailbox.replace(stream, frame)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Runs a function on the thread, before the next frames."""
        task = Task(function, arguments)
        self._mailbox.add_task(task)
        return task.future

    @property
    def tasks(self) -> int:
        """Number of queued tasks."""
        return self._mailbox.tasks

    def discard(self, stream: object) -> Frame | None:
        """Removes and returns the queued frame of a stream, if there is one."""
        return self._mailbox.discard(stream)

    def stop(self, timeout: float | None = None) -> bool:
        """Ends the thread after its current work; queued tasks are canceled.

        Args:
            timeout: Seconds to wait for the thread; None waits without a limit.

        Returns:
            False if the thread is still running.
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
            next_started = None
            if isinstance(work, list) and work and self._handle_frames:
                next_started = self._handle(work)
            if started:
                started.finish()
            elif not work:
                self._waiter.shutdown(wait=False)
                return
            if isinstance(work, Task):
                work.run()
            started = next_started
            del work, next_started  # not kept alive while the thread is idle

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
            for frame in self._mailbox.peek(self.limit, self._can_batch):
                self._look_ahead(frame)
            self._mailbox.wait_for_change(changes, computed.done)
