"""Names that hold still: the class of a thing is voted over the frames in which it was seen."""

from __future__ import annotations

import numpy as np

FORGETTING = 0.8
"""Weight of a frame's probabilities against those of the next frame in which the thing is seen.

Chosen by drives in the simulated world (docs/reference/results.md): names changed less than half as often, and more
were right than with 0.7 or 0.9. However long a thing was surely a cup, if each frame has a plate ahead by one half or
more it is a plate by the fifth: after n frames `FORGETTING ** n` of the votes are old.
"""


class Votes:
    """A thing's class probabilities over its frames: a mean in which older frames count less and less.

    The frame that was seen n frames ago has the weight `FORGETTING ** n`. Frames without the thing do not count.
    """

    def __init__(self) -> None:
        """Starts without a vote."""
        self._sum: np.ndarray | float = 0.0
        self._weight = 0.0

    def cast(self, probabilities: np.ndarray) -> None:
        """Takes the newest frame's `(C,)`; what is missing to 1 is void's."""
        self._sum = FORGETTING * self._sum + probabilities
        self._weight = FORGETTING * self._weight + 1.0

    @property
    def mean(self) -> np.ndarray:
        """Float32 `(C,)`; of one vote at least."""
        return np.asarray(self._sum / self._weight, np.float32)


def elect(probabilities: np.ndarray, may_win: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The class of each thing.

    Args:
        probabilities: float32 `(S, C)`, the mean of each thing's votes.
        may_win: bool `(C,)`, the classes that a thing can have; at least one.

    Returns:
        Index of the class with the largest probability among those that may win, int64 `(S,)`, the first of equal ones;
        and that probability, float32 `(S,)`.
    """
    allowed = np.flatnonzero(may_win)
    winners = allowed[probabilities[:, allowed].argmax(1)]
    return winners, probabilities[np.arange(len(winners)), winners]
