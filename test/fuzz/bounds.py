"""What may not happen while an input is read: errors outside the family, memory and time out of proportion."""

from __future__ import annotations

import contextlib
import ctypes
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from fcclip_core.errors import FcclipError

MEMORY_PER_BYTE = 10
"""Bytes that may be taken for each byte of the input."""

MEMORY = 64 << 20
"""Bytes that may be taken besides."""

SECONDS = 10.0
"""Longest that one input may take."""

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


class OutOfBounds(AssertionError):
    """An input took more memory or time than its bytes allow."""


class _TooLong(BaseException):
    """Not an Exception: nobody may take it for the input's own fault."""


def read_within_bounds(read: Callable[[bytes], None], data: bytes, memory: int = MEMORY) -> None:
    """Reads one input.

    Args:
        read: Reads it; an FcclipError is an answer like any other.
        data: The input.
        memory: Bytes that may be taken besides `MEMORY_PER_BYTE` for each byte.

    Raises:
        OutOfBounds: It took too long or too much memory.
        Exception: What `read` raised, if that is no FcclipError.
    """
    before = _restart_peak()
    try:
        with _time_limit(), contextlib.suppress(FcclipError):
            read(data)
    except _TooLong:
        raise OutOfBounds(f"{len(data):,} bytes took longer than {SECONDS:g} s") from None
    taken, allowed = _peak() - before, MEMORY_PER_BYTE * len(data) + memory
    if taken > allowed:
        raise OutOfBounds(f"{len(data):,} bytes took {taken >> 20:,} MiB of memory; allowed are {allowed >> 20:,}")


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise _TooLong

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, previous)


def _restart_peak() -> int:
    """Makes the kernel measure the peak from here on; returns what is taken now, in bytes.

    What earlier inputs gave back goes to the kernel first: out of that, the next one could take any amount unseen.
    """
    ctypes.CDLL(None).malloc_trim(0)
    _CLEAR.write_text("5")
    return _peak()


def _peak() -> int:
    (line,) = (line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) << 10
