"""The benchmark programs run: numbers of such small runs mean nothing, but what is measured must be there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fcclip_core.model.config import PRESETS

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str | Path) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


def test_gpu_script_dry_runs(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    printed = run(ROOT / "benchmarks" / "gpu.sh", "--dry-run", "--python", sys.executable, "--out", out)
    assert "dry run" in printed
    assert "WRONG" not in printed
    found = json.loads(out.read_text())
    statuses = {name: part["status"] for name, part in found["parts"].items()}
    tensorrt = statuses.pop("tensorrt fp16")
    assert set(statuses.values()) == {"done"}, statuses
    assert "TensorRT" in tensorrt or "tensorrt" in tensorrt
    assert all(check["right"] for name, check in found["correctness"].items() if "bf16" not in name)
    ways = found["ways"]
    assert {"published fp32", "eager fp32", "Triton bf16", "graph bf16", "compiled bf16"} <= set(ways)
    assert all(way["network_ms"] > 0 and way["frame_ms"] > 0 for way in ways.values())
    assert set(ways["eager fp32"]["stages_ms"]) == set(found["gflop"])


def test_gpu_program_says_that_there_is_no_gpu() -> None:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "benchmarks/gpu.py"]
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 2
    assert "--dry-run" in result.stderr


def test_speed_compares_backends_by_stage(tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    options = ["--preset", "tiny", "--shorter-side", "64", "--repeat", "1", "--quick", "--device", "cpu"]
    printed = run(sys.executable, "benchmarks/speed.py", *options, "--backends", "eager", "eager:fp32", "--json", out)
    found = json.loads(out.read_text())
    assert set(found["ways"]) == {"eager", "eager:fp32"}
    for way in found["ways"].values():
        seconds = way["seconds"]["cpu"]
        assert seconds["backbone"] + seconds["pixel decoder"] <= seconds["network"] <= seconds["total"]
        assert way["pixels_apart"] == 0
        assert way["share_of_matmul"]["network"] > 0
    assert "backbone" in printed


def test_arithmetic_is_counted_by_stage() -> None:
    sys.path.insert(0, str(ROOT))
    from benchmarks.work import gflop_by_stage

    # Worked out by hand from layer sizes; the paper gives no numbers at this size.
    gflop = gflop_by_stage(PRESETS["convnext_large"], 1, 800, 1088)
    assert gflop["backbone"] == pytest.approx(1192, rel=0.01)
    assert gflop["pixel decoder"] == pytest.approx(161 + 77 + 3, rel=0.01)
    assert gflop["mask decoder"] == pytest.approx(35 + 21, rel=0.02)
    assert gflop_by_stage(PRESETS["tiny"], 2, 64, 96)["backbone"] == pytest.approx(
        2 * gflop_by_stage(PRESETS["tiny"], 1, 64, 96)["backbone"]
    )
