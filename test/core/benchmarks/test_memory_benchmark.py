"""The benchmarks of the object memory run, and what is measured is there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gl_here import needs_gl

from checkout import ROOT

sys.path.insert(0, str(ROOT))

from benchmarks.lib.memory_drives import DriveFrame, SeenThing, rightly_segmented  # noqa: E402


def run(module: str, *arguments: str) -> None:
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_cost_of_a_small_memory(tmp_path: Path) -> None:
    out = tmp_path / "memory.json"
    run("speed.memory", "--objects", "60", "--repeat", "4", "--dimension", "32", "--json", str(out))
    row = json.loads(out.read_text())["sizes"]["60"]
    assert row["remembered"] == 60
    assert all(row[key] > 0 for key in ("file_mib", "opening_s"))
    assert set(row["asking_ms"]) == {"one word", "three synonyms", "within 20 m"}


@needs_gl
@pytest.mark.slow
def test_worth_of_a_short_drive(tmp_path: Path) -> None:
    out, cache = tmp_path / "memory.json", tmp_path / "cache"
    arguments = ("--drives", "1", "--frames", "6", "--cache", str(cache), "--json", str(out))
    run("quality.memory", *arguments)
    record = json.loads(out.read_text())
    keys = ("recall_at_1", "recall_at_1_new_words", "position_error_median_m", "duplicates_share", "phantoms_share")
    assert record["recall_at_1"] > 0.5
    assert all(key in record for key in (*keys, "removed_noticed_share", "moved_kept_share", "query_ms", "update_ms"))
    run("quality.memory", *arguments)  # from what it kept
    again = json.loads(out.read_text())
    assert [again[key] for key in keys] == [record[key] for key in keys]


def test_a_thing_counts_where_it_was_large_enough_and_named_rightly() -> None:
    def frame(lap: int, *seen: SeenThing) -> DriveFrame:
        return DriveFrame(0, lap, {}, {"world": seen, "shapes": seen}, np.zeros(0), np.eye(4))

    thing, other = (0, 1), (0, 2)
    frames = [
        frame(0, SeenThing(thing, 41, 1, True), SeenThing(other, 900, 2, False)),
        frame(0, SeenThing(thing, 40, 1, True), SeenThing(other, 900, 0, False)),
        frame(1, SeenThing(thing, 900, 1, True)),
    ]
    assert rightly_segmented(frames, "world", 0, 40) == {thing: 1}
    assert rightly_segmented(frames, "shapes", 0, 40) == {thing: 1, other: 1}
