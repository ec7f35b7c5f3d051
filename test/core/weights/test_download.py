"""Downloads from a local server that behaves like Google Drive: whole or resumed, or one sentence and no file."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from drive_server import QUOTA, Drive, serving

from fcclip_core.errors import CheckpointError
from fcclip_core.weights import download as module
from fcclip_core.weights import drive_pages
from fcclip_core.weights.download import download

CONTENT = bytes(range(256)) * 2000
PAGE = "https://drive.google.com/file/d/1-file_ID/view"


@pytest.fixture
def drive(monkeypatch: pytest.MonkeyPatch) -> Iterator[Drive]:
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    found = Drive(CONTENT)
    with serving(found) as address:
        monkeypatch.setattr(drive_pages, "DIRECT", address)
        yield found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights.pth"


def refused(path: Path, **options: object) -> str:
    """The sentence with which a download fails; what is said of every failure is checked here."""
    with pytest.raises(CheckpointError) as caught:
        download(PAGE, path, **options)
    message = str(caught.value)
    assert message.startswith("weights.pth could not be downloaded: ")
    assert message.endswith(f"By hand: open {PAGE} in a browser, save the file, and run: fcclip weights import FILE")
    assert "\n" not in message
    assert not path.exists()
    return message


def test_a_large_file_arrives_whole_after_drives_question(drive: Drive, path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    download(PAGE, path, progress=lambda *state: seen.append(state))
    assert path.read_bytes() == CONTENT
    assert [name for name, _ in drive.asked] == ["/uc", "/download"]
    assert seen[-1] == ("downloading weights.pth", len(CONTENT), len(CONTENT))
    assert [found.name for found in path.parent.iterdir()] == ["weights.pth"]


def test_a_small_file_arrives_without_a_question(drive: Drive, path: Path) -> None:
    drive.asks = False
    download(PAGE, path)
    assert path.read_bytes() == CONTENT


def test_lost_connections_are_followed_by_others_from_where_they_broke(drive: Drive, path: Path) -> None:
    drive.cuts = [1000, 2000]
    download(PAGE, path)
    assert path.read_bytes() == CONTENT
    assert drive.starts == ["", "bytes=1000-", "bytes=3000-"]


def test_the_next_call_continues_an_interrupted_download(drive: Drive, path: Path) -> None:
    drive.cuts = [1000, 0]
    assert "the same command continues there" in refused(path)
    assert path.with_name("weights.pth.part").stat().st_size == 1000
    drive.asked.clear()
    download(PAGE, path)
    assert path.read_bytes() == CONTENT
    assert drive.starts == ["bytes=1000-"]


def test_a_download_interrupted_before_its_last_step_asks_the_server_nothing(
    drive: Drive, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "_verify", killed)
        with pytest.raises(KeyboardInterrupt):
            download(PAGE, path)
    assert not path.exists()
    drive.asked.clear()
    download(PAGE, path)
    assert path.read_bytes() == CONTENT
    assert drive.asked == []


def test_a_file_that_changed_on_the_server_begins_anew(drive: Drive, path: Path) -> None:
    drive.cuts = [1000, 0]
    refused(path)
    drive.content, drive.version = CONTENT[::-1], '"v2"'
    download(PAGE, path)
    assert path.read_bytes() == CONTENT[::-1]


def test_a_server_that_continues_with_another_file_is_noticed(drive: Drive, path: Path) -> None:
    drive.version = ""
    drive.cuts = [1000, 0]
    refused(path)
    drive.content = CONTENT[5:]
    assert "continues with another file" in refused(path)


@pytest.mark.parametrize("record", ["", "{", "[]", '{"url": 1, "size": 2, "version": ""}', '{"size": 9}'])
def test_a_part_without_a_whole_record_begins_anew(drive: Drive, path: Path, record: str) -> None:
    path.with_name("weights.pth.part").write_bytes(b"of something else")
    path.with_name("weights.pth.part.json").write_text(record)
    download(PAGE, path)
    assert path.read_bytes() == CONTENT
    assert drive.starts == [""]


def test_a_part_of_another_address_begins_anew(drive: Drive, path: Path) -> None:
    path.with_name("weights.pth.part").write_bytes(b"of something else")
    record = {"url": "http://example.org/else", "size": len(CONTENT), "version": '"v1"'}
    path.with_name("weights.pth.part.json").write_text(json.dumps(record))
    download(PAGE, path)
    assert path.read_bytes() == CONTENT


def test_a_file_of_unknown_length_is_whole_only_if_its_check_says_so(drive: Drive, path: Path) -> None:
    drive.has_length = False
    drive.cuts = [1000]

    def check(part: Path) -> None:
        if part.stat().st_size < len(CONTENT):
            raise CheckpointError("it is truncated")

    assert "what the server sent is removed, because it is not the published file (it is truncated)" in refused(
        path, check=check
    )
    assert list(path.parent.iterdir()) == []
    download(PAGE, path, check=check)
    assert path.read_bytes() == CONTENT


def test_the_right_checksum_is_accepted_and_a_wrong_one_leaves_nothing(drive: Drive, path: Path) -> None:
    right = hashlib.sha256(CONTENT).hexdigest()
    assert f"its SHA-256 is {right}, not {'0' * 64}" in refused(path, sha256="0" * 64)
    assert list(path.parent.iterdir()) == []
    download(PAGE, path, sha256=right.upper())
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("page", "status", "said"),
    [
        pytest.param(QUOTA, 200, "download quota of this file is used up for now; try again in a day", id="quota"),
        pytest.param(QUOTA, 403, "answers 403 Forbidden: Google Drive's download quota", id="quota with a status"),
        pytest.param("<html><title>Sign in</title>", 200, "a web page called 'Sign in' instead", id="some page"),
        pytest.param("<html>", 200, "the server sent a web page instead of the file", id="a page without a title"),
        pytest.param("<html>", 503, "the server answers 503 Service Unavailable", id="server error"),
        pytest.param("<title>" + "x" * 5000 + "\n\x1b[31m</title>", 200, "called 'xxx", id="a long title"),
    ],
)
def test_a_page_instead_of_the_file_is_said(drive: Drive, path: Path, page: str, status: int, said: str) -> None:
    drive.page, drive.page_status = page, status
    message = refused(path)
    assert said in message
    assert len(message) < 600
    assert path.with_name("weights.pth.part").read_bytes() == b""


def test_a_file_that_is_gone_is_said(drive: Drive, path: Path) -> None:
    drive.id = "another"
    assert "the server answers 404 Not Found" in refused(path)


@pytest.mark.parametrize("action", ["file:///etc/passwd", "ftp://127.0.0.1/x", "javascript:alert(1)"])
def test_the_question_cannot_lead_to_another_protocol(drive: Drive, path: Path, action: str) -> None:
    drive.action = action
    assert "a web page called 'Google Drive - Virus scan warning'" in refused(path)


def test_encryption_is_not_given_up() -> None:
    page = '<form id="download-form" action="http://example.org/x"></form>'
    assert drive_pages.confirmed(page, "https://drive.google.com/uc?id=1") == ""
    assert drive_pages.confirmed(page, "http://localhost/uc?id=1") == "http://example.org/x?"


def test_a_login_is_said() -> None:
    assert "asks for a login" in drive_pages.why_no_file("<title>Sign in</title>", "https://accounts.google.com/v3")


def test_a_full_disk_is_said_and_the_download_continues_once_there_is_room(
    drive: Drive, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BLOCK", 1000)

    class FullDisk(module.FileIO):
        def write(self, data: bytes) -> int:
            if self.tell() >= 3000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    with monkeypatch.context() as patched:
        patched.setattr(module, "FileIO", FullDisk)
        assert f"no space is left in {path.parent}; make room, and the same command continues" in refused(path)
    drive.asked.clear()
    download(PAGE, path)
    assert path.read_bytes() == CONTENT
    assert drive.starts == ["bytes=3000-"]


def test_a_disk_without_room_for_the_file_is_said_before_the_first_byte(
    drive: Drive, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9, 0))
    assert f"{path.parent} has 0 MB free, but 1 MB are needed" in refused(path)
    assert path.with_name("weights.pth.part").read_bytes() == b""


def test_without_a_network_the_system_is_quoted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object, **__: object) -> list:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    for variable in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    assert "could not be downloaded: Temporary failure in name resolution. By hand" in refused(path)


def test_a_proxy_that_does_not_answer_is_named_without_its_password(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens there
        port = taken.getsockname()[1]
        monkeypatch.delenv("HTTPS_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.setenv("https_proxy", f"http://me:secret@127.0.0.1:{port}")
        message = refused(path)
    assert "Connection refused; https_proxy names the proxy 127.0.0.1" in message
    assert "secret" not in message


def test_a_folder_that_cannot_be_written_is_named(drive: Drive, tmp_path: Path) -> None:
    assert f"{tmp_path / 'nowhere' / 'weights.pth.part'}: No such file" in refused(tmp_path / "nowhere" / "weights.pth")


def test_an_endless_file_is_given_up(drive: Drive, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SIZE", 1000)
    drive.has_length = False
    assert "sends more than 1,000 bytes" in refused(path)


def _hold(part: str, held: multiprocessing.synchronize.Event, done: multiprocessing.synchronize.Event) -> None:
    with module._locked(Path(part)):
        held.set()
        done.wait(30)


def test_two_processes_do_not_write_one_file(drive: Drive, path: Path) -> None:
    context = multiprocessing.get_context("fork")
    held, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(str(path.with_name("weights.pth.part")), held, done))
    other.start()
    try:
        assert held.wait(30)
        assert "another process is downloading it; wait for that one" in refused(path)
    finally:
        done.set()
        other.join()
    download(PAGE, path)
    assert path.read_bytes() == CONTENT
