"""Lines and tables of commands, on the standard output."""

from __future__ import annotations

from collections.abc import Iterable


def say(line: str) -> None:
    """Prints a line; the terminal breaks it."""
    # Slow to import, here and below.
    from fcclip_core.terminal import Terminal

    Terminal(soft_wrap=True).print(line)


def print_table(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Prints a table; long cells are broken into lines."""
    from rich import box
    from rich.table import Table

    from fcclip_core.terminal import Terminal

    table = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(str, row))
    Terminal().print(table)
