"""Stable classes: the class of a thing is voted over the frames in which it was seen."""

from __future__ import annotations

import numpy as np

FORGETTING = 0.8
"""Weight of a frame's probabilities relative to those of the next frame in which the thing is seen.

Chosen on drives through the simulated world (docs/reference/results.md): classes changed less than half as often, and
more of them were correct than with 0.7 or 0.9. After n frames, `FORGETTING ** n` of the votes are old: a thing that was
certainly a cup for any time becomes a plate by the fifth frame in which plate leads by one half or more.
"""


class Votes:
    """Exponentially weighted mean of a thing's class probabilities over its frames.

    A frame n frames ago has the weight `FORGETTING ** n`. Frames without the thing are not counted.
    """

    def __init__(self) -> None:
        """Starts without votes."""
        self._sum: np.ndarray | float = 0.0
        self._weight = 0.0

    def cast(self, probabilities: np.ndarray) -> None:
        """Adds the newest frame's probabilities `(C,)`; the remainder to 1 is void's."""
        self._sum = FORGETTING * self._sum + probabilities
        self._weight = FORGETTING * self._weight + 1.0

    @property
    def mean(self) -> np.ndarray:
        """Float32 `(C,)`; requires at least one vote."""
        return np.asarray(self._sum / self._weight, np.float32)


def elect(probabilities: np.ndarray, may_win: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The class of each thing.

    Args:
        probabilities: float32 `(S, C)`, the mean of each thing's votes.
        may_win: bool `(C,)`, the allowed classes; at least one.

    Returns:
        Index of the most probable allowed class, int64 `(S,)`, the first of equal ones; and its probability, float32
        `(S,)`.
    """
    allowed = np.flatnonzero(may_win)
    winners = allowed[probabilities[:, allowed].argmax(1)]
    return winners, probabilities[np.arange(len(winners)), winners]
