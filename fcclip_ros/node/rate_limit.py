"""A limit on how often something happens."""

from __future__ import annotations

import math
import time


class RateLimit:
    """Lets events through at a rate on average: one that comes early for its turn makes up for one that was late.

    Without that, a camera at just this rate would lose every other frame to its jitter.
    """

    def __init__(self) -> None:
        """Lets the first event through."""
        self._turn = -math.inf
        """Monotonic time of the latest turn, in seconds."""

    def is_due(self, rate: float) -> bool:
        """Whether an event may happen now, at a rate in Hz above 0; another rate than before takes effect at once."""
        return time.monotonic() >= self._turn + 1.0 / rate

    def spend(self, rate: float) -> None:
        """Counts an event that happens now."""
        now, period = time.monotonic(), 1.0 / rate
        # After a pause one event is made up for, not all that were possible.
        self._turn = now if self._turn == -math.inf else max(self._turn + period, now - period)
