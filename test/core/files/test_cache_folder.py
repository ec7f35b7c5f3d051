"""Which folder is used, whose files in it are believed, and what happens to those who have none."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from fcclip_core.files import cache_folder as module
from fcclip_core.files.cache_folder import cache_folder, guard_compilers, open_ours
from fcclip_core.files.regular_files import NotRegularError, open_regular

STRANGER = 54_321


@pytest.fixture(autouse=True)
def own_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home and a folder of temporary files inside the test's own, and nothing said yet."""
    (tmp_path / "home").mkdir(mode=0o700)
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o1777)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(module.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    for name in ("FCCLIP_CACHE_DIR", "XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    module._say_once.cache_clear()


def owned_by_stranger(monkeypatch: pytest.MonkeyPatch, *paths: Path) -> None:
    """What `os.stat` and `os.fstat` say of these paths: another user's."""
    strange = {(path.stat().st_dev, path.stat().st_ino) for path in paths}

    def disguised(about: os.stat_result) -> os.stat_result:
        if (about.st_dev, about.st_ino) not in strange:
            return about
        return os.stat_result((*about[:4], STRANGER, STRANGER, *about[6:]))

    for name in ("stat", "fstat"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, _real=real, **k: disguised(_real(*a, **k)))


@pytest.mark.parametrize(
    ("own", "shared", "expected"),
    [
        ("own", "shared", "own"),
        (None, "shared", "shared/fcclip_ros"),
        ("", "", "home/.cache/fcclip_ros"),
        ("~/mine", None, "home/mine"),
    ],
)
def test_cache_folder(
    own: str | None, shared: str | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("FCCLIP_CACHE_DIR", own), ("XDG_CACHE_HOME", shared)):
        if value is not None:
            monkeypatch.setenv(name, value if value.startswith("~") else value and str(tmp_path / value))
    found = cache_folder()
    assert found == tmp_path / expected
    assert found is not None
    assert found.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("home", [None, "/", "/nonexistent"])
def test_a_user_without_home_has_a_private_folder(
    home: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HOME")
    if home is not None:
        monkeypatch.setenv("HOME", home)

    def no_entry(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", no_entry)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).is_relative_to(tmp_path))
    real = Path.mkdir

    def mkdir(folder: Path, *options: object, **more: object) -> None:
        if not folder.is_relative_to(tmp_path):
            raise PermissionError(13, "Permission denied", str(folder))
        real(folder, *options, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "mkdir", mkdir)
    assert cache_folder() == tmp_path / "tmp" / f"fcclip_ros-{os.geteuid()}"


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o722])
def test_a_folder_that_others_can_write_is_not_used(
    mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(mode)
    monkeypatch.setenv("FCCLIP_CACHE_DIR", str(shared))
    monkeypatch.setattr(module, "_is_private", lambda group: False)
    assert cache_folder() == tmp_path / "home" / ".cache" / "fcclip_ros"
    assert cache_folder(shared) == tmp_path / "home" / ".cache" / "fcclip_ros"
    assert len(caplog.records) == 1
    assert f"nothing is loaded from {shared}" in caplog.text
    assert "chmod go-w" in caplog.text


def test_a_folder_below_one_that_others_can_write_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "shared" / "mine"
    inner.mkdir(parents=True, mode=0o700)
    inner.parent.chmod(0o777)
    assert cache_folder(inner) == tmp_path / "home" / ".cache" / "fcclip_ros"
    inner.parent.chmod(0o1777)  # sticky: others cannot put another in its place
    assert cache_folder(inner) == inner


def test_a_link_to_a_folder_that_others_can_write_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    (tmp_path / "link").symlink_to(tmp_path / "shared")
    assert cache_folder(tmp_path / "link") == tmp_path / "home" / ".cache" / "fcclip_ros"


def test_another_users_volume_is_not_used_even_by_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    volume = tmp_path / "volume"
    volume.mkdir(mode=0o700)
    owned_by_stranger(monkeypatch, volume)
    assert cache_folder(volume) == tmp_path / "home" / ".cache" / "fcclip_ros"
    assert f"it belongs to user {STRANGER}" in caplog.text


def test_where_no_folder_is_safe_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    owned_by_stranger(monkeypatch, tmp_path)
    assert cache_folder() is None
    assert "nothing is cached for the next start" in caplog.text


def test_a_planted_file_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, open_to_all = tmp_path / "kernel.so", tmp_path / "open.so"
    for path in (kernel, open_to_all):
        path.write_bytes(b"x")
    open_to_all.chmod(0o666)
    open_ours(kernel).close()
    with pytest.raises(PermissionError, match="everybody can write"):
        open_ours(open_to_all)
    owned_by_stranger(monkeypatch, kernel)
    with pytest.raises(PermissionError, match=f"belongs to user {STRANGER}"):
        open_ours(kernel)


def test_pipes_sockets_devices_and_folders_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for path, what in (
            (tmp_path / "pipe", "a pipe"),
            (tmp_path / "socket", "a socket"),
            (Path("/dev/zero"), "a device"),
            (tmp_path, "a folder"),
        ):
            with pytest.raises(NotRegularError, match=what):
                open_regular(path)
    with pytest.raises(OSError, match="not a file name"):
        open_regular(Path("a\0b"))


def test_compilers_keep_code_where_nobody_else_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    planted = tmp_path / "tmp" / "torchinductor_robot"
    planted.mkdir()
    planted.chmod(0o777)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(planted))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "home" / "triton"))
    guard_compilers()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "home" / ".cache" / "fcclip_ros" / "torchinductor")
    assert os.environ["TRITON_CACHE_DIR"] == str(tmp_path / "home" / "triton")
    assert f"{planted} is not used" in caplog.text


def test_compilers_have_a_folder_where_the_user_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> Path:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr(module, "_inductor_folder", nameless)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "home" / "triton"))
    guard_compilers()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"].startswith(str(tmp_path))
