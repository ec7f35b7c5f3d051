"""`fcclip weights install`: from a published file on a server to a model that goes by its name, or nothing."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from drive_server import QUOTA, Drive, serving
from key_lists import listed_state, only_clip, without_clip

from fcclip_core import Segmenter
from fcclip_core.cli import main
from fcclip_core.errors import CheckpointError
from fcclip_core.weights import drive_pages, model_zoo, weight_files
from fcclip_core.weights.checkpoints import load_checkpoint
from fcclip_core.weights.model_zoo import imported_models

PAGE = "https://drive.google.com/file/d/1-file_ID/view"


def published(state: dict[str, torch.Tensor]) -> bytes:
    """A file as the authors' training writes it."""
    file = io.BytesIO()
    torch.save({"model": state, "iteration": 1}, file)
    return file.getvalue()


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of installed models; the preset tiny is a published model, the worst of all."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    worst = model_zoo.Scores(miou=0.1, pq=0.1)
    tiny = replace(
        model_zoo.PUBLISHED_MODELS[1],
        key="tiny",
        name="FC-CLIP (Tiny)",
        preset="tiny",
        url=PAGE,
        file_name="fcclip_tiny.pth",
        ade20k=worst,
    )
    monkeypatch.setattr(model_zoo, "PUBLISHED_MODELS", (*model_zoo.PUBLISHED_MODELS, tiny))
    return tmp_path / "fcclip_ros" / "models"


@pytest.fixture
def drive(models: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Drive]:
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    found = Drive(published(listed_state("tiny")))
    with serving(found) as address:
        monkeypatch.setattr(drive_pages, "DIRECT", address)
        yield found


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_an_installed_model_goes_by_its_name_in_python_and_commands_and_as_auto(
    drive: Drive, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["weights", "install", "tiny"]) == 0
    said = capsys.readouterr().err
    assert "tiny is installed: --checkpoint tiny, checkpoint:=tiny; auto finds it too" in said
    assert PAGE in said and "license  Apache-2.0" in said
    assert files(models) == ["tiny.safetensors"]
    assert list(imported_models()) == ["tiny"]

    checkpoint = load_checkpoint("tiny")
    (source,) = checkpoint.provenance.sources
    assert (source.name, source.origin) == ("fcclip_tiny.pth", PAGE)
    assert source.sha256 == hashlib.sha256(drive.content).hexdigest()
    segmenter = Segmenter.from_checkpoint("tiny", device="cpu", backend="eager")
    assert segmenter.config.name == "tiny"
    assert load_checkpoint("auto").text_tower_id == checkpoint.text_tower_id
    assert main(["weights", "import", "tiny", "-o", str(models / "copy.safetensors")]) == 0


def test_what_is_installed_is_not_downloaded_again_unless_asked_for(
    drive: Drive, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["weights", "install", "tiny"]) == 0
    drive.asked.clear()
    capsys.readouterr()
    assert main(["weights", "install", "tiny"]) == 0
    assert "tiny is installed: " in capsys.readouterr().err
    assert drive.asked == []
    assert main(["weights", "install", "tiny", "--reinstall", "--dtype", "float16"]) == 0
    assert drive.starts == [""]


