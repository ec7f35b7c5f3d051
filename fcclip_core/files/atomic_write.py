"""Atomic writing: files are written in a hidden folder next to their destination and then moved."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

PREFIX = ".fcclip-part-"
"""Prefix of the hidden folders' names."""

_LOCK = "fcclip-lock"
_UNLOCKED_AGE = 24 * 3600.0
"""Age in seconds at which a hidden folder without a lock file is a leftover of a process killed while creating it."""

_swept: set[tuple[int, int]] = set()
_sweeping = threading.Lock()


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a hidden file next to `path` to write to, and moves it to `path` when the block succeeds.

    If the block fails, also by Ctrl-C, `path` is unchanged. The hidden file has the same name as `path`. Leftovers of
    killed processes in the folder are removed when another process writes there. A device, or a pipe of this process
    (`/dev/stdout`), cannot be replaced: the finished content is copied to it.

    Raises:
        OSError: The file cannot be written; its `filename` is `path`.
    """
    if _is_special(path):
        with tempfile.TemporaryDirectory() as folder:
            part = Path(folder) / path.name
            yield part
            with part.open("rb") as source, path.open("wb") as target:
                shutil.copyfileobj(source, target)
        return
    with _hidden_folder(path) as folder:
        part = folder / path.name
        yield part
        os.replace(part, path)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yields a new folder to fill, which replaces `path` when the block succeeds.

    If the block fails, `path` is unchanged. The new folder has the same name as `path`.

    Raises:
        OSError: The folder cannot be written; its `filename` is `path`.
    """
    with _hidden_folder(path) as hidden:
        folder, old = hidden / "new" / path.name, hidden / "old"
        folder.mkdir(parents=True)
        yield folder
        if path.exists():
            path.rename(old)
        try:
            folder.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file atomically.

    Raises:
        OSError: The file cannot be written; its `filename` is `path`.
    """
    with atomic_write(path) as part:
        try:
            part.write_bytes(content)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error


def require_writable(path: Path) -> None:
    """Checks that a file can be written, before hours are spent on its content.

    Raises:
        OSError: It cannot; its `filename` is `path`.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not _is_special(path):
        with _hidden_folder(path):
            pass


def sweep(folder: Path) -> None:
    """Removes leftovers of processes that were killed while writing to a folder.

    Hidden folders of running processes, also on other machines, are locked and kept.
    """
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(PREFIX) and entry.is_dir(follow_symlinks=False):
                _remove_if_left(Path(entry.path))


def _is_special(path: Path) -> bool:
    """Whether a path is a device or one of this process's pipes.

    A named pipe in a normal folder is replaced like a file, because opening it would block until it is read.
    """
    try:
        mode = path.stat().st_mode
        folder = os.path.realpath(path.parent)
    except (OSError, ValueError):
        return False
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return False
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode) or folder.startswith(("/dev", "/proc"))


@contextlib.contextmanager
def _hidden_folder(path: Path) -> Iterator[Path]:
    """Creates a hidden folder next to `path`, locked inside the block."""
    _sweep_once(path.parent)
    try:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=path.parent))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    try:
        with _locked(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds a folder's lock, which is released when the process ends for any reason."""
    new = folder / f"{_LOCK}.new"
    with new.open("wb") as lock:
        # Some network file systems have no locks; leftovers there must be removed manually.
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        # Renamed after locking, so that a lock file that is not locked is always a leftover.
        new.rename(folder / _LOCK)
        yield


def _sweep_once(folder: Path) -> None:
    """Sweeps a folder before this process first writes there."""
    with contextlib.suppress(OSError):
        found = folder.stat()
        with _sweeping:
            if (found.st_dev, found.st_ino) in _swept:
                return
            _swept.add((found.st_dev, found.st_ino))
        sweep(folder)


def _remove_if_left(folder: Path) -> None:
    try:
        with (folder / _LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except FileNotFoundError:
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > _UNLOCKED_AGE:
                shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        return  # locked, or owned by another user
