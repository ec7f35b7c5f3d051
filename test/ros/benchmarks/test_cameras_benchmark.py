"""benchmarks/node/cameras.py runs: two cameras, a tiny model, a few seconds; its numbers mean nothing here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ros_harness import ROOT


@pytest.mark.slow
def test_two_cameras_are_counted_one_by_one(tmp_path: Path) -> None:
    out = tmp_path / "cameras.json"
    options = ["--checkpoint", "recipe:tiny", "--shorter-side", "64", "--warm-up", "2", "--seconds", "6"]
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.node.cameras", *options, "--json", str(out)],
        cwd=ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert result.returncode in (0, 1), result.stdout + result.stderr
    found = json.loads(out.read_text())
    assert (result.returncode == 0) == (found["ratio"] >= 0.8)
    assert set(found["cameras"]) == {"camera_0", "camera_1"}
    for camera in found["cameras"].values():
        counts = camera["node_counts"]
        assert counts["labeled"] > 0
        # A frame may have been in work when the counting began.
        assert counts["batched"] <= counts["labeled"] <= counts["received"] + 1
        assert counts["bad"] == counts["failed"] == 0
        assert camera["sent_hz"] > 0 and camera["age_ms"]["median"] > 0
        assert "model" in camera["stages"]
    assert "slowest over fastest" in result.stdout