def test_an_interrupted_download_is_continued_by_the_same_command(
    drive: Drive, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drive.cuts = [5000, 0]
    assert main(["weights", "install", "tiny"]) == 2
    assert "the same command continues there" in capsys.readouterr().err
    assert files(models) == ["downloads/fcclip_tiny.pth.part", "downloads/fcclip_tiny.pth.part.json"]
    assert not imported_models()
    assert main(["weights", "install", "tiny"]) == 0
    assert drive.starts == ["", "bytes=5000-", "bytes=5000-"]
    assert files(models) == ["tiny.safetensors"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(published(listed_state("rn50")), "contains FC-CLIP with rn50, not tiny", id="another model"),
        pytest.param(published({**listed_state("tiny"), "extra": torch.ones(1)}), "1 not expected: extra", id="a key"),
        pytest.param(b"<!DOCTYPE html><html>", "is a web page", id="a page that says that it is a file"),
        pytest.param(b"", "is empty (0 bytes)", id="nothing"),
    ],
)
def test_another_file_is_not_installed_and_not_kept(
    drive: Drive, models: Path, capsys: pytest.CaptureFixture[str], content: bytes, said: str
) -> None:
    drive.content = content
    assert main(["weights", "install", "tiny"]) == 2
    message = capsys.readouterr().err
    assert "what the server sent is removed, because it is not the published file" in message
    assert said in message
    assert "fcclip weights import FILE" in message
    assert files(models) == []
    with pytest.raises(
        CheckpointError, match="tiny is not installed on this machine; run: fcclip weights install tiny"
    ):
        load_checkpoint("tiny")


def test_a_byte_that_changed_on_the_way_is_noticed_by_the_archives_own_checksum(
    drive: Drive, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with zipfile.ZipFile(io.BytesIO(drive.content)) as archive:
        tensor = next(member for member in archive.infolist() if "/data/" in member.filename)
    # The data follows a header of 30 bytes, the name, and a field whose length stands in the header's last two bytes.
    header = drive.content[tensor.header_offset :][:30]
    damaged = bytearray(drive.content)
    damaged[tensor.header_offset + 30 + len(tensor.filename) + int.from_bytes(header[28:], "little")] ^= 1
    drive.content = bytes(damaged)
    assert main(["weights", "install", "tiny"]) == 2
    assert "the checksum of its member" in capsys.readouterr().err
    assert files(models) == []


def test_a_wrong_checksum_and_an_exhausted_quota_leave_nothing(
    drive: Drive, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["weights", "install", "tiny", "--sha256", "0" * 64]) == 2
    assert f"not {'0' * 64}" in capsys.readouterr().err
    drive.page = QUOTA
    assert main(["weights", "install", "tiny"]) == 2
    assert "Google Drive's download quota" in capsys.readouterr().err
    assert not imported_models()
    assert "downloads/fcclip_tiny.pth" not in files(models)


def test_a_download_outlives_a_failed_import(
    drive: Drive, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The usual case on a machine that reaches Google Drive, but not the Hugging Face hub."""
    state = listed_state("tiny")
    drive.content = published(without_clip(state))
    assert main(["weights", "install", "tiny"]) == 2
    assert "CLIP of preset tiny is not published" in capsys.readouterr().err
    assert files(models) == ["downloads/fcclip_tiny.pth"]
    drive.asked.clear()
    torch.save(only_clip(state), tmp_path / "clip.pt")
    assert main(["weights", "install", "tiny", "--clip", str(tmp_path / "clip.pt")]) == 0
    assert drive.asked == []
    assert files(models) == ["tiny.safetensors"]


def test_a_full_disk_while_the_model_is_written_keeps_the_download(
    drive: Drive, models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weight_files, "save_file", full)
    assert main(["weights", "install", "tiny"]) == 2
    assert "tiny.safetensors cannot be written: [Errno 28] No space left on device" in capsys.readouterr().err
    assert files(models) == ["downloads/fcclip_tiny.pth"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["convnext_larg"], "no published model is called 'convnext_larg'; did you mean convnext_large?; there are "),
        (["tiny", "--sha256", "abc"], "--sha256 is 'abc'; expected 64 hexadecimal digits"),
    ],
)
def test_wrong_arguments_are_said(
    models: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(["weights", "install", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_user_without_a_home_is_told_what_to_do(
    models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert main(["weights", "install", "tiny"]) == 2
    assert "no home folder to put models in; set XDG_DATA_HOME" in capsys.readouterr().err


def test_a_name_that_is_nearly_that_of_a_published_model_is_suggested(models: Path) -> None:
    with pytest.raises(CheckpointError, match="did you mean rn50x64?"):
        load_checkpoint("rn50x65")
