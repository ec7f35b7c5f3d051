"""Progress bars of commands."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID


def progress_bar(console: Console) -> Progress:
    """A bar with count, elapsed and remaining time; nothing on a quiet console. Descriptions are not markup."""
    from rich import progress

    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
    )
    return progress.Progress(*columns, console=console, disable=console.quiet)


def reporter(bar: Progress) -> Callable[[str, int, int], None]:
    """Shows one bar in per cent for each activity: call with (what is being done, units done, units in all)."""
    tasks: dict[str, TaskID] = {}

    def report(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = bar.add_task(what, total=100)
        bar.update(tasks[what], completed=100 * done // max(total, 1))

    return report
