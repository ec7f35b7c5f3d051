"""Shares the inputs of `fcclip segment` among the processes that `torchrun` started, through torch's store."""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcclip_core.commands.segment_jobs import Job
from fcclip_core.commands.segment_outcomes import Display, Outcome, Tally
from fcclip_core.commands.segment_records import state_of
from fcclip_core.errors import FcclipError

if TYPE_CHECKING:
    from fcclip_core.distributed import SharedStore
    from fcclip_core.torchrun import Place

_POLLED = 0.2
"""Seconds between two looks at what the processes have reported."""
_PARTING = 10.0
"""Seconds in which the others must have heard that it is over."""
_REPORTED = 0.5
"""Seconds between two reports of a video's or bag's frames."""


def largest_first(jobs: Sequence[Job]) -> list[Job]:
    """Jobs in the order of their inputs' bytes: a bag that is begun last would keep one process alone at work."""
    return sorted(jobs, key=lambda job: -int(state_of(job.source).get("size", 0)))


@dataclass(frozen=True)
class Plan:
    """What all processes must agree on; the first one makes it, the others ask for it.

    Attributes:
        jobs: All inputs, in the order in which they are handed out.
        token: What the run calls itself.
    """

    jobs: Sequence[Job]
    token: str

    def answer(self, store: SharedStore, place: Place) -> None:
        """Gives the plan to those that have asked."""
        for rank in range(1, place.size):
            if question := store.take(f"question/{rank}"):
                rows = [[os.fspath(job.source), job.stem, job.kind] for job in self.jobs]
                store.put(f"answer/{question}", [rows, self.token])

    @classmethod
    def asked_for(cls, store: SharedStore, place: Place) -> Plan:
        """The plan of the first process, as soon as it has one.

        A plan that is there already may be of an attempt that was killed: the answer must be to this question.
        """
        question = secrets.token_hex(8)
        store.put(f"question/{place.rank}", question)
        rows, token = store.wait_for(f"answer/{question}")
        return cls([Job(Path(source), stem, kind) for source, stem, kind in rows], token)


def handed_out(store: SharedStore, count: int) -> Iterator[int]:
    """Numbers of jobs below `count`, each to one process; asked for when the one before is done."""
    while (number := store.count("job")) < count:
        yield number


def end_together(store: SharedStore, place: Place, code: int | None = None) -> int:
    """Ends the run: the first process gives the exit code, the others wait for it.

    Not before, because where a machine's processes end long before the others', `torchrun` stops waiting for them.

    Args:
        store: Shared by all processes.
        place: This process's.
        code: The exit code, in the first process.

    Returns:
        The exit code.
    """
    if not place.is_first:
        code = int(store.wait_for("over"))
        store.count("left")
        return code
    store.put("over", code)
    end = time.monotonic() + _PARTING
    # Where no agent of torchrun keeps the store, it is gone with this process.
    while store.find("left") != place.size - 1 and time.monotonic() < end:
        time.sleep(_POLLED)
    return int(code or 0)


class StoreReports:
    """Reports to the first process."""

    def __init__(self, store: SharedStore, place: Place) -> None:
        """Begins with the first message."""
        self._store = store
        self._rank = place.rank
        self._numbers = itertools.count()
        self._last = -_REPORTED

    def finished(self, number: int, outcome: Outcome) -> None:
        """See `Reports`."""
        self._send({"number": number, "outcome": asdict(outcome)})

    def frames(self, name: str, done: int, announced: int) -> None:
        """See `Reports`; not every frame is told."""
        now = time.monotonic()
        if name and now - self._last < _REPORTED:
            return
        self._last = now if name else -_REPORTED
        self._store.put(f"frames/{self._rank}", [name, done, announced])

    def ended(self, backend: str, lost: str = "") -> None:
        """This process takes no more jobs: there are none, or it is lost, for the reason given."""
        self._send({"ended": backend, "lost": f"{lost} ({socket.gethostname()})" if lost else ""})

    def _send(self, message: dict[str, Any]) -> None:
        # One list a process: a number that a killed process took and never used would be waited for.
        self._store.put(f"report/{self._rank}/{next(self._numbers)}", message)


class Collector:
    """Gives the others the plan, and the display what they report, in a thread of the first process."""

    def __init__(self, store: SharedStore, place: Place, plan: Plan, display: Display, tally: Tally) -> None:
        """Collects nothing before `running`."""
        self._all = store
        self._store = store.section(plan.token)
        self._place = place
        self._plan = plan
        self._display = display
        self._tally = tally
        self._next = dict.fromkeys(range(place.size), 0)
        self._stopped = threading.Event()
        self._failure: FcclipError | None = None

    @contextlib.contextmanager
    def running(self) -> Iterator[Callable[[], None]]:
        """Collects for the length of the block; yields a function that waits until every process has ended."""
        thread = threading.Thread(target=self._collect, name="collector", daemon=True)
        thread.start()

        def wait() -> None:
            thread.join()
            if self._failure is not None:
                raise self._failure

        try:
            yield wait
        finally:
            self._stopped.set()
            thread.join()

    def _collect(self) -> None:
        try:
            while self._next and not self._stopped.is_set():
                self._plan.answer(self._all, self._place)
                for rank in list(self._next):
                    self._collect_from(rank)
                self._stopped.wait(_POLLED if self._next else 0)
        except FcclipError as error:
            self._failure = error

    def _collect_from(self, rank: int) -> None:
        while rank in self._next and (message := self._store.take(f"report/{rank}/{self._next[rank]}")):
            self._next[rank] += 1
            if "ended" in message:
                del self._next[rank]
                self._tally.backends += filter(None, [message["ended"]])
                if message["lost"]:
                    self._display.lost(rank, message["lost"])
                self._display.frames("", 0, 0, rank)
            else:
                self._display.finished(message["number"], Outcome(**message["outcome"]))
        if rank in self._next and (frames := self._store.take(f"frames/{rank}")):
            name, done, announced = frames
            self._display.frames(name, done, announced, rank)
