"""What an observation led to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fcclip_core.memory.objects import RememberedObject, State


@dataclass(frozen=True)
class Outcome:
    """What an observation led to.

    Attributes:
        ids: Id of the object for each segment of the observation, in their order; 0 for segments that are not
            remembered.
        created: Ids that are new; their objects are tentative.
        confirmed: Ids of objects that are confirmed now and were not before.
        gone: Ids of objects that were confirmed and whose place has been seen empty.
        joined: Former id -> id, for objects that turned out to be one: duplicates, and what was found elsewhere.
        moved: Ids of objects that were found at another place; they kept their ids.
        dropped: Ids of objects that are no longer remembered: never confirmed and not seen again, or beyond the limit.
    """

    ids: tuple[int, ...]
    created: tuple[int, ...] = ()
    confirmed: tuple[int, ...] = ()
    gone: tuple[int, ...] = ()
    joined: Mapping[int, int] = field(default_factory=dict)
    moved: tuple[int, ...] = ()
    dropped: tuple[int, ...] = ()


class Events:
    """What happens during an observation."""

    def __init__(self) -> None:
        """Nothing has happened yet."""
        self.created: list[int] = []
        self.confirmed: list[int] = []
        self.gone: list[int] = []
        self.doubted: list[int] = []
        self.moved: list[int] = []
        self.dropped: list[int] = []
        self.joined: dict[int, int] = {}

    def compare(self, before: RememberedObject | None, after: RememberedObject) -> None:
        """Notes a change of state, and of belief."""
        if before is not None and after.state is not State.TENTATIVE and after.log_odds < before.log_odds:
            self.doubted.append(after.id)
        if before is None or before.state is not after.state:
            if after.state is State.CONFIRMED:
                self.confirmed.append(after.id)
            elif after.state is State.GONE:
                self.gone.append(after.id)

    def now(self, number: int) -> int:
        """The id that an object has after all joins; 0 if it was dropped."""
        while number in self.joined:
            number = self.joined[number]
        return 0 if number in self.dropped else number

    def outcome(self, ids: Sequence[int]) -> Outcome:
        """The events as a record."""
        return Outcome(
            tuple(ids),
            tuple(self.created),
            tuple(number for number in self.confirmed if number not in self.joined),
            tuple(number for number in self.gone if number not in self.moved),
            dict(self.joined),
            tuple(self.moved),
            tuple(self.dropped),
        )
