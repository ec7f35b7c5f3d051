"""Frame statistics: counts, rates and latencies, collected from several threads."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

_WINDOW = 5.0
"""Seconds over which rates are averaged and an error counts as recent."""

_TIMED_FRAMES = 50


@dataclass(frozen=True)
class Counts:
    """Counts since the node started. A frame that is received but in no other count is being processed.

    Attributes:
        received: Frames that arrived while the node was active and enabled.
        labeled: Frames whose outputs were published.
        batched: Labeled frames that were processed in one batch with frames of other cameras.
        left_out: Frames beyond the parameter max_rate.
        dropped: Frames that were replaced by a newer one before inference, or were queued when the node stopped.
        bad: Frames that are not a valid image.
        failed: Frames on which the model raised an error.
        refused: Requests that were rejected.
        errors: Other errors, such as a callback that raised.
    """

    received: int = 0
    labeled: int = 0
    batched: int = 0
    left_out: int = 0
    dropped: int = 0
    bad: int = 0
    failed: int = 0
    refused: int = 0
    errors: int = 0


@dataclass(frozen=True)
class LastError:
    """The latest error.

    Attributes:
        kind: Its counter: "bad", "failed", "refused" or "errors".
        text: Description.
        age: Seconds since it occurred.
    """

    kind: str
    text: str
    age: float

    @property
    def recent(self) -> bool:
        """Whether it occurred within the averaging window of the rates."""
        return self.age < _WINDOW


@dataclass(frozen=True)
class Report:
    """A consistent snapshot of the statistics.

    Attributes:
        counts: Counts since the node started.
        input_rate: Frames received per second, over the last seconds.
        output_rate: Frames labeled per second, over the last seconds.
        latencies: Stage -> (mean, maximum) in seconds, over the last frames, in the order of the stages.
        last_error: The latest error, or None.
        failure: The model's error on the latest frame; empty if that frame was labeled.
    """

    counts: Counts
    input_rate: float
    output_rate: float
    latencies: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    last_error: LastError | None = None
    failure: str = ""


class Statistics:
    """Collects statistics. Thread-safe."""

    def __init__(self) -> None:
        """Starts at zero."""
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(Counts.__dataclass_fields__, 0)
        self._received: deque[float] = deque()
        self._labeled: deque[float] = deque()
        self._latencies: dict[str, deque[float]] = {}
        self._error: tuple[str, str, float] | None = None
        self._failure = ""

    def restarted(self) -> None:
        """Forgets the latest failure: the stream restarts, perhaps with another model."""
        with self._lock:
            self._failure = ""

    def received(self) -> None:
        """Counts a frame that arrived."""
        with self._lock:
            self._receive()

    def left_out(self) -> None:
        """Counts a frame that arrived and is not labeled because of the parameter max_rate."""
        with self._lock:
            self._receive()
            self._counts["left_out"] += 1

    def dropped(self) -> None:
        """Counts a frame that was dropped."""
        with self._lock:
            self._counts["dropped"] += 1

    def labeled(self, latencies: Mapping[str, float], batched: bool = False) -> None:
        """Counts a frame whose outputs were published.

        Args:
            latencies: Seconds per stage.
            batched: Whether it was processed in one batch with others.
        """
        with self._lock:
            self._counts["labeled"] += 1
            self._counts["batched"] += batched
            self._labeled.append(time.monotonic())
            self._failure = ""
            for stage, seconds in latencies.items():
                self._latencies.setdefault(stage, deque(maxlen=_TIMED_FRAMES)).append(seconds)

    def bad(self, reason: str) -> None:
        """Counts a frame that is not a valid image."""
        self._record("bad", reason)

    def failed(self, reason: str) -> None:
        """Counts a frame on which the model raised an error."""
        with self._lock:
            self._failure = reason
        self._record("failed", reason)

    def refused(self, reason: str) -> None:
        """Counts a request that was rejected."""
        self._record("refused", reason)

    def error(self, reason: str) -> None:
        """Counts an error that concerns no frame or request."""
        self._record("errors", reason)

    def report(self) -> Report:
        """The current statistics."""
        now = time.monotonic()
        with self._lock:
            return Report(
                counts=Counts(**self._counts),
                input_rate=_rate(self._received, now),
                output_rate=_rate(self._labeled, now),
                latencies={stage: (sum(row) / len(row), max(row)) for stage, row in self._latencies.items()},
                last_error=LastError(*self._error[:2], now - self._error[2]) if self._error else None,
                failure=self._failure,
            )

    def _receive(self) -> None:
        self._counts["received"] += 1
        self._received.append(time.monotonic())

    def _record(self, kind: str, reason: str) -> None:
        with self._lock:
            self._counts[kind] += 1
            self._error = (kind, reason, time.monotonic())


def _rate(times: deque[float], now: float) -> float:
    """Events per second within the window; drops older ones."""
    while times and times[0] < now - _WINDOW:
        times.popleft()
    return len(times) / _WINDOW
