"""The embeddings of segments that a camera saw lately: what examples are compared with words by."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from fcclip_core.results import Segment
from fcclip_core.vocabulary.examples import distinct

_KEPT = 600
_PERIOD = 1.0
"""Seconds between two frames of which the segments are kept; frames in between show much the same."""


class SeenSegments:
    """Keeps the latest different segments; may be used from several threads."""

    def __init__(self) -> None:
        """Starts with none."""
        self._lock = threading.Lock()
        self._rows = np.zeros((0, 0), np.float32)
        self._due = 0.0

    def add(self, segments: Sequence[Segment], time: float) -> None:
        """Takes a frame's segments, unless the last frame that counted was less than a second ago.

        Args:
            segments: Of one frame.
            time: Monotonic, in seconds.
        """
        with self._lock:
            if time < self._due or not segments:
                return
            self._due = time + _PERIOD
            new = np.stack([segment.embedding for segment in segments])
            new = new[np.abs(np.linalg.norm(new, axis=1) - 1) < 1e-2]
            earlier = self._rows if self._rows.shape[1] == new.shape[1] else new[:0]
            self._rows = distinct(np.concatenate((new, earlier)))[:_KEPT]

    def clear(self) -> None:
        """Forgets all of them."""
        with self._lock:
            self._rows, self._due = np.zeros((0, 0), np.float32), 0.0

    @property
    def rows(self) -> np.ndarray:
        """Unit embeddings, the latest first: float32 `(N, D)`."""
        with self._lock:
            return self._rows
