"""What happened to the frames: counts, rates and latencies, gathered from several threads."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

_WINDOW = 5.0
"""Seconds that rates and "lately" look back on."""

_TIMED_FRAMES = 50


@dataclass(frozen=True)
class Counts:
    """Counts since the node started. A frame received but in no other count is being worked on.

    Attributes:
        received: Frames that came from the camera while the node was active and enabled.
        labeled: Frames whose outputs were published.
        batched: Those of them that went through the network together with other cameras' frames.
        dropped: Frames that a newer one replaced before the model was free, or that were left when the node stopped.
        bad: Frames that are no valid image.
        failed: Frames on which the model raised an error.
        refused: Requests for a vocabulary or an image that could not be served.
        errors: Other things that went wrong, a callback that raised for example.
    """

    received: int = 0
    labeled: int = 0
    batched: int = 0
    dropped: int = 0
    bad: int = 0
    failed: int = 0
    refused: int = 0
    errors: int = 0


@dataclass(frozen=True)
class LastError:
    """The latest thing that went wrong, and how long ago.

    Attributes:
        kind: The counter that it went into: "bad", "failed", "refused" or "errors".
        text: What was wrong.
        age: Seconds since then.
    """

    kind: str
    text: str
    age: float

    @property
    def recent(self) -> bool:
        """Whether it happened within the window that rates are taken over."""
        return self.age < _WINDOW


@dataclass(frozen=True)
class Report:
    """A consistent view of the statistics.

    Attributes:
        counts: Frames since the node started.
        input_rate: Frames received per second, over the last seconds.
        output_rate: Frames labeled per second, over the last seconds.
        latencies: Stage -> (mean, largest) in seconds, over the last frames, in the order of the stages.
        last_error: The latest error, or None.
        failure: What the model raised on the latest frame; empty if that was labeled.
    """

    counts: Counts
    input_rate: float
    output_rate: float
    latencies: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    last_error: LastError | None = None
    failure: str = ""


class Statistics:
    """Gathers statistics. Safe to use from several threads."""

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
        """The stream begins anew, perhaps with another model; what the last one failed on does not count."""
        with self._lock:
            self._failure = ""

    def received(self) -> None:
        """A frame came in."""
        with self._lock:
            self._counts["received"] += 1
            self._received.append(time.monotonic())

    def dropped(self) -> None:
        """A frame will never be looked at."""
        with self._lock:
            self._counts["dropped"] += 1

    def labeled(self, latencies: Mapping[str, float], batched: bool = False) -> None:
        """A frame was published.

        Args:
            latencies: Seconds per stage.
            batched: Whether it went through the network together with others.
        """
        with self._lock:
            self._counts["labeled"] += 1
            self._counts["batched"] += batched
            self._labeled.append(time.monotonic())
            self._failure = ""
            for stage, seconds in latencies.items():
                self._latencies.setdefault(stage, deque(maxlen=_TIMED_FRAMES)).append(seconds)

    def bad(self, reason: str) -> None:
        """A frame was no valid image."""
        self._went_wrong("bad", reason)

    def failed(self, reason: str) -> None:
        """The model raised an error on a frame."""
        with self._lock:
            self._failure = reason
        self._went_wrong("failed", reason)

    def refused(self, reason: str) -> None:
        """A request could not be served."""
        self._went_wrong("refused", reason)

    def error(self, reason: str) -> None:
        """Something went wrong that is no frame's fault."""
        self._went_wrong("errors", reason)

    def report(self) -> Report:
        """The statistics now."""
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

    def _went_wrong(self, kind: str, reason: str) -> None:
        with self._lock:
            self._counts[kind] += 1
            self._error = (kind, reason, time.monotonic())


def _rate(times: deque[float], now: float) -> float:
    """Events per second within the window; forgets those before it."""
    while times and times[0] < now - _WINDOW:
        times.popleft()
    return len(times) / _WINDOW
