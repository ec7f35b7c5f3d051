"""What the object memory is asked after the drive: names that are kept out of every vocabulary until then. No ROS."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from demo.truth import TrueThing
from fcclip_core.simulation.names import pairs, thing_name

COUNT = 3

_NOT_THERE = ("red mug", "blue star", "green cone")


@dataclass(frozen=True)
class Asked:
    """Words that no frame was labeled with.

    Attributes:
        words: What is looked for.
        thing: What the words name; None if nothing of that name stands anywhere.
    """

    words: str
    thing: TrueThing | None


def choose_questions(things: Sequence[TrueThing]) -> list[Asked]:
    """Asks for things in the middle of their rooms, one room after the other, and for one that is nowhere.

    Only for things that no other has the name of, so that there is one right answer.
    """
    counts = Counter(thing.name for thing in things)
    queues = []
    for room in sorted({thing.room for thing in things}):
        here = [thing for thing in things if thing.room == room]
        middle = np.mean([thing.position for thing in here], axis=0)
        single = [thing for thing in here if counts[thing.name] == 1]
        queues.append(sorted(single, key=lambda thing: float(np.linalg.norm(thing.position - middle))))
    in_turn = (queue[rank] for rank in range(COUNT) for queue in queues if rank < len(queue))
    chosen = [thing for thing, _ in zip(in_turn, range(COUNT), strict=False)]
    every = (*_NOT_THERE, *(thing_name(*pair) for pair in pairs("all")))
    absent = next(name for name in every if name not in counts)
    return [*(Asked(thing.name, thing) for thing in chosen), Asked(absent, None)]
