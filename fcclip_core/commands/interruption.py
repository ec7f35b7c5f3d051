"""SIGTERM and SIGHUP as what Ctrl-C is: an exception, so that a run cleans up before it ends."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """A signal asked the process to end.

    Attributes:
        number: The signal's.
    """

    def __init__(self, number: int) -> None:
        """Keeps the number."""
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Makes the first SIGTERM or SIGHUP raise `Interrupted` in the block.

    A signal that is ignored (by `nohup`, say) or has a handler already is not changed; in other threads than the main
    one this does nothing.
    """
    previous = {}
    if threading.current_thread() is threading.main_thread():
        previous = {number: signal.getsignal(number) for number in _SIGNALS}
        previous = {number: handler for number, handler in previous.items() if handler is signal.SIG_DFL}

    def interrupt(number: int, frame: FrameType | None) -> None:
        # Another one would break into the cleaning up.
        for other in previous:
            signal.signal(other, signal.SIG_IGN)
        raise Interrupted(number)

    for number in previous:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def exit_status(error: KeyboardInterrupt) -> int:
    """What a shell says of a process that a signal ended: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + (error.number if isinstance(error, Interrupted) else signal.SIGINT)
