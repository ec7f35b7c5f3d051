"""Built files: used only if they are whole and were built from the same things; a bad folder costs time alone."""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fcclip_core.errors import BackendError
from fcclip_core.export import built_files
from fcclip_core.export.built_files import BuiltFiles

KEY = {"weights": "abc", "library": "TensorRT 10.3", "form": "1x64x64-fp16"}
CONTENT = b"engine " * 100


@dataclass
class Shop:
    """Builds, loads, and counts."""

    files: BuiltFiles
    builds: int = 0
    refuse: Callable[[bytes], bool] = field(default=lambda content: False)

    def get(self, key: dict[str, str] = KEY) -> bytes:
        return self.files.get("x.engine", key, self._build, self._load)

    def _build(self) -> bytes:
        self.builds += 1
        return CONTENT

    def _load(self, content: bytes) -> bytes:
        if self.refuse(content):
            raise BackendError("the library refuses it")
        return content


@pytest.fixture
def shop(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Shop:
    caplog.set_level(logging.INFO)
    return Shop(BuiltFiles(tmp_path / "built"))


@pytest.fixture
def path(shop: Shop) -> Path:
    """The file of a shop that has built once."""
    assert shop.get() == CONTENT
    return shop.files.folder / "x.engine"


def test_what_can_be_loaded_at_once_is_known_without_reading_it(shop: Shop, path: Path) -> None:
    assert shop.files.is_current("x.engine", KEY)
    assert not shop.files.is_current("x.engine", KEY | {"library": "TensorRT 10.4"})
    assert not shop.files.is_current("y.engine", KEY)
    path.write_bytes(path.read_bytes()[:-1])
    assert not shop.files.is_current("x.engine", KEY)
    path.write_bytes(b"something else")
    assert not shop.files.is_current("x.engine", KEY)
    assert not BuiltFiles(None).is_current("x.engine", KEY)


def test_built_once_and_then_read(shop: Shop, path: Path) -> None:
    assert shop.get() == CONTENT
    assert shop.builds == 1
    assert [file.name for file in path.parent.iterdir()] == ["x.engine"]
    assert shop.files.holds("x.engine")
    assert not shop.files.holds("y.engine")


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"library": "TensorRT 10.13"}, "its library is TensorRT 10.3; expected TensorRT 10.13"),
        ({"weights": "def"}, "its weights is abc; expected def"),
        ({"driver": "570"}, "its driver is not given; expected 570"),
    ],
)
def test_built_from_something_else(
    shop: Shop, path: Path, caplog: pytest.LogCaptureFixture, changed: dict[str, str], says: str
) -> None:
    key = {**KEY, **changed}
    assert shop.get(key) == CONTENT
    assert shop.builds == 2
    assert says in caplog.text
    assert shop.get(key) == CONTENT
    assert shop.builds == 2, "the new one must replace the old one"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda data: data[:-1], "truncated"),
        (lambda data: data[:10], "not written by this program, or is truncated"),
        (lambda data: data[:40], "header is damaged"),
        (lambda data: b"", "not written by this program"),
        (lambda data: b"\x7fELF" + data, "not written by this program"),
        (lambda data: data[:-5] + b"X" + data[-4:], "checksum"),
        (lambda data: data + b"tail", "truncated"),
        (lambda data: data.replace(b'"size"', b'"sise"'), "header is damaged"),
        (lambda data: built_files.MAGIC + b"\xff" * 8 + data, "header is damaged"),
        (lambda data: _with_header(b"[" * 500_000), "header is damaged"),
        (lambda data: _with_header(b'{"key": ' * 100_000), "header is damaged"),
        (lambda data: _with_header(b"\xff\xfe"), "header is damaged"),
        (lambda data: _with_header(b'{"key": [], "size": 1, "blake2b": ""}'), "header is damaged"),
        (lambda data: _with_header(b'{"key": {"weights": [[[]]]}, "size": 1, "blake2b": ""}'), "its weights is [[[]]]"),
        (lambda data: _with_header(_header(b'{"weights": "%s"}' % (b"x" * 90_000), b"1")), "xxx"),
        (lambda data: _with_header(_header(json.dumps(KEY).encode(), b"9" * 4000)), "a number of"),
        (lambda data: _with_header(_header(json.dumps(KEY).encode(), b"9" * 5000)), "header is damaged"),
        (lambda data: _with_header(_header(json.dumps(KEY).encode(), b"-1")), "truncated"),
    ],
)
def test_damaged_or_foreign(
    shop: Shop, path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[bytes], bytes], says: str
) -> None:
    path.write_bytes(damage(path.read_bytes()))
    assert shop.get() == CONTENT
    assert shop.builds == 2
    assert says in caplog.text
    assert "built again" in caplog.text
    assert shop.get() == CONTENT
    assert shop.builds == 2


def _header(key: bytes, size: bytes) -> bytes:
    return b'{"key": ' + key + b', "size": ' + size + b', "blake2b": ""}'


def _with_header(header: bytes) -> bytes:
    return built_files.MAGIC + len(header).to_bytes(8, "little") + header


def test_a_pipe_in_a_built_files_place_holds_nothing_up(
    shop: Shop, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.unlink()
    os.mkfifo(path)
    assert not shop.files.is_current("x.engine", KEY)
    assert shop.get() == CONTENT
    assert "is a pipe" in caplog.text
    assert shop.get() == CONTENT
    assert shop.builds == 2


def test_an_engine_that_others_can_write_is_built_again(
    shop: Shop, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.chmod(0o666)
    assert not shop.files.is_current("x.engine", KEY)
    assert shop.get() == CONTENT
    assert shop.builds == 2
    assert "everybody can write to it" in caplog.text
    assert path.stat().st_mode & 0o022 == 0


def test_refused_by_the_library_is_built_again_once(shop: Shop, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    answers = iter([True, False])
    shop.refuse = lambda content: next(answers)
    assert shop.get() == CONTENT
    assert shop.builds == 2
    assert "the library refuses it" in caplog.text


def test_refused_when_just_built_is_an_error_and_not_kept(shop: Shop) -> None:
    shop.refuse = lambda content: True
    with pytest.raises(BackendError, match="refuses"):
        shop.get()
    assert shop.files.is_empty()


def test_folder_that_cannot_be_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As root, a file in the way stands for a folder without write permission."""
    (tmp_path / "file").write_text("")
    shop = Shop(BuiltFiles(tmp_path / "file" / "built"))
    assert shop.get() == shop.get() == CONTENT
    assert shop.builds == 2
    assert "FCCLIP_CACHE_DIR" in caplog.text


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_read_only_folder(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(built_files.Path, "mkdir", refuse)
    assert shop.get() == CONTENT
    assert os.strerror(code) in caplog.text


def test_full_disk_leaves_nothing_behind(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(source: object, target: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert shop.get() == CONTENT
    assert "No space left on device" in caplog.text
    assert list(shop.files.folder.iterdir()) == []


def test_without_a_folder_everything_is_built() -> None:
    shop = Shop(BuiltFiles(None))
    assert shop.get() == shop.get() == CONTENT
    assert shop.builds == 2
    assert shop.files.is_empty()
