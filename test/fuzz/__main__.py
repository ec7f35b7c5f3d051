"""Reads inputs that nobody made on purpose, a process a kind, and prints what happened: `make fuzz`.

Hypothesis makes the inputs from valid ones (`mutations`, `targets`); `bounds` says what may not happen while one is
read. What failed is made as small as it gets and kept in `seeds`, which the fast tests read again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import targets
from explore import keep
from rich.console import Console
from rich.table import Table
from rich.text import Text

_PATIENCE = 120.0
"""Seconds that a round may go on after its time, its making smaller included."""


def _explored(name: str, seconds: float, seed: int) -> tuple[str, str]:
    """How many inputs, and what was found; a process that dies or hangs is a finding as well."""
    with tempfile.TemporaryDirectory() as folder:
        current = Path(folder) / "current"
        command = [sys.executable, str(Path(__file__).with_name("explore.py")), name]
        command += ["--seconds", str(seconds), "--seed", str(seed), "--current", str(current)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + _PATIENCE)
        except subprocess.TimeoutExpired:
            return "", f"hangs: {keep(name, current.read_bytes())}"
        if done.returncode < 0:
            return "", f"died of signal {-done.returncode}: {keep(name, current.read_bytes())}"
        if done.returncode:
            return "", done.stderr.strip()[-2_000:]
        return f"{int(done.stdout.split()[-1]):,}", ""


def main() -> int:
    """Returns 1 if anything was found."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="for all kinds together")
    parser.add_argument("--seed", type=int, help="of the first round; without, the day's second")
    parser.add_argument("--target", nargs="+", choices=targets.NAMES, default=targets.NAMES)
    options = parser.parse_args()
    seed = int(time.time()) % 86_400 if options.seed is None else options.seed
    table = Table("kind", "inputs", "found")
    found = False
    for name in options.target:
        count, problem = _explored(name, 60 * options.minutes / len(options.target), seed)
        found |= bool(problem)
        table.add_row(name, count, Text(problem or "nothing"))
    console = Console()
    console.print(table)
    console.print(f"first seed {seed}", markup=False)
    return int(found)


if __name__ == "__main__":
    sys.exit(main())
