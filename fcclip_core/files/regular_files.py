"""Opening files that somebody names: a pipe, a device or a socket under that name must not stop the program."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class NotRegularError(OSError):
    """Something else than a file of bytes has the name.

    Attributes:
        what: What it is, with its article.
    """

    def __init__(self, path: Path, what: str) -> None:
        """`what` has the name `path`."""
        super().__init__(f"{path} is {what}, not a file")
        self.what = what


def open_regular(path: Path) -> BinaryIO:
    """Opens a file for reading, without waiting for anybody to write.

    Raises:
        FileNotFoundError: There is none.
        NotRegularError: It is no regular file; says what it is.
        OSError: It cannot be opened.
    """
    try:
        kind = os.stat(path)
        _require_regular(path, kind)  # opening a device may do something already
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:  # a zero byte in the name
        raise OSError(errno.EINVAL, f"{str(path)[:80]!r} is no name of a file: {error}") from error
    try:
        _require_regular(path, os.fstat(handle))
    except OSError:
        os.close(handle)
        raise
    return os.fdopen(handle, "rb")


def read_regular_file(path: Path, most: int) -> bytes:
    """Reads a whole file.

    Args:
        path: The file.
        most: Bytes that are read at most.

    Raises:
        OSError: It cannot be read, is no regular file, or is larger; `strerror` says which.
    """
    try:
        with open_regular(path) as file:
            content = file.read(most + 1)
    except NotRegularError as error:
        raise OSError(errno.EINVAL, f"it is {error.what}; expected a regular file") from error
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it is larger than {most:,} bytes, which is the most that is read")
    return content


def _require_regular(path: Path, about: os.stat_result) -> None:
    if not stat.S_ISREG(about.st_mode):
        what = next((name for is_kind, name in _KINDS if is_kind(about.st_mode)), "no file")
        raise NotRegularError(path, what)
