"""What the object memory is asked after the drive: names that are kept out of every vocabulary until then. No ROS."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from demo.truth import TrueThing
from fcclip_core.simulation.names import pairs, thing_name

COUNT = 3
"""Questions for things that are there."""

_A_ROOM, _IN_ALL = 2, 6
"""Things whose names are kept out: of each room at most, and in all."""

_NOT_THERE = ("red mug", "blue star", "green cone")


@dataclass(frozen=True, eq=False)
class Asked:
    """Words that no frame was labeled with.

    Attributes:
        words: What is looked for.
        thing: What the words name; None if nothing of that name stands anywhere.
    """

    words: str
    thing: TrueThing | None


def keep_out(things: Sequence[TrueThing]) -> list[Asked]:
    """What may be asked: things whose look is rare in their rooms, near the middle, and the last that is nowhere.

    Only things that no other has the name of, so that there is one right answer.
    """
    counts = Counter(thing.name for thing in things)
    rooms = {thing.room for thing in things}
    most = _A_ROOM if len(rooms) > 1 else _IN_ALL
    chosen = []
    for room in sorted(rooms):
        ranked = _by_rare_look([thing for thing in things if thing.room == room])
        chosen += [thing for thing in ranked if counts[thing.name] == 1][:most]
    every = (*_NOT_THERE, *(thing_name(*pair) for pair in pairs("all")))
    absent = next(name for name in every if name not in counts)
    return [*(Asked(thing.name, thing) for thing in chosen), Asked(absent, None)]


def choose_questions(kept_out: Sequence[Asked], shown: Mapping[str, int]) -> list[Asked]:
    """Asks for the things that most frames showed, from different rooms first, and for what is nowhere.

    Args:
        kept_out: What may be asked.
        shown: Frames in which a thing was segmented, by name.
    """
    there = sorted((asked for asked in kept_out if asked.thing), key=lambda asked: -shown.get(asked.words, 0))
    rooms = [asked.thing.room for asked in there if asked.thing]
    first = [asked for number, asked in enumerate(there) if rooms[number] not in rooms[:number]]
    others = [asked for asked in there if asked not in first]
    return [*(*first, *others)[:COUNT], *(asked for asked in kept_out if asked.thing is None)]


def _by_rare_look(things: Sequence[TrueThing]) -> list[TrueThing]:
    """A room's things, first those whose look the fewest have; of these, first the one nearest to the middle."""
    looks = Counter(_look(thing) for thing in things)
    middle = np.mean([thing.position for thing in things], axis=0)
    return sorted(things, key=lambda thing: (looks[_look(thing)], float(np.linalg.norm(thing.position - middle))))


def _look(thing: TrueThing) -> str:
    return thing.name.partition(" ")[0]
