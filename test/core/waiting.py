"""Waiting for other threads."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_for(done: Callable[[], object], seconds: float = 30.0) -> None:
    """Waits until `done` returns something true."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, f"waited for {seconds:g} s in vain"
        time.sleep(0.005)
