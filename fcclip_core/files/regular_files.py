"""Opens files named by users: a pipe, a device or a socket must not block the program."""

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
    """The path is not a regular file.

    Attributes:
        what: What it is, with an article.
    """

    def __init__(self, path: Path, what: str) -> None:
        """`path` is `what`."""
        super().__init__(f"{path} is {what}, not a file")
        self.what = what


def open_regular(path: Path) -> BinaryIO:
    """Opens a file for reading without blocking.

    Raises:
        FileNotFoundError: There is no such file.
        NotRegularError: It is not a regular file; says what it is.
        OSError: It cannot be opened.
    """
    try:
        kind = os.stat(path)
        _require_regular(path, kind)  # opening a device may have side effects
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:  # a zero byte in the name
        raise OSError(errno.EINVAL, f"{str(path)[:80]!r} is not a file name: {error}") from error
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
        most: Largest size in bytes.

    Raises:
        OSError: It cannot be read, is not a regular file, or is larger; `strerror` says which.
    """
    try:
        with open_regular(path) as file:
            content = file.read(most + 1)
    except NotRegularError as error:
        raise OSError(errno.EINVAL, f"it is {error.what}; expected a regular file") from error
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it is larger than the limit of {most:,} bytes")
    return content


def _require_regular(path: Path, about: os.stat_result) -> None:
    if not stat.S_ISREG(about.st_mode):
        what = next((name for is_kind, name in _KINDS if is_kind(about.st_mode)), "a special file")
        raise NotRegularError(path, what)
