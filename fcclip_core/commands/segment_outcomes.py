"""What became of the inputs of `fcclip segment`, shown while it happens and summed up at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from fcclip_core.commands.progress_bar import progress_bar
from fcclip_core.commands.segment_jobs import Job, listed
from fcclip_core.quoting import printable

if TYPE_CHECKING:
    from rich.progress import TaskID

    from fcclip_core.terminal import Terminal


@dataclass(frozen=True)
class Outcome:
    """What became of an input.

    Attributes:
        state: "labeled", "kept" (it was done already) or "failed".
        reason: Why it failed.
        differences: What was different in an earlier run, if it is labeled again.
        notes: What the user should know.
    """

    state: Literal["labeled", "kept", "failed"]
    reason: str = ""
    differences: Sequence[str] = ()
    notes: Sequence[str] = ()


class Reports(Protocol):
    """Where a process says how its work goes."""

    def finished(self, number: int, outcome: Outcome) -> None:
        """The input with this number is done, or has failed."""

    def frames(self, name: str, done: int, announced: int) -> None:
        """Frames of the video or bag in work, and how many it announces (0: none); an empty name: none is."""


@dataclass
class Tally:
    """The outcomes so far.

    Attributes:
        jobs: All inputs.
        outcomes: By the number of the input.
        lost: Why processes gave up.
        backends: What the processes ran on.
    """

    jobs: Sequence[Job]
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    backends: list[str] = field(default_factory=list)

    @property
    def failed(self) -> list[Job]:
        """Inputs that failed, and those that no process came to."""
        states = [self.outcomes.get(number) for number in range(len(self.jobs))]
        return [job for job, found in zip(self.jobs, states, strict=True) if found is None or found.state == "failed"]

    def count(self, state: str) -> int:
        """How many inputs have an outcome."""
        return sum(outcome.state == state for outcome in self.outcomes.values())


class Display:
    """The progress bar, and a line for what is worth one. May be called from any thread."""

    def __init__(self, tally: Tally, console: Terminal) -> None:
        """Shows no bar before `show`."""
        self._tally = tally
        self._console = console
        self._tasks: dict[tuple[int, str], TaskID] = {}
        self._progress = progress_bar(console)
        self._whole = self._progress.add_task("inputs", total=len(tally.jobs))

    def show(self) -> None:
        """Begins to draw the bar; no other may be drawn at the same time."""
        self._progress.start()

    def __enter__(self) -> Display:
        """Draws nothing yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the bar."""
        self._progress.stop()

    def finished(self, number: int, outcome: Outcome) -> None:
        """See `Reports`."""
        from rich.text import Text

        source = self._tally.jobs[number].source
        self._tally.outcomes[number] = outcome
        if outcome.state == "failed":
            self._console.print(Text.assemble(("skipped", "red"), f" {source}: {outcome.reason}"))
        for note in outcome.notes:
            self._console.print(Text(f"{source}: {note}", style="yellow"))
        self._progress.advance(self._whole)

    def frames(self, name: str, done: int, announced: int, process: int = 0) -> None:
        """See `Reports`; `process` is the number of the one that works on it."""
        for key in [key for key in self._tasks if key[0] == process and key[1] != name]:
            self._progress.remove_task(self._tasks.pop(key))
        if not name:
            return
        if (process, name) not in self._tasks:
            self._tasks[process, name] = self._progress.add_task(printable(name), total=None)
        self._progress.update(self._tasks[process, name], completed=done, total=announced or None)

    def lost(self, process: int, reason: str) -> None:
        """A process of several has given up."""
        from rich.text import Text

        self._tally.lost.append(reason)
        self._console.print(Text.assemble(("lost", "red"), f" process {process}: {reason}"))


def print_summary(tally: Tally, out: Path, console: Terminal) -> None:
    """Says how it ended."""
    from rich.text import Text

    failed = tally.failed
    backends = ", ".join(dict.fromkeys(tally.backends)) or "nothing could run"
    console.print(f"{tally.count('labeled')} of {len(tally.jobs)} inputs segmented into {out} ({backends})")
    if kept := tally.count("kept"):
        console.print(f"{kept} of {len(tally.jobs)} were done already (--again labels them anew)")
    again = [outcome.differences for outcome in tally.outcomes.values() if outcome.differences]
    if again:
        counts = Counter(name for differences in again for name in differences).most_common()
        about = ", ".join(f"{name} {count}" for name, count in counts)
        console.print(f"{len(again)} were labeled again, because an earlier run made them otherwise ({about})")
    if tally.lost:
        console.print(Text(f"processes that gave up: {len(tally.lost)}; start the command again to go on", style="red"))
    if failed:
        console.print(Text(f"failed: {listed(str(job.source) for job in failed)}", style="red"))
