"""What every program prints and records: the machine, tables, and one JSON file."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.lib import machine
from fcclip_core.files.json_files import write_json

_WIDTH = 1000
"""Characters; a table takes what its cells need, and the terminal breaks lines."""
_FOLDERS = re.compile(r"(?<![\w.~/:])/(?:[^\s/'\"]+/)+(?=[^\s/'\"])")
"""The folders of an absolute path, inside a text."""


class Report:
    """The output of one program.

    Attributes:
        record: What is written to the JSON file, beginning with the program's name and the machine.
    """

    def __init__(self, program: str) -> None:
        """Describes the machine, and prints that in a line."""
        self.record: dict[str, Any] = {"program": program, "machine": machine.describe()}
        say(machine.headline(self.record["machine"]))

    def write(self, path: Path | None, **measured: Any) -> None:
        """Adds to the record, and writes it if there is a `path`; a file is complete or untouched."""
        self.record |= measured
        if path is not None:
            write_record(path, self.record)


def say(text: str) -> None:
    """Prints a line."""
    _console().print(text)


def progress(text: str) -> None:
    """Prints a line to the standard error, where it does not mix with the results."""
    print(text, file=sys.stderr, flush=True)


def print_table(columns: Mapping[str, str], rows: Iterable[Sequence[Any]], title: str = "") -> None:
    """Prints a Markdown table.

    Args:
        columns: Header -> format of the numbers below it, as for `format`; texts are printed as they are.
        rows: A cell for each column, or fewer; None is printed as a dash.
        title: A line above it.
    """
    table = Table(box=box.MARKDOWN)
    for header, spec in columns.items():
        table.add_column(header, justify="right" if spec else "left")
    for row in rows:
        table.add_row(*(_cell(value, spec) for value, spec in zip(row, columns.values(), strict=False)))
    console = _console()
    if title:
        console.print(f"\n{title}")
    console.print(table)


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Writes a record as JSON, complete or not at all; files are recorded by name, without folders of this machine."""
    write_json(path, portable(record))


def arguments_of(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Arguments for a record: those that are named, or all but where the output goes."""
    chosen = {name: getattr(args, name) for name in names or sorted(vars(args)) if name not in ("json", "out")}
    return {name: file_name(value) if isinstance(value, str) else value for name, value in chosen.items()}


def file_name(text: str) -> str:
    """The last part of a path; a bundled name is already one."""
    return text.rpartition("/")[2]


def portable(value: Any) -> Any:
    """A JSON-ready value in which every path is a name."""
    if isinstance(value, Path):
        return value.name
    if isinstance(value, str):
        return _FOLDERS.sub("", value)
    if isinstance(value, Mapping):
        return {key: portable(item) for key, item in value.items()}
    return [portable(item) for item in value] if isinstance(value, (list, tuple)) else value


def _cell(value: Any, spec: str) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else format(value, spec)


def _console() -> Console:
    # Made for each use: a test may have replaced the standard output meanwhile.
    return Console(highlight=False, markup=False, soft_wrap=True, width=_WIDTH)
