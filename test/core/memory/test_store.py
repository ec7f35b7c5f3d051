"""The memory's file: what was saved survives, what is damaged is said, what is not ours is left alone."""

from __future__ import annotations

import itertools
import json
import logging
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from box_world import SECOND, Thing, look

from checkout import ROOT
from fcclip_core.errors import MemoryFileError
from fcclip_core.memory import database, store
from fcclip_core.memory.codec import decode, encode
from fcclip_core.memory.object_memory import ObjectMemory
from fcclip_core.memory.objects import RememberedObject, State
from fcclip_core.memory.settings import MemorySettings

MUG = Thing("mug", (2.0, 0.0, 0.1), (0.12, 0.12, 0.2), look=0)
BOX = Thing("box", (2.0, 0.8, 0.15), (0.3, 0.3, 0.3), look=2)
EYE, TARGET = (0.0, 0.2, 0.9), (2.0, 0.2, 0.1)


def fill(memory: ObjectMemory) -> None:
    image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    for number in range(4):
        memory.observe(look([MUG, BOX], EYE, TARGET, stamp=number * SECOND, image=image, words=("mug", "box")))
    memory.observe(look([MUG], (1.0, 0.0, 0.6), MUG.center, image=image))


def saved(path: Path) -> Path:
    with ObjectMemory(path=path) as memory:
        fill(memory)
        memory.name(1, "Ann's mug")
    return path


def same(first: RememberedObject, second: RememberedObject) -> bool:
    return first == second and encode(first) == encode(second)


def test_a_closed_memory_opens_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    with ObjectMemory(path=path) as memory:
        fill(memory)
        before = memory.objects(tuple(State))
    with ObjectMemory(path=path) as memory:
        after = memory.objects(tuple(State))
        assert all(same(*pair) for pair in zip(before, after, strict=True))
        assert after[0].approach is not None
        assert after[0].crop
        # Ids go on, and so does counting under the same vocabulary.
        assert memory.observe(look([MUG], EYE, TARGET, words=("box", "mug"))).ids == (1,)
        assert memory.get(1).word_looks == {key: 5 for key in memory.get(1).word_looks}
        assert memory.observe(look([MUG.at(2.0, -1.5)], (0, -1.5, 0.9), (2.0, -1.5, 0.1))).ids == (3,)


def test_ids_of_forgotten_objects_are_not_given_again_after_a_restart(tmp_path: Path) -> None:
    path = saved(tmp_path / "memory.db")
    with ObjectMemory(path=path) as memory:
        memory.forget_where()
    with ObjectMemory(path=path) as memory:
        assert memory.observe(look([MUG], EYE, TARGET)).ids == (3,)


