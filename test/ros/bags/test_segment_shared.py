"""`torchrun ... fcclip segment` in real processes: killed in the middle, started again, the result is that of one."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from bag_files import save
from builtin_interfaces.msg import Time
from ros_harness import ROOT, rgb_message
from rosbags.highlevel import AnyReader

from fcclip_ros.bags.bag_reader import message_definitions

DRIVE = sorted((ROOT / "demo" / "drive" / "images").iterdir())
PHOTOS, BAGS, PROCESSES = 40, 3, 4
MODEL = ["--checkpoint", "recipe:tiny", "--shorter-side", "64", "--backend", "eager", "--device", "cpu"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={PROCESSES}"]


def inputs(folder: Path) -> list[Path]:
    """A folder of 40 pictures, and three bags."""
    frames = [np.asarray(PIL.Image.open(path).convert("RGB").resize((80, 60))) for path in DRIVE[:10]]
    photos = folder / "photos"
    photos.mkdir(parents=True)
    for number in range(PHOTOS):
        PIL.Image.fromarray(frames[number % 10]).save(photos / f"{number:02}.png")
    bags = [
        save(
            folder / f"run{bag}",
            [("/image", rgb_message(frames[i % 10], "front", Time(sec=i))) for i in range(20 + 10 * bag)],
        )
        for bag in range(BAGS)
    ]
    return [photos, *bags]


def segment(given: list[Path], out: Path, start: list[str]) -> subprocess.Popen[str]:
    command = [*start, "-m", "fcclip_core.cli", "segment", *map(str, given), "--out", str(out), *MODEL]
    # Sums are split differently by other numbers of threads.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    return subprocess.Popen(
        [*command, "--vocab", "cup; plate; floor"], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code, and what was said."""
    said = process.communicate(timeout=300)[1]
    return process.returncode, " ".join(said.split())


def described(out: Path) -> int:
    """Inputs that are done."""
    return len(list(out.glob("*.json")))


def process_of(torchrun: int, rank: int) -> int:
    """The number of a process that `torchrun` has started."""
    for entry in Path("/proc").iterdir():
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == torchrun and f"RANK={rank}" in (entry / "environ").read_text().split("\0"):
                return int(entry.name)
        except (OSError, ValueError, IndexError):
            continue
    raise AssertionError(f"no process {rank}")


@contextmanager
def running(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def kill_in_the_middle(process: subprocess.Popen[str], out: Path, rank: int, more: int) -> None:
    """Kills one of the processes when some further inputs are done."""
    before = described(out)
    while described(out) < before + more:
        assert process.poll() is None, finished(process)
        time.sleep(0.01)
    os.kill(process_of(process.pid, rank), signal.SIGKILL)


def messages(bag: Path) -> list[tuple[str, int, Any]]:
    """Topic, time and content of all messages: of their bytes, those that align the others are of any value."""
    with AnyReader([bag], default_typestore=message_definitions()) as reader:
        return [
            (connection.topic, recorded, repr(reader.deserialize(data, connection.msgtype)))
            for connection, recorded, data in reader.messages()
        ]


def without_timings(value: Any) -> Any:
    """A description without seconds, and without sizes, which depend on their digits."""
    if isinstance(value, dict):
        return {key: without_timings(item) for key, item in value.items() if key not in ("timings", "sizes")}
    return [without_timings(item) for item in value] if isinstance(value, list) else value


def content(path: Path) -> Any:
    readers: dict[str, Callable[[], Any]] = {
        ".json": lambda: without_timings(json.loads(path.read_text())),
        ".jsonl": lambda: [without_timings(json.loads(line)) for line in path.read_text().splitlines()],
        ".mcap": lambda: messages(path),
    }
    return readers.get(path.suffix, path.read_bytes)()


def files(out: Path) -> list[str]:
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())


@pytest.mark.slow
def test_four_processes_that_are_killed_and_started_again_give_what_one_gives(tmp_path: Path) -> None:
    given = inputs(tmp_path / "in")
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    code, said = finished(segment(given, alone, [sys.executable]))
    assert code == 0 and f"{PHOTOS + BAGS} of {PHOTOS + BAGS} inputs segmented" in said, said

    shared.mkdir()
    with running(segment(given, shared, TORCHRUN)) as process:
        kill_in_the_middle(process, shared, rank=2, more=4)
        code, said = finished(process)
    assert code != 0 and "inputs segmented" not in said
    kept = {path: path.stat().st_mtime_ns for path in shared.glob("*.json")}
    assert len(kept) < PHOTOS + BAGS

    with running(segment(given, shared, [*TORCHRUN, "--max-restarts=1"])) as process:
        kill_in_the_middle(process, shared, rank=0, more=4)
        code, said = finished(process)
    assert code == 0, said
    (done,) = re.findall(rf"(\d+) of {PHOTOS + BAGS} were done already", said)
    assert int(done) >= len(kept) + 4 and f"{PHOTOS + BAGS - int(done)} of {PHOTOS + BAGS} inputs segmented" in said
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "not made twice"

    assert files(shared) == files(alone)
    assert not [path for path in shared.iterdir() if path.name.startswith(".")]
    for name in files(alone):
        assert content(shared / name) == content(alone / name), name


@pytest.mark.slow
def test_one_bad_input_is_named_once_and_a_run_that_cannot_begin_says_why_once(tmp_path: Path) -> None:
    photo, bad = tmp_path / "a.png", tmp_path / "b.png"
    PIL.Image.new("RGB", (64, 48)).save(photo)
    bad.write_text("no picture")
    start = [*TORCHRUN[:-1], "--nproc-per-node=2"]
    code, said = finished(segment([photo, bad], tmp_path / "out", start))
    assert code == 1
    assert said.count("skipped") == said.count("1 of 2 inputs segmented") == 1, said
    assert (tmp_path / "out" / "a.json").is_file()

    code, said = finished(segment([tmp_path], tmp_path, start))
    assert code == 1 and said.count("is both input and --out") == 1, said
