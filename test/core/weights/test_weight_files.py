"""Files that nobody vouches for: each bad one gets a message that says what it is, and none runs code."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fcclip_core.errors import CheckpointError
from fcclip_core.weights.weight_files import is_torchscript, read_weight_file, sha256_of

Maker = Callable[[Path], None]


class Runs:
    """A pickle of this runs a command when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.witness}",)


def torch_bytes(content: object, **options: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def safetensors_bytes(folder: Path) -> bytes:
    save_file({"a": torch.arange(1000.0)}, folder / "whole.safetensors")
    return (folder / "whole.safetensors").read_bytes()


def plain_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("photos/cat.jpg", b"meow")
    return buffer.getvalue()


STATE = {"a.weight": torch.arange(1000.0), "a.bias": torch.ones(3)}
WHOLE = torch_bytes({"model": STATE})


@pytest.mark.parametrize(
    "content",
    [
        pytest.param({"model": STATE, "iteration": 7}, id="below model, as detectron2 saves it"),
        pytest.param({"state_dict": STATE}, id="below state_dict, as Lightning saves it"),
        pytest.param(STATE, id="bare"),
        pytest.param({"model": {name: torch.nn.Parameter(t) for name, t in STATE.items()}}, id="parameters"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_every_spelling_of_a_state_dictionary_is_read(tmp_path: Path, content: dict, zipped: bool) -> None:
    (tmp_path / "w.pth").write_bytes(torch_bytes(content, _use_new_zipfile_serialization=zipped))
    file = read_weight_file(tmp_path / "w.pth")
    assert list(file.tensors) == list(STATE)
    assert all(torch.equal(file.tensors[name], tensor) for name, tensor in STATE.items())
    assert not any(tensor.requires_grad for tensor in file.tensors.values())


def test_what_is_no_tensor_is_told_apart(tmp_path: Path) -> None:
    torch.save({**STATE, "epoch": 3}, tmp_path / "w.pth")
    assert read_weight_file(tmp_path / "w.pth").others == ("epoch",)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_tensors_are_views_of_the_mapped_file(tmp_path: Path, name: str) -> None:
    """So a checkpoint costs no memory until it is read, and is never held twice."""
    path = tmp_path / name
    if name.endswith("pth"):
        torch.save({"model": STATE}, path)
    else:
        save_file(STATE, path, {"about": "test"})
    file = read_weight_file(path)
    address = file.tensors["a.weight"].data_ptr()
    ranges = [line.split()[0] for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))]
    assert any(int(low, 16) <= address < int(high, 16) for low, high in (pair.split("-") for pair in ranges))
    assert torch.equal(file.tensors["a.weight"], STATE["a.weight"])


def test_content_decides_not_the_name(tmp_path: Path) -> None:
    (tmp_path / "misnamed.safetensors").write_bytes(WHOLE)
    assert "a.weight" in read_weight_file(tmp_path / "misnamed.safetensors").tensors


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "is empty", id="empty"),
        pytest.param(
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull", id="git-LFS pointer"
        ),
        pytest.param(b"\n<!DOCTYPE html><html><title>Google Drive</title>", "web page", id="HTML"),
        pytest.param(b"<HTML><body>404", "web page", id="HTML in capitals"),
        pytest.param(b"hello, I am a text file\n", "not a recognized checkpoint", id="text"),
        pytest.param(b"\xff\xd8\xff\xe0 a JPEG, long enough to be looked at", "not a recognized checkpoint", id="JPEG"),
        pytest.param(plain_zip(), "not from torch.save.*photos/cat.jpg", id="zip of something else"),
        pytest.param(WHOLE[:-100], "truncated or damaged", id="zip, tail cut"),
        pytest.param(WHOLE[: len(WHOLE) // 2], "truncated or damaged", id="zip, half"),
        pytest.param(WHOLE[:3], "truncated or damaged", id="zip, three bytes"),
        pytest.param(
            torch_bytes({"model": STATE}, _use_new_zipfile_serialization=False)[:-2000],
            "truncated or damaged",
            id="old form, tail cut",
        ),
        pytest.param(pickle.dumps({"model": {"a": np.ones(3)}}), "plain Python pickle", id="detectron2's .pkl"),
        pytest.param(torch_bytes(torch.ones(3)), "contains a Tensor", id="a tensor"),
        pytest.param(torch_bytes([1, 2]), "contains a list", id="a list"),
        pytest.param(torch_bytes({"epoch": 3}), "a dictionary without tensors.*epoch", id="no tensors"),
        pytest.param(torch_bytes({}), "a dictionary without tensors", id="empty dictionary"),
        pytest.param(torch_bytes({"model": torch.nn.Linear(2, 2)}), "torch.nn.modules.linear.Linear", id="whole model"),
    ],
)
def test_bad_file_is_refused_with_its_reason(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "bad.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=f"bad.pth.*{message}"):
        read_weight_file(tmp_path / "bad.pth")


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_truncated_safetensors_is_refused(tmp_path: Path, keep: float) -> None:
    whole = safetensors_bytes(tmp_path)
    (tmp_path / "cut.safetensors").write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(CheckpointError, match="cut.safetensors is truncated or damaged"):
        read_weight_file(tmp_path / "cut.safetensors")


def test_safetensors_whose_header_is_longer_than_the_file_is_refused(tmp_path: Path) -> None:
    whole = safetensors_bytes(tmp_path)
    (tmp_path / "cut.safetensors").write_bytes(whole[:20])
    with pytest.raises(CheckpointError, match="only 20 bytes"):
        read_weight_file(tmp_path / "cut.safetensors")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere.pth does not exist"):
        read_weight_file(tmp_path / "nowhere.pth")
    with pytest.raises(CheckpointError, match="is a folder"):
        read_weight_file(tmp_path)


@pytest.mark.parametrize("how", ["torch zip", "torch old form", "bare pickle"])
def test_code_in_a_file_never_runs(tmp_path: Path, how: str) -> None:
    witness = tmp_path / "ran"
    content = {"model": {"a": torch.ones(2), "b": Runs(witness)}}
    if how == "bare pickle":
        (tmp_path / "evil.pth").write_bytes(pickle.dumps(content))
    else:
        torch.save(content, tmp_path / "evil.pth", _use_new_zipfile_serialization=how == "torch zip")
    with pytest.raises(CheckpointError, match=r"could\s+run\s+code"):
        read_weight_file(tmp_path / "evil.pth")
    assert not witness.exists()
    # The trap itself works: without it this test could not fail.
    torch.load(io.BytesIO(torch_bytes(content)), weights_only=False)
    assert witness.exists()


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_torchscript_is_recognized_and_not_opened(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "program.pt")
    (tmp_path / "w.pth").write_bytes(WHOLE)
    assert is_torchscript(tmp_path / "program.pt")
    assert not is_torchscript(tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="TorchScript"):
        read_weight_file(tmp_path / "program.pt")


def test_hash_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(WHOLE)
    seen: list[tuple[int, int]] = []
    assert sha256_of(tmp_path / "w.pth", lambda *at: seen.append(at)) == hashlib.sha256(WHOLE).hexdigest()
    assert seen[-1] == (len(WHOLE), len(WHOLE))
