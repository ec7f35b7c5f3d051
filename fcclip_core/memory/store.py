"""Writes the memory's changes to its file behind the stream, on a thread.

The queue holds the newest state of each changed object, so it is never longer than there are objects. What fails stays
in it and is tried again; the memory goes on meanwhile.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import sqlite3
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from fcclip_core.errors import MemoryFileError
from fcclip_core.memory import database
from fcclip_core.memory.codec import encode
from fcclip_core.memory.objects import RememberedObject
from fcclip_core.quoting import first_line, short_name

RETRY = 5.0
"""Seconds after a failed write until the next one, at least."""

_logger = logging.getLogger(__name__)


class Store:
    """A memory's file and the thread that writes it; thread-safe."""

    def __init__(self, path: Path, period: float) -> None:
        """Opens the file, and locks it against other writers.

        Args:
            path: The file; created if it is not there.
            period: Seconds between two writes.

        Raises:
            MemoryFileError: Another process writes it, it is of a newer version or another program's, or cannot be
                opened.
        """
        self.path = path
        self._period = period
        self._lock = _locked(path)
        self._connection: sqlite3.Connection | None = None
        self._changed = threading.Condition()
        self._pending: dict[int, RememberedObject | None] = {}
        self._meta: dict[str, Any] = {}
        self._taken = self._written = self._failed = 0
        self._urgent = self._closing = False
        self._problem = ""
        try:
            self._contents = self._open()
        except BaseException:
            _release(self._lock)
            raise
        self._in_file = {item.id for item in self._contents.objects}
        self._thread = threading.Thread(target=self._run, name="memory file", daemon=True)
        self._thread.start()

    def take_contents(self) -> database.Contents:
        """What the file held when it was opened; empty the second time, so that it is not kept twice."""
        contents, self._contents = self._contents, database.Contents()
        return contents

    @property
    def problem(self) -> str:
        """Why the newest changes are not in the file, for people; empty if nothing is wrong."""
        return self._problem

    @property
    def pending(self) -> int:
        """Number of objects whose newest state is not in the file."""
        return len(self._pending)

    def put(self, changes: Mapping[int, RememberedObject | None], meta: Mapping[str, Any]) -> None:
        """Takes changes to write: objects by id, None for those to remove; and values by key. Does not wait."""
        if not changes and not meta:
            return
        with self._changed:
            self._pending.update(changes)
            self._meta.update(meta)
            self._taken += 1
            self._changed.notify_all()

    def flush(self, timeout: float = 30.0) -> None:
        """Waits until all that was put before is on the disk.

        Raises:
            MemoryFileError: It could not be written, or not in time; it is tried again later.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            wanted, failed = self._taken, self._failed
            self._urgent = True
            self._changed.notify_all()
            while self._written < wanted:
                if self._failed > failed:
                    raise MemoryFileError(
                        f"the memory could not be saved to {short_name(self.path)}: {self._problem}; it is kept in "
                        "memory and tried again"
                    )
                if self._closing or not self._changed.wait(max(deadline - time.monotonic(), 0)):
                    raise MemoryFileError(
                        f"the memory was not saved to {short_name(self.path)} within {timeout:g} s; it is kept in "
                        "memory and tried again"
                    )

    def close(self, timeout: float = 30.0) -> None:
        """Writes what is left and closes the file; may be called again.

        Raises:
            MemoryFileError: What is left could not be written.
        """
        if self._closing:
            return
        try:
            self.flush(timeout)
        finally:
            with self._changed:
                self._closing = True
                self._changed.notify_all()
            self._thread.join()
            if self._connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.close()
            _release(self._lock)

    def _open(self) -> database.Contents:
        try:
            self._connection, contents = database.open_for_writing(self.path)
        except sqlite3.OperationalError as error:
            self._note(error)
            # A full disk must not hide what the file holds: its ids would be given again, and overwritten later.
            return database.read(self.path) if self.path.exists() and self.path.stat().st_size else database.Contents()
        if contents.damaged:
            _logger.warning(
                "%d objects in the memory file %s are damaged and were left out",
                contents.damaged,
                short_name(self.path),
            )
        return contents

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._closing or self._taken > self._written):
                    self._urgent = False
                    self._changed.wait()
                if not self._closing and not self._urgent:
                    self._changed.wait_for(lambda: self._closing or self._urgent, self._pause())
                if self._closing:
                    return
                self._urgent = False
                taken, changes, meta = self._taken, self._pending, self._meta
                self._pending, self._meta = {}, {}
            problem = self._write(changes, meta)
            with self._changed:
                if problem is None:
                    self._written = taken
                    self._say_saved()
                else:
                    # What came meanwhile is newer. What was never in the file need not be removed from it.
                    merged = {**changes, **self._pending}
                    kept = {
                        number: item for number, item in merged.items() if item is not None or number in self._in_file
                    }
                    self._pending, self._meta = kept, {**meta, **self._meta}
                    self._note(problem)
                    self._failed += 1
                self._changed.notify_all()

    def _pause(self) -> float:
        return max(self._period, RETRY) if self._problem else self._period

    def _write(self, changes: Mapping[int, RememberedObject | None], meta: Mapping[str, Any]) -> Exception | None:
        """Writes changes; returns what went wrong."""
        try:
            if self._connection is None:
                self._connection, _ = database.open_for_writing(self.path)
            removed = [number for number, item in changes.items() if item is None]
            rows = (encode(item) for item in changes.values() if item is not None)
            database.write(self._connection, rows, removed, meta)
        except Exception as error:  # the thread must go on, whatever it is: the next try may succeed
            return error
        self._in_file.difference_update(removed)
        self._in_file.update(number for number, item in changes.items() if item is not None)
        return None

    def _note(self, error: Exception) -> None:
        problem = "the disk is full" if database.is_full(error) else first_line(error) or type(error).__name__
        if problem != self._problem:
            _logger.error(
                "the memory cannot be saved to %s: %s; it goes on in memory and tries again",
                short_name(self.path),
                problem,
            )
        self._problem = problem

    def _say_saved(self) -> None:
        if self._problem:
            _logger.warning("the memory is saved to %s again", short_name(self.path))
        self._problem = ""


def _locked(path: Path) -> IO[bytes]:
    """A lock beside the file, which ends with the process; SQLite's own would keep readers out as well.

    Raises:
        MemoryFileError: Another process holds it, or it cannot be made.
    """
    try:
        lock = path.with_name(f"{path.name}.lock").open("ab")
    except OSError as error:
        raise MemoryFileError(f"cannot open the memory file {short_name(path)}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise MemoryFileError(
            f"the memory file {short_name(path)} is in use by another process; stop that one, or open the file for "
            "reading only"
        ) from None
    return lock


def _release(lock: IO[bytes]) -> None:
    lock.close()
