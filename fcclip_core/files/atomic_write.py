"""Files that are whole or not there: written in a hidden folder beside their place and moved into it."""

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
"""How the names of the hidden folders begin."""

_LOCK = "fcclip-lock"
_UNLOCKED_AGE = 24 * 3600.0
"""Seconds after which a hidden folder without a lock file is a leftover: its owner died while it made the folder."""

_swept: set[tuple[int, int]] = set()
_sweeping = threading.Lock()


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Gives the path of a hidden file beside `path` to write to, and moves it there when the block succeeds.

    Whatever stops the block, Ctrl-C too, `path` is either complete or untouched. The hidden file has the name that
    `path` has. What a process that was killed left behind in the folder goes away when another one writes there. A
    device, or a pipe that this process was given (`/dev/stdout`), cannot be replaced: it gets the finished contents.

    Raises:
        OSError: The disk refuses; its `filename` is `path`.
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
    """Gives a new folder to fill, which takes the place of `path` when the block succeeds.

    Whatever stops the block, what was at `path` is either replaced as a whole or untouched. The new folder has the name
    that it is going to have.

    Raises:
        OSError: The disk refuses; its `filename` is `path`.
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
    """Writes a file that is whole or not there.

    Raises:
        OSError: The disk refuses; its `filename` is `path`.
    """
    with atomic_write(path) as part:
        try:
            part.write_bytes(content)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error


def require_writable(path: Path) -> None:
    """Tries whether a file could be written there, before hours go into what is to be written.

    Raises:
        OSError: It could not; its `filename` is `path`.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not _is_special(path):
        with _hidden_folder(path):
            pass


def sweep(folder: Path) -> None:
    """Removes what processes left in a folder that were killed while they wrote there.

    The hidden folder of a process that lives, on another machine too, is locked and stays.
    """
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(PREFIX) and entry.is_dir(follow_symlinks=False):
                _remove_if_left(Path(entry.path))


def _is_special(path: Path) -> bool:
    """Whether a path is a device or one of this process's own pipes.

    A pipe that somebody put into a folder is replaced as a file is: whoever opens it waits until somebody reads.
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
    """A hidden folder beside `path`, locked for as long as the block lasts."""
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
    """Holds a folder's lock, which ends with the process however it ends."""
    new = folder / f"{_LOCK}.new"
    with new.open("wb") as lock:
        # Some network file systems have no locks; a leftover there waits for nothing worse than to be swept by hand.
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        # It gets its name when it is held: whoever finds a lock that is free finds a leftover.
        new.rename(folder / _LOCK)
        yield


def _sweep_once(folder: Path) -> None:
    """Sweeps a folder before the first file that this process writes there."""
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
        return  # somebody holds it, or it is somebody else's
