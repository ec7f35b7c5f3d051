"""Files that are whole or not there, whatever stops their writer."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fcclip_core.errors import FcclipError
from fcclip_core.files import atomic_write as module
from fcclip_core.files.atomic_write import PREFIX, atomic_write, sweep, write_atomically
from fcclip_core.files.json_files import write_json
from fcclip_core.files.paths import expanded, refuse_overwriting

HOLD = """
import sys
from pathlib import Path
from fcclip_core.files.atomic_write import atomic_write
with atomic_write(Path(sys.argv[1])) as part:
    part.write_text("half")
    print("writing", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def nothing_swept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_swept", set())


def writer_of(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "writing\n"
    return process


def test_a_killed_writers_leftover_is_swept_and_a_living_ones_stays(tmp_path: Path) -> None:
    killed, living = writer_of(tmp_path / "a.json"), writer_of(tmp_path / "b.json")
    killed.kill()
    killed.wait()
    assert len(list(tmp_path.glob(f"{PREFIX}*"))) == 2
    write_atomically(tmp_path / "c.json", b"c")
    assert len(list(tmp_path.glob(f"{PREFIX}*"))) == 1
    living.communicate("")
    assert living.returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.json", "c.json"]
    assert (tmp_path / "b.json").read_text() == "half"


def test_a_folder_without_a_lock_is_swept_when_it_is_old(tmp_path: Path) -> None:
    """Its owner may be about to lock it."""
    left = tmp_path / f"{PREFIX}abc"
    left.mkdir()
    sweep(tmp_path)
    assert left.exists()
    os.utime(left, (time.time() - 2 * 86400,) * 2)
    sweep(tmp_path)
    assert not left.exists()


def test_nothing_else_is_swept(tmp_path: Path) -> None:
    (tmp_path / f"{PREFIX}notes.txt").write_text("mine")
    (tmp_path / "target").mkdir()
    (tmp_path / f"{PREFIX}link").symlink_to(tmp_path / "target")
    sweep(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_file_system_without_locks_still_takes_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(module.fcntl, "flock", refuse)
    (tmp_path / f"{PREFIX}abc").mkdir()
    (tmp_path / f"{PREFIX}abc" / "lock").touch()
    write_atomically(tmp_path / "a.json", b"a")
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", f"{PREFIX}abc"}


def test_the_longest_name_that_a_disk_takes_can_be_written(tmp_path: Path) -> None:
    name = "n" * os.pathconf(tmp_path, "PC_NAME_MAX")
    write_atomically(tmp_path / name, b"x")
    assert os.listdir(tmp_path) == [name]


def test_a_device_is_written_to_and_not_replaced(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "null").symlink_to("/dev/null")
    (tmp_path / "full").symlink_to("/dev/full")
    write_atomically(tmp_path / "null", b"x")
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "full", b"x")
    assert all(path.is_symlink() and path.is_char_device() for path in tmp_path.iterdir())
    read, write = os.pipe()
    write_json(Path(f"/proc/self/fd/{write}"), {"a": 1})
    os.close(write)
    assert os.read(read, 100) == b'{\n "a": 1\n}\n'
    os.close(read)


def test_an_error_names_the_file_and_leaves_the_earlier_one(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("earlier")
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    with pytest.raises(OSError) as raised, atomic_write(tmp_path / "no" / "a.json"):
        pass
    assert raised.value.filename == str(tmp_path / "no" / "a.json")
    assert os.listdir(tmp_path) == ["a.json"] and (tmp_path / "a.json").read_text() == "earlier"


def test_tilde_is_expanded_as_a_shell_does_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded("~/a/b") == tmp_path / "a" / "b"
    assert expanded("a~/b") == Path("a~/b")
    assert expanded("~nobody-of-that-name/x") == Path("~nobody-of-that-name/x")
    assert expanded("~words.yaml") == Path("~words.yaml")


def test_without_a_home_folder_a_tilde_is_explained_and_other_names_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """`docker run --user`: HOME is not set, and the user has no entry in /etc/passwd."""
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    assert expanded("~words.yaml") == Path("~words.yaml")
    with pytest.raises(FcclipError, match="there is no home folder .*; use an absolute path"):
        expanded("~/words.yaml")


def test_outputs_that_are_inputs_are_refused_by_every_name(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    read = tmp_path / "data" / "in.bin"
    read.write_text("x")
    (tmp_path / "link").symlink_to(read)
    (tmp_path / "hard").hardlink_to(read)
    (tmp_path / "folder").symlink_to(tmp_path / "data")
    for output in (read, tmp_path / "link", tmp_path / "hard", tmp_path / "folder" / "in.bin", tmp_path / "data"):
        with pytest.raises(FcclipError, match=r"--out .* would replace an input of this call \(.*in\.bin\)"):
            refuse_overwriting("--out", [output], [read])
    refuse_overwriting("--out", [tmp_path / "data" / "out.bin", tmp_path / "new"], [read, tmp_path / "missing"])


def test_a_pipe_in_a_files_place_is_replaced_and_one_of_this_process_written_to(tmp_path: Path) -> None:
    """Whoever opens a pipe that nobody reads waits for ever."""
    os.mkfifo(tmp_path / "planted")
    write_atomically(tmp_path / "planted", b"ours")
    assert (tmp_path / "planted").read_bytes() == b"ours"
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as reader:
        write_atomically(Path(f"/dev/fd/{writing}"), b"given")
        os.close(writing)
        assert reader.read() == b"given"
