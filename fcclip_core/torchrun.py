"""What `torchrun` tells each process that it starts; needs no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass

from fcclip_core.errors import FcclipError

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables of the environment that `torchrun` sets for each process."""


@dataclass(frozen=True)
class Place:
    """A process among those of its run.

    Attributes:
        rank: Its number, from 0.
        size: Number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether it is the process that talks."""
        return self.rank == 0


def is_started_by_torchrun() -> bool:
    """Whether all of `VARIABLES` are set: clusters and containers set single ones for reasons of their own."""
    return set(VARIABLES) <= os.environ.keys()


def place() -> Place:
    """The place of this process; that of a process alone without `torchrun`.

    Raises:
        FcclipError: The variables hold no numbers, or contradict each other.
    """
    if not is_started_by_torchrun():
        return Place()
    rank, size = _number("RANK"), _number("WORLD_SIZE")
    if rank >= size:
        raise FcclipError(f"RANK is {rank} and WORLD_SIZE {size} in the environment; expected a smaller RANK")
    return Place(rank, size)


def local_rank() -> int:
    """The number of this process among those of its machine, from 0, which is also that of its GPU.

    Raises:
        FcclipError: LOCAL_RANK is no number.
    """
    text = os.environ.get("LOCAL_RANK", "0")
    if not text.isdecimal():
        raise FcclipError(f"LOCAL_RANK is {text!r} in the environment; expected the number of a GPU")
    return int(text)


def described() -> str:
    """The variables as the environment has them, for messages."""
    return ", ".join(f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ)


def _number(name: str) -> int:
    text = os.environ[name]
    if not text.isdecimal():
        raise FcclipError(
            f"{name} is {text!r} in the environment; expected a number. Start with torchrun, or unset RANK to run alone"
        )
    return int(text)
