"""`fcclip export`: what it writes and says, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fcclip_core import cli
from fcclip_core.backends import create_backend
from fcclip_core.weights.checkpoints import load_checkpoint, load_model


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FCCLIP_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_writes_a_checked_file_and_builds_what_the_backend_finds(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("onnx", "onnxruntime", "openvino"):
        pytest.importorskip(module)
    arguments = ["export", "recipe:tiny", "--out", str(tmp_path), "--engine", "--device", "cpu", "--precision", "fp32"]
    # 48x64 at 64 pixels becomes 64x85, which is padded to 64x96.
    assert cli.main([*arguments, "--camera", "64x48", "--shorter-side", "64", "--size", "96x64"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "OpenVINO" in said
    assert f"ready for 1x64x96-fp32; kept in {cache / 'built'}" in said
    assert "tiny-1x64x96-fp32.onnx: 7 MB, run by ONNX Runtime" in said
    assert "differs from eager PyTorch by" in said
    assert [path.name for path in tmp_path.glob("*.onnx")] == ["tiny-1x64x96-fp32.onnx"]
    assert sorted(path.suffix for path in (cache / "built").iterdir()) == [".graph", ".reference"]

    backend = create_backend(
        "openvino", load_model(load_checkpoint("recipe:tiny")), torch.device("cpu"), precision="fp32"
    )
    backend(torch.zeros(1, 3, 64, 96))
    assert backend.description.startswith("OpenVINO")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--size", "64x64"], "nothing to do"),
        (["--out", "."], "no size"),
        (["--out", "nowhere", "--size", "64x64"], "nowhere is not a folder"),
        (["--out", ".", "--size", "64x60"], "multiples of 32"),
        (["--out", ".", "--size", "64"], "WIDTHxHEIGHT"),
        (["--out", ".", "--camera", "0x64"], "has no pixels"),
        (["--out", ".", "--size", "64x64", "--batch", "0"], "batch is 0"),
        (["--engine", "--size", "64x64", "--device", "cpu", "--backend", "tensorrt"], "TensorRT"),
    ],
)
def test_refuses(
    arguments: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["export", "recipe:tiny", *arguments]) == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.glob("*.onnx"))