def test_a_file_can_be_read_while_it_is_written_but_has_one_writer(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    with ObjectMemory(path=path) as memory:
        fill(memory)
        memory.save()
        reader = ObjectMemory(path=path, read_only=True)
        assert [item.name for item in reader.objects()] == ["mug", "box"]
        with pytest.raises(MemoryFileError, match="in use"):
            ObjectMemory(path=path)
    with pytest.raises(MemoryFileError, match="no file"):
        reader.save()


@pytest.mark.parametrize("damage", ["header", "truncated", "pages", "text"])
def test_a_corrupt_file_is_moved_aside_and_the_memory_starts_empty(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = saved(tmp_path / "memory.db")
    data = bytearray(path.read_bytes())
    if damage == "header":
        data[:16] = bytes(16)
    elif damage == "truncated":
        del data[len(data) // 2 :]
    elif damage == "pages":
        data[4096 : len(data) - 100] = os.urandom(len(data) - 4196)
    else:
        data = bytearray(b"not a database at all, but long enough to be taken for one" * 20)
    path.write_bytes(data)
    with ObjectMemory(path=path) as memory:
        assert len(memory) == 0
        fill(memory)
    (aside,) = tmp_path.glob("memory.db.corrupt-*")
    assert aside.read_bytes() == data
    assert "is corrupt" in caplog.text
    with ObjectMemory(path=path) as memory:
        assert len(memory) == 2


def test_a_newer_file_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = saved(tmp_path / "memory.db")
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {database.SCHEMA_VERSION + 1}")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    before = path.read_bytes()
    for read_only in (False, True):
        with pytest.raises(MemoryFileError, match="has version 2"):
            ObjectMemory(path=path, read_only=read_only)
    assert path.read_bytes() == before


def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA application_id = 1")
        connection.execute("CREATE TABLE cats (name TEXT)")
    connection.close()
    with pytest.raises(MemoryFileError, match="another program"):
        ObjectMemory(path=path)


@pytest.mark.parametrize("make", ["folder", "missing folder"])
def test_what_is_no_file_is_refused(tmp_path: Path, make: str) -> None:
    path = tmp_path / "a"
    if make == "folder":
        path.mkdir()
    else:
        path = path / "b"
    with pytest.raises(MemoryFileError):
        ObjectMemory(path=path)
    with pytest.raises(MemoryFileError):
        ObjectMemory(path=path, read_only=True)


@pytest.mark.parametrize(
    "change",
    [
        {"log_odds": float("nan")},
        {"position": [1e300, 0, 0]},
        {"position": [0, 0]},
        {"position": "abc"},
        {"covariance": [0.0] * 9},
        {"low": [9, 9, 9]},
        {"seen": [0, 0, 0, 0, 0]},
        {"seen": [2**70, 0, 0, 0, 1]},
        {"state": "certain"},
        {"names": {"x" * 2000: [1, 1.0]}},
        {"names": [1]},
        {"views": []},
        {"views": [[0, "", [0.0] * 12, 1.0, 1.0]]},
        {"side_looks": [1]},
    ],
)
def test_rows_whose_numbers_make_no_sense_are_left_out(
    tmp_path: Path, change: dict, caplog: pytest.LogCaptureFixture
) -> None:
    path = saved(tmp_path / "memory.db")
    with sqlite3.connect(path) as connection:
        state = json.loads(connection.execute("SELECT state FROM objects WHERE id = 1").fetchone()[0])
        connection.execute("UPDATE objects SET state = ? WHERE id = 1", (json.dumps(state | change),))
    connection.close()
    with ObjectMemory(path=path) as memory:
        assert [item.id for item in memory.objects()] == [2]
    assert "1 objects in the memory file" in caplog.text


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("embedding", b""),
        ("embedding", b"\xff" * 32),  # NaN
        ("embedding", b"123"),
        ("embedding", bytes(1 << 20)),
        ("embedding", "text"),
        ("views", b"\x00"),
        ("crop", b"GIF89a"),
        ("crop", b"\xff\xd8" + bytes(1 << 20)),
        ("state", "[" * 60_000),
        ("state", "null"),
    ],
)
def test_damaged_blobs_are_left_out(tmp_path: Path, column: str, value: bytes | str) -> None:
    path = saved(tmp_path / "memory.db")
    with sqlite3.connect(path) as connection:
        connection.execute(f"UPDATE objects SET {column} = ? WHERE id = 1", (value,))
    connection.close()
    assert [item.id for item in ObjectMemory(path=path, read_only=True).objects()] == [2]


def test_a_row_is_read_as_it_was_written() -> None:
    memory = ObjectMemory()
    fill(memory)
    for item in memory.objects():
        assert same(decode(encode(item)), item)


def test_a_full_disk_is_said_and_what_could_not_be_saved_is_saved_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(store, "RETRY", 0.05)
    caplog.set_level(logging.WARNING)
    path = tmp_path / "memory.db"
    memory = ObjectMemory(MemorySettings(write_period=0.05), path)
    memory.save()
    # SQLite's own limit fails as a full disk does.
    connection = memory._store._connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    fill(memory)
    with pytest.raises(MemoryFileError, match="the disk is full"):
        memory.save()
    assert memory.problem == "the disk is full"
    assert len(memory.objects()) == 2
    assert caplog.text.count("the disk is full") == 1
    connection.execute("PRAGMA max_page_count = 100000")
    memory.save()
    assert memory.problem == ""
    assert "saved to" in caplog.text
    memory.close()
    assert len(ObjectMemory(path=path, read_only=True)) == 2


def _limited_files() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


def test_a_disk_that_is_full_from_the_start_leaves_a_memory_without_a_file(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from fcclip_core.memory.object_memory import ObjectMemory\n"
        "from test_store import fill\n"
        "memory = ObjectMemory(path=sys.argv[1])\n"
        "fill(memory)\n"
        "print(len(memory), memory.problem)\n"
    )
    done = _python(program, tmp_path / "memory.db", preexec_fn=_limited_files)
    assert done.stdout == "2 the disk is full\n", done.stderr


def test_newest_state_wins_and_the_queue_is_no_longer_than_the_objects(tmp_path: Path) -> None:
    with ObjectMemory(MemorySettings(write_period=100.0), tmp_path / "memory.db") as memory:
        for _ in range(30):
            memory.observe(look([MUG], EYE, TARGET))
        assert memory._store.pending == 1
        memory.save()
        assert ObjectMemory(path=tmp_path / "memory.db", read_only=True).get(1).looks == 30


def _python(program: str, path: Path, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, str(path)]
    return subprocess.run(command, env=_environment(), capture_output=True, text=True, timeout=1200, **options)


def _environment() -> dict[str, str]:
    folders = [str(ROOT), str(ROOT / "test"), str(Path(__file__).parent)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(folders), "OMP_NUM_THREADS": "1"}


def write_without_end(path: Path, report: IO[str]) -> None:
    """Remembers, saves, says what is saved, and forgets, until it is killed."""
    memory = ObjectMemory(MemorySettings(write_period=0.01), path)
    places = [6.0 * place for place in range(8)]
    observations = [look([MUG.at(2.0 + x, 0.0)], (x, 0.2, 0.9), (2.0 + x, 0.2, 0.1)) for x in places]
    for turn in itertools.count():
        memory.observe(observations[turn % 8])
        if turn % 5 == 0:
            known = [f"{item.id}:{item.looks}" for item in memory.objects()]
            memory.save()
            report.write(" ".join(known) + "\n")
            report.flush()
        if turn % 64 == 63:
            memory.forget([memory.objects()[0].id])
            memory.save()
            report.write("forgot\n")
            report.flush()


def kill_at_random_moments(path: Path, times: int) -> int:
    """Kills writers of one file; returns how many objects were reported as saved and found again, in all."""
    dice, checked = np.random.default_rng(times), 0
    for _ in range(times):
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            with os.fdopen(writer, "w") as report:
                write_without_end(path, report)
        os.close(writer)
        with os.fdopen(reader) as report:
            first = report.readline()  # it has begun to write
            time.sleep(dice.uniform(0, 0.3))
            os.kill(child, signal.SIGKILL)
            lines = [line for line in (first, *report) if line.endswith("\n")]
        os.waitpid(child, 0)
        assert lines
        reported = _last_report(lines)
        found = {item.id: item.looks for item in ObjectMemory(path=path, read_only=True).objects()}
        with ObjectMemory(path=path):
            pass  # it opens for writing as well
        for number, looks in reported.items():
            assert found.get(number, 0) >= looks, f"object {number} was saved with {looks} looks; the file has {found}"
        checked += len(reported)
    assert not list(path.parent.glob("*.corrupt-*"))
    return checked


def _checked_after_kills(path: Path, times: int) -> int:
    """`kill_at_random_moments` in a process of its own, whose children are forked without loading torch again."""
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from test_store import kill_at_random_moments\n"
        f"print(kill_at_random_moments(Path(sys.argv[1]), {times}))\n"
    )
    done = _python(program, path)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def _last_report(lines: list[str]) -> dict[int, int]:
    """What was reported as saved last; nothing if something may have been forgotten since."""
    if not lines or lines[-1] == "forgot\n" or len(lines) < 2:
        return {}
    reported = {int(number): int(looks) for number, looks in (pair.split(":") for pair in lines[-1].split())}
    # The next thing to be forgotten is the first one: whether it was is not known.
    return {number: looks for number, looks in reported.items() if number != min(reported)}


def test_what_was_reported_as_saved_survives_kill_9(tmp_path: Path) -> None:
    assert _checked_after_kills(tmp_path / "memory.db", 5) > 0


@pytest.mark.slow
def test_what_was_reported_as_saved_survives_kill_9_at_200_moments(tmp_path: Path) -> None:
    assert _checked_after_kills(tmp_path / "memory.db", 200) > 400


def test_a_bad_state_never_reaches_the_file() -> None:
    memory = ObjectMemory()
    fill(memory)
    with pytest.raises(ValueError, match="JSON"):
        encode(replace(memory.get(1), log_odds=float("inf")))
