"""The benchmark programs that measure the node run: small runs, whose numbers mean nothing but must be there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from checkout import ROOT

MODEL = (
    "--checkpoint",
    "recipe:tiny",
    "--backend",
    "eager",
    "--device",
    "cpu",
    "--shorter-side",
    "64",
    "--threads",
    "1",
)


def run(program: str, *options: str | Path) -> str:
    command = [sys.executable, "-m", f"benchmarks.{program}", *MODEL, *options]
    result = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


@pytest.mark.slow
def test_a_large_image_is_measured() -> None:
    command = [sys.executable, "-m", "benchmarks.node.largest_image", "--pixels", "500000", "--shorter-side", "64"]
    command += ["--kind", "JPEG"]
    result = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    row = json.loads(result.stdout.splitlines()[-1])
    assert row["height"] * row["width"] == pytest.approx(500_000, rel=0.01)
    assert row["read"] > 0 and row["label"] > 0 and row["peak"] < 300


@pytest.mark.slow
def test_every_optional_output_has_its_cost(tmp_path: Path) -> None:
    out = tmp_path / "options.json"
    command = [
        sys.executable,
        "-m",
        "benchmarks.node.options",
        "--rounds",
        "2",
        "--size",
        "160x120",
        "--json",
        str(out),
    ]
    result = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(out.read_text())
    assert len(found["cpu_ms"]) == 5 and min(found["cpu_ms"].values()) > 0
    assert 0 < found["segments"] <= found["polygons"] < found["corners"]


@pytest.mark.slow
def test_what_the_node_adds_is_the_sum_of_its_stages(tmp_path: Path) -> None:
    out = tmp_path / "node.json"
    options = ("--size", "64x48", "--frames", "4", "--seconds", "1", "--rate", "10")
    printed = run("node.node", *options, "--outputs", "panoptic", "overlay", "--json", out)
    assert "the node adds, median" in printed
    found = json.loads(out.read_text())
    assert set(found["cases"]) == {"rgb8", "bgr8"}
    for case in found["cases"].values():
        stages = case["stages_ms_median"]
        assert {"take", "wait", "convert", "preprocess", "model", "classify", "merge", "publish"} <= set(stages)
        assert 0 < case["overhead_ms"]["median"] <= case["overhead_ms"]["p90"] < case["round_trip_ms_median"]
        assert case["lost"] == 0
        assert case["frames"]["received"] >= case["frames"]["labeled"] > 4
        stream = case["stream"]
        assert stream["shown"] >= stream["labeled"] >= stream["came_back"] > 0
    assert 0 < found["node_overhead_ms_median"] <= found["node_overhead_ms_p90"]


def test_no_picture_is_copied_twice() -> None:
    """The image in is a view of the message, or its conversion; an image out is written into its message."""
    from benchmarks.lib.copies import copies

    found = copies(640, 480)
    assert found.pop("rgb8 in") < 0.05
    assert set(found) >= {"bgr8 in", "panoptic out", "semantic out", "confidence out"}
    assert all(1.0 <= pictures < 2.0 for pictures in found.values()), found


@pytest.mark.slow
def test_a_change_of_words_is_measured_in_the_core_and_in_the_node(tmp_path: Path) -> None:
    out = tmp_path / "vocabulary.json"
    options = ("--words", "1", "5", "--repeat", "2", "--size", "64x48", "--rate", "8", "--steady", "0.5")
    printed = run("speed.vocabulary", *options, "--json", out)
    assert "in the node, 64x48" in printed
    found = json.loads(out.read_text())
    for count in ("1", "5"):
        core = found["core_ms"][count]
        assert 0 < core["warm"] < core["cold"]
        for change in found["node"][count].values():
            assert change["ms"] > 0
            assert change["shown"] > change["shown_during"] > 0
            assert change["shown"] >= change["missed"] >= change["missed_during"] >= 0


@pytest.mark.slow
def test_endurance_goes_through_core_and_node(tmp_path: Path) -> None:
    out = tmp_path / "endurance.json"
    printed = run("node.endurance", "--frames", "9", "--blocks", "3", "--size", "64x48", "--node", "--json", out)
    assert "through the node" in printed
    found = json.loads(out.read_text())
    for result in found["runs"].values():
        blocks = result["blocks"]
        assert [block["frames"] for block in blocks] == [3, 6, 9]
        assert all(50 < block["resident_mib"] < 10_000 for block in blocks)
        assert all(0 < block["latency_ms"]["p50"] <= block["latency_ms"]["p99"] for block in blocks)
        assert result["growth_mib"] == pytest.approx(blocks[-1]["resident_mib"] - blocks[0]["resident_mib"])


@pytest.mark.parametrize(
    "program",
    [
        "node.node",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("speed.vocabulary", "node.endurance", "node.soak")),
    ],
)
def test_every_program_explains_its_options(program: str) -> None:
    assert "--json FILE" in run(program, "--help")


@pytest.mark.slow
def test_a_soak_asks_for_everything_and_tells_what_came_back(tmp_path: Path) -> None:
    out = tmp_path / "soak.json"
    options = ("--checkpoint", "recipe:tiny", "--shorter-side", "96", "--size", "64x48", "--kill-every", "10")
    run("node.soak", *options, "--minutes", "0.5", "--json", out)
    record = json.loads(out.read_text())
    assert record["wrong"] == [] and record["frames_of_unannounced_versions"] == 0
    for kind in ("set_vocabulary answered", "find answered", "segment_image answered", "clients killed", "frames"):
        assert record["counts"][kind] > 1, kind


@pytest.mark.slow
def test_depth_has_its_cost_in_time_and_memory(tmp_path: Path) -> None:
    out = tmp_path / "depth.json"
    command = [sys.executable, "-m", "benchmarks.node.depth_node", "--frames", "10", "--rate", "10", "--json", out]
    result = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    cases = json.loads(out.read_text())["cases"]
    assert list(cases) == ["2-D, segments", "depth, segments", "depth, segments and points"]
    for case in cases.values():
        assert 0 < case["median_ms"] <= case["p99_ms"]
        assert 10 < case["memory_early_mb"] < 5000


@pytest.mark.slow
def test_frames_reach_the_other_process_with_every_profile(tmp_path: Path) -> None:
    out = tmp_path / "transport.json"
    options = ("--size", "64x48", "--rate", "10", "--seconds", "1", "--json", out)
    command = [sys.executable, "-m", "benchmarks.node.image_transport", *options]
    result = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    cases = json.loads(out.read_text())["cases"]
    assert len(cases) == 4
    assert all(10 <= case["of"] <= 11 and 0 < case["received"] <= case["of"] for case in cases)
