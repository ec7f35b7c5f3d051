"""What commands say, and how they end: any name on any terminal, no traceback, and signals as Ctrl-C."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from rich.table import Table

from checkout import ROOT
from fcclip_core import cli, distributed
from fcclip_core.commands.interruption import Interrupted, exit_status, interruptible
from fcclip_core.commands.progress_bar import progress_bar
from fcclip_core.errors import FcclipError
from fcclip_core.quoting import printable
from fcclip_core.terminal import Terminal

EVIL = "a\x1b]0;owned\x07\x9b31m\u202e[red]b[/]\udcff"
SAFE = r"a\x1b]0;owned\x07\x9b31m\u202e[red]b[/]\udcff"

WRITER = """
import signal, sys, time
from pathlib import Path
from fcclip_core import cli
from fcclip_core.files.atomic_write import atomic_write

class Fake:
    def add_parser(self, subparsers):
        subparsers.add_parser("fake").set_defaults(run=self.run)
    def run(self, args):
        with atomic_write(Path(sys.argv[1])) as part:
            part.write_text("half")
            print("writing", flush=True)
            while True:
                time.sleep(0.05)

# Tests may run in the background or under nohup, where these are ignored.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
cli.COMMANDS = (Fake(),)
sys.exit(cli.main(["fake"]))
"""


class FakeCommand:
    """A subcommand `fake` that does what it is told."""

    def __init__(self, run: Callable[[argparse.Namespace], int]) -> None:
        self.run = run

    def add_parser(self, subparsers: argparse._SubParsersAction) -> None:
        subparsers.add_parser("fake").set_defaults(run=self.run)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[argparse.Namespace], int]], None]]:
    yield lambda run: monkeypatch.setattr(cli, "COMMANDS", (FakeCommand(run),))


def raising(error: BaseException) -> Callable[[argparse.Namespace], int]:
    def run(_: argparse.Namespace) -> int:
        raise error

    return run


def test_text_of_users_obeys_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    assert printable(EVIL) == SAFE and printable("Größe\t漢字\n") == "Größe\t漢字\n"
    assert str(FcclipError(EVIL)) == SAFE, "the node's log and services get messages of errors, too"
    console = Terminal(stderr=True, soft_wrap=True)
    console.print(EVIL[:-1])
    table = Table(EVIL[:-1])
    table.add_row(EVIL[:-1])
    console.print(table)
    with progress_bar(console) as progress:
        progress.add_task(EVIL[:-1])
    said = capsys.readouterr().err
    assert said.count(r"\x1b]0;owned") == 4 and said.count("[red]b[/]") == 3
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(said)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FcclipError(EVIL), SAFE),
        (
            FileNotFoundError(2, "No such file or directory", "x\x1b[2J.yaml"),
            r"x\x1b[2J.yaml: No such file or directory",
        ),
        (OSError(28, "No space left on device"), "reading or writing failed: No space left on device"),
        (MemoryError(), "there is not enough memory"),
        (ZeroDivisionError("by zero"), "unexpected error: ZeroDivisionError: by zero; --verbose shows where"),
    ],
)
def test_no_error_shows_a_traceback_without_verbose(
    error: Exception, said: str, fake: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    fake(raising(error))
    assert cli.main(["fake"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"fcclip: {said}") and shown.count("\n") == 1
    logging.disable()
    try:
        assert cli.main(["fake", "--verbose"]) == 2
    finally:
        logging.disable(logging.NOTSET)
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyboardInterrupt(), 130),
        (Interrupted(signal.SIGTERM), 143),
        (Interrupted(signal.SIGHUP), 129),
        (BrokenPipeError(), 141),
    ],
)
def test_interrupted_commands_say_by_what(
    error: BaseException, code: int, fake: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    fake(raising(error))
    assert cli.main(["fake"]) == code
    assert capsys.readouterr().err == ("" if code == 141 else "fcclip: interrupted\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_leaves_no_hidden_file(tmp_path: Path, number: signal.Signals) -> None:
    target = tmp_path / "result.json"
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(target)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "writing\n"
        assert len(list(tmp_path.iterdir())) == 1
        process.send_signal(number)
        try:
            assert process.wait(timeout=60) == 128 + number
        finally:
            process.kill()
        assert process.stderr is not None and process.stderr.read() == "fcclip: interrupted\n"
    assert not list(tmp_path.iterdir())


def test_only_the_first_signal_interrupts_and_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as raised, interruptible():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            cleaned = True
    assert cleaned and exit_status(raised.value) == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_that_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    program = f"{sys.executable} -m fcclip_core.cli"
    return subprocess.run(
        ["bash", "-c", command.replace("fcclip", program, 1)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        env=os.environ | environment,
        errors="surrogateescape",
    )


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_terminal_without_a_letter_gets_an_escape(tmp_path: Path, encoding: str) -> None:
    listed = tmp_path / "words.txt"
    listed.write_text("0:漢字\n1:Größe\n", encoding="utf-8")
    done = shell(f"fcclip vocab show {listed}", PYTHONIOENCODING=encoding)
    assert done.returncode == 0 and done.stderr == ""
    assert r"\u6f22\u5b57" in done.stdout


def test_a_closed_output_is_no_error_and_lends_its_number_to_no_file(tmp_path: Path) -> None:
    target = tmp_path / "o.yaml"
    (tmp_path / "w.txt").write_text("0:cup\n")
    done = shell(f"fcclip vocab convert {tmp_path / 'w.txt'} {target} <&- >&- 2>&-")
    assert done.returncode == 0 and "cup" in target.read_text() and "written to" not in target.read_text()
    assert shell("fcclip weights list >&-").stderr == ""


def test_a_full_output_is_an_error_of_one_line() -> None:
    for command in ("weights list", "vocab list"):
        done = shell(f"fcclip {command} > /dev/full")
        assert done.returncode == 2
        assert done.stderr == "fcclip: the standard output cannot be written: No space left on device\n"


def test_notes_that_cannot_be_written_end_no_run() -> None:
    class Full:
        encoding = "utf-8"

        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

        flush = isatty = lambda self: False

    before, sys.stderr = sys.stderr, Full()  # type: ignore[assignment]
    try:
        with progress_bar(Terminal(stderr=True)) as progress:
            progress.console.print("a note")
    finally:
        sys.stderr = before


@pytest.mark.parametrize("alone", [{"RANK": "3"}, {"RANK": "0", "WORLD_SIZE": "2"}, {"RANK": "x", "LOCAL_RANK": "y"}])
def test_rank_alone_in_the_environment_is_no_group_of_processes(
    alone: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in alone.items():
        monkeypatch.setenv(name, value)
    with distributed.workers(torch.device("cpu")) as device:
        assert device == torch.device("cpu") and distributed.is_first()


def test_a_group_that_does_not_come_together_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"RANK": "x", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(FcclipError, match="do not come together .*RANK=x"), distributed.workers(torch.device("cpu")):
        raise AssertionError


def test_commands_work_without_home_folder_and_passwd_entry(tmp_path: Path) -> None:
    """As in `docker run --user 12345`: played by a Python that finds neither."""
    (tmp_path / "~words.txt").write_text("0:cup\n")
    (tmp_path / "sitecustomize.py").write_text(
        "import os, pwd\nos.environ.pop('HOME', None)\n"
        "def missing(*_):\n    raise KeyError('no such user')\n"
        "pwd.getpwuid = pwd.getpwnam = missing\n"
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    for arguments, code, said in (
        (["vocab", "check", "~words.txt"], 0, "usable: 1 classes"),
        (["vocab", "check", "~/words.txt"], 1, "there is no home folder"),
        (["vocab", "convert", "~words.txt", "~nobody.yaml"], 0, "written to ~nobody.yaml"),
        (["doctor"], None, "checkpoints"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "fcclip_core.cli", *arguments],
            capture_output=True,
            text=True,
            timeout=180,
            cwd=tmp_path,
            env=environment,
        )
        assert "Traceback" not in done.stderr and "unexpected" not in done.stderr, done.stderr
        assert code is None or (done.returncode == code and said in done.stdout), done.stdout + done.stderr
    assert (tmp_path / "~nobody.yaml").is_file()
