"""Parts of a long measurement, each recorded when it ends; one that hangs or crashes costs no other.

They run in a process of their own, which this one watches; after one that broke, another process continues.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.lib.report import write_record
from fcclip_core.errors import BackendError

_BEGUN = "begun"
_PREPARATION_S = 180.0
"""Seconds that a process has to load the model, and to end."""


class NoTime(Exception):
    """The budget does not allow this part."""


@dataclass(frozen=True)
class Part:
    """A part of a measurement.

    Attributes:
        name: Of the part.
        needs_s: Seconds that it takes on a fast GPU, generously.
        work: What it does with the `Record` that it is given.
        like_another: Whether it runs the same code as another part; a dry run leaves it out.
    """

    name: str
    needs_s: float
    work: Callable[[Any], None]
    like_another: bool = False

    def limit_s(self, *, dry: bool) -> float:
        """Seconds after which it hangs rather than works; a processor may take long for a dry run."""
        return 300.0 if dry else 2 * self.needs_s + 30


@dataclass(kw_only=True)
class Record:
    """What was found so far, on disk after each part.

    Attributes:
        is_dry: Only check that everything runs; numbers mean nothing.
        deadline: `time.monotonic()` at which to be done.
        out: Where results go.
        found: The record.
        wrong: What decides that the run failed.
    """

    is_dry: bool
    deadline: float
    out: Path
    found: dict[str, Any] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def verdict(self, name: str, value: float, limit: float, *, binding: bool = True) -> None:
        """Records a check: `value` must not exceed `limit`; NaN fails. A binding one decides the exit status."""
        right = bool(value <= limit)
        self.found.setdefault("correctness", {})[name] = {"value": value, "limit": limit, "right": right}
        if not right and binding:
            self.wrong.append(name)
        print(
            f"  {name}: {value:.3g} (at most {limit:g}) {'ok' if right else 'WRONG' if binding else 'ABOVE'}",
            flush=True,
        )

    def measure(self, part: Part) -> None:
        """Runs a part, if the seconds that it needs are left, and writes the record."""
        left = self.deadline - time.monotonic()
        record: dict[str, Any] = {"status": _BEGUN}
        self.found.setdefault("parts", {})[part.name] = record
        self.write()
        print(f"{part.name} ({left:.0f} s left)", flush=True)
        began = time.monotonic()
        try:
            if left < part.needs_s and not self.is_dry:
                raise NoTime(f"skipped: it needs about {part.needs_s:.0f} s, {left:.0f} s were left")
            part.work(self)
            record["status"] = "done"
        except (NoTime, BackendError) as reason:
            record["status"] = str(reason)
            print(f"  {reason}", flush=True)
        except Exception as error:
            record["status"] = f"failed: {type(error).__name__}: {error}"[:2000]
            self.wrong.append(part.name)
            traceback.print_exc()
        record["seconds"] = round(time.monotonic() - began, 1)
        self.write()

    def write(self) -> None:
        """Writes the record so far."""
        write_record(self.out, self.found | {"wrong": self.wrong})


def supervise(parts: Sequence[Part], out: Path, budget: float, *, dry: bool) -> dict[str, Any]:
    """Runs parts in other processes, one after the other: a new one continues after one that broke.

    Args:
        parts: Which to run, in this order; a dry run leaves out those like another.
        out: Where results go.
        budget: Seconds for everything.
        dry: Whether it is a dry run.

    Returns:
        What was found.

    Raises:
        RuntimeError: No part could begin.
    """
    deadline = time.monotonic() + budget
    limits = {part.name: part.limit_s(dry=dry) for part in parts if not (dry and part.like_another)}
    write_record(out, {})
    while left := [name for name in limits if name not in read_record(out).get("parts", {})]:
        # The command line of this process, whose options the later ones override.
        command = [sys.executable, *sys.orig_argv[1:], "--work", "--budget", str(deadline - time.monotonic())]
        reason = watch([*command, "--json", str(out), "--parts", *left], out, limits, deadline)
        found = read_record(out)
        broken = current_part(found)
        if broken:
            found["parts"][broken]["status"] = reason
            found["wrong"].append(broken)
            write_record(out, found)
            print(f"  {broken}: {reason}", flush=True)
        if not found.get("parts", {}).keys() & set(left):
            raise RuntimeError(f"no part could begin: {reason}")
    return read_record(out)


def watch(command: list[str], out: Path, limits: Mapping[str, float], deadline: float) -> str:
    """Runs a process until it ends, or a part takes longer than its limit.

    Args:
        command: Runs parts.
        out: Where it writes which one it is at.
        limits: Seconds, by part.
        deadline: `time.monotonic()` at which it is stopped in any case.

    Returns:
        How it ended.
    """
    process = subprocess.Popen(command)
    part, since = "", time.monotonic()
    try:
        while process.poll() is None:
            time.sleep(0.2)
            now = current_part(read_record(out))
            if now != part:
                part, since = now, time.monotonic()
            took = time.monotonic() - since
            if took > limits.get(part, _PREPARATION_S) or time.monotonic() > deadline:
                return f"failed: stopped after {took:.0f} s"
        return f"failed: its process ended with status {process.returncode}"
    finally:
        process.kill()
        process.wait()


def read_record(path: Path) -> dict[str, Any]:
    """What was found so far."""
    return json.loads(path.read_text())


def current_part(found: Mapping[str, Any]) -> str:
    """The part that was begun and is not done; empty if there is none."""
    parts = found.get("parts", {})
    return next((name for name, record in parts.items() if record["status"] == _BEGUN), "")
