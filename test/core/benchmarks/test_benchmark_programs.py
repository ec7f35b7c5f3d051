"""The benchmark programs run: numbers of such small runs mean nothing, but what is measured must be there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from gl_here import needs_gl

from checkout import ROOT
from fcclip_core.model.config import PRESETS


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
    assert statuses.pop("network kernels") == "only on a GPU"
    assert set(statuses.values()) == {"done"}, statuses
    assert "TensorRT" in tensorrt or "tensorrt" in tensorrt
    checks = found["correctness"]
    assert all(check["right"] for name, check in checks.items() if "bf16" not in name and "recipe:" not in name)
    assert {"captured and uncaptured", "demo, words 2, classes apart", "demo, pairs apart"} <= set(checks)
    used = found["product"]["demo"]
    assert used["problem"] == "" and used["frame_ms"] > 0 and used["waits"] == []
    assert list(used["timings_ms"]) == ["preprocess", "model", "classify", "merge"]
    assert set(used["words_ms"]) == {"1 cold", "1 warm", "19 cold", "19 warm"}
    assert found["training"]["images_per_second"] > 0
    ways = found["ways"]
    assert {"published fp32", "eager fp32", "Triton bf16", "graph bf16", "compiled bf16"} <= set(ways)
    assert all(way["network_ms"] > 0 and way["frame_ms"] > 0 for way in ways.values())
    assert set(ways["eager fp32"]["stages_ms"]) == set(found["gflop"])


@needs_gl
@pytest.mark.slow
def test_gpu_training_dry_runs() -> None:
    printed = run(ROOT / "benchmarks" / "gpu_train.sh", "--dry-run", "--python", sys.executable)
    assert "dry run: trained, stopped and resumed" in printed


def test_kernels_are_summed_up_by_name_for_one_run() -> None:
    from benchmarks.lib.kernel_profile import summarize

    def kernel(name: str, at: float, took: float, kind: str = "kernel") -> dict:
        return {"cat": kind, "name": name, "ts": at, "dur": took, "args": {"registers per thread": 40}}

    events = [kernel("slow warm-up", 0, 900), kernel("copy", 900, 5, "gpu_memcpy"), kernel("tiny", 905, 1)]
    events += [kernel("tiny", 1010, 2), kernel("gemm", 1000, 8), kernel("tiny", 1014, 1)]
    events += [{"cat": "cuda_runtime", "name": name, "ts": 1} for name in ("cudaGraphLaunch",) * 4 + ("cudaMalloc",)]
    found = summarize(events, runs=2)
    assert (found["kernels"], found["busy_us"], found["span_us"]) == (3, 11, 15)
    assert [(row["name"], row["calls"], row["us"]) for row in found["top"]] == [("gemm", 1, 8), ("tiny", 2, 3)]
    assert found["runtime_calls"] == {"cudaGraphLaunch": 2, "cudaMalloc": 0.5}


def test_gpu_script_says_what_is_missing(tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    command = [str(ROOT / "benchmarks" / "gpu.sh"), "--dry-run", "--python", str(bare)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert result.returncode == 2
    assert "No module named" in result.stderr
    assert "--wheels" in result.stderr


BROKEN_PARTS = """
import ctypes, sys, time
sys.path.insert(0, {root!r})
from benchmarks.gpu import __main__ as gpu

def fail(run): raise ValueError("a part that fails")

def measure(run): run.found["measured"] = run.found.get("measured", 0) + 1

gpu.Part.limit_s = lambda self, *, dry: 1.0
gpu.PARTS = (
    gpu.Part("first", 1, measure),
    gpu.Part("reference", 1, gpu.compute_reference),
    gpu.Part("fails", 1, fail),
    gpu.Part("hangs", 1, lambda run: time.sleep(600)),
    gpu.Part("between", 1, measure),
    gpu.Part("crashes", 1, lambda run: ctypes.string_at(0)),
    gpu.Part("last", 1, lambda run: measure(run) if run.reference is not None else fail(run)),
)
sys.exit(gpu.main())
"""


@pytest.mark.slow
def test_a_part_that_hangs_or_crashes_costs_no_other(tmp_path: Path) -> None:
    program, out = tmp_path / "program.py", tmp_path / "gpu.json"
    program.write_text(BROKEN_PARTS.format(root=str(ROOT)))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(program), "--dry-run", "--json", str(out)]
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert result.returncode == 1, result.stderr[-3000:]
    found = json.loads(out.read_text())
    statuses = {name: part["status"] for name, part in found["parts"].items()}
    assert [name for name, status in statuses.items() if status == "done"] == ["first", "reference", "between", "last"]
    assert statuses["fails"] == "failed: ValueError: a part that fails"
    assert statuses["hangs"].startswith("failed: stopped after ")
    assert statuses["crashes"] == "failed: its process ended with status -11"
    assert found["wrong"] == ["fails", "hangs", "crashes"]
    assert found["measured"] == 3
    assert "WRONG: fails, hangs, crashes" in result.stderr


def test_gpu_program_says_that_there_is_no_gpu() -> None:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "benchmarks.gpu"]
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 2
    assert "--dry-run" in result.stderr


def test_speed_compares_backends_by_stage(tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    options = ["--preset", "tiny", "--shorter-side", "64", "--repeat", "1", "--quick", "--device", "cpu"]
    printed = run(
        sys.executable, "-m", "benchmarks.speed.speed", *options, "--backends", "eager", "eager:fp32", "--json", out
    )
    found = json.loads(out.read_text())
    assert set(found["ways"]) == {"eager", "eager:fp32"}
    for way in found["ways"].values():
        seconds = way["seconds"]["cpu"]
        assert seconds["backbone"] + seconds["pixel decoder"] <= seconds["network"] <= seconds["total"]
        assert way["pixels_apart"] == 0
        assert way["share_of_matmul"]["network"] > 0
    assert "backbone" in printed


@needs_gl
def test_single_pass_times_what_both_ways_share(tmp_path: Path) -> None:
    """The clocks are in the model's own modules, which not every backend runs."""
    out = tmp_path / "single_pass.json"
    options = ["--checkpoint", "recipe:tiny", "--seed", "7", "--limit", "1", "--shorter-side", "96"]
    run(sys.executable, "-m", "benchmarks.quality.single_pass", *options, "--json", out)
    ways = json.loads(out.read_text())["ways"]
    shared = [tuple(way["seconds"]["cpu"][stage] for stage in ("backbone", "mask generator")) for way in ways.values()]
    assert min(shared[0]) > 0
    assert len(ways) > 1
    assert set(shared) == {shared[0]}


def test_stages_are_compared(tmp_path: Path) -> None:
    out = tmp_path / "stages.json"
    options = ["--cases", "tiny_cat_96", "--backends", "onednn:fp32", "--json", out]
    printed = run(sys.executable, "-m", "benchmarks.quality.stages", *options)
    assert "WRONG" not in printed
    way = json.loads(out.read_text())["cases"]["tiny_cat_96"]["onednn:fp32"]
    assert way["equal_pixels"] == 1.0
    assert 0 < way["tensors"]["mask logits"]["rms"] < way["tensors"]["mask logits"]["max"] < 1e-3


@needs_gl
@pytest.mark.slow
def test_accuracy_agrees_with_the_evaluation_command(tmp_path: Path) -> None:
    out, evaluated = tmp_path / "accuracy.json", tmp_path / "evaluate.json"
    options = ["--checkpoint", "demo", "--shorter-side", "64", "--scenes", "2", "--device", "cpu"]
    printed = run(
        sys.executable, "-m", "benchmarks.quality.accuracy", *options, "--backends", "eager:fp32", "--json", out
    )
    assert "eager:fp32: eager PyTorch" in printed
    command = ["-m", "fcclip_core.cli", "evaluate", "world", *options, "--backend", "eager", "--json", evaluated]
    run(sys.executable, *command)
    ways = json.loads(out.read_text())["ways"]
    expected = json.loads(evaluated.read_text())
    for way in ways.values():
        for measure in ("pq.all", "pq.things", "miou.all"):
            assert way["scores"][measure] == pytest.approx(expected[measure], abs=0.01)
    again = ways["eager:fp32"]
    assert again["accepted"]
    assert again["equal_pixels"] == {"mean": 1.0, "worst": 1.0}
    assert again["largest_mask_logit_difference"] == 0


@needs_gl
@pytest.mark.slow
def test_vanished_masks_agree_with_the_evaluation_command(tmp_path: Path) -> None:
    out, options = tmp_path / "vanished.json", ["--checkpoint", "demo", "--shorter-side", "64", "--scenes", "2"]
    printed = run(sys.executable, "-m", "benchmarks.quality.vanished_masks", *options, "--seeds", "5", "--json", out)
    assert "of the object queries vanish" in printed
    found = json.loads(out.read_text())["seeds"]["5"]
    assert 0 < found["vanished_queries"] < 1
    evaluation = ["-m", "fcclip_core.cli", "evaluate", "world", *options, "--seed", "5", "--device", "cpu"]
    for rule, given in (("in-vocabulary alone", ()), ("best_cell", ("--vanished-masks", "best_cell"))):
        evaluated = tmp_path / f"{rule}.json"
        run(sys.executable, *evaluation, *given, "--json", evaluated)
        expected = json.loads(evaluated.read_text())
        for measure in ("pq.all", "pq.things", "miou.all", "segment_recall.all"):
            assert found["rules"][rule][measure] == pytest.approx(expected[measure], abs=0.01), (rule, measure)


def test_pixels_are_equal_where_segments_match() -> None:
    sys.path.insert(0, str(ROOT))
    from benchmarks.quality.accuracy import equal_share
    from fcclip_core.results import PanopticResult, Segment

    def result(rows: list[list[int]], *class_ids: int) -> PanopticResult:
        segments = [
            Segment(number, class_id, "", 1.0, True, 1, (0, 0, 1, 1), np.zeros(1))
            for number, class_id in enumerate(class_ids, 1)
        ]
        return PanopticResult(np.array(rows, np.int32), segments, 1, {})

    expected = result([[1, 1, 1, 2, 0], [1, 1, 1, 2, 0]], 7, 9)
    assert equal_share(expected, expected) == 1.0
    # Other numbers for the same segments.
    assert equal_share(expected, result([[2, 2, 2, 1, 0], [2, 2, 2, 1, 0]], 9, 7)) == 1.0
    # One pixel moved from the first segment to none: 9 of 10.
    assert equal_share(expected, result([[1, 1, 1, 2, 0], [1, 1, 0, 2, 0]], 7, 9)) == pytest.approx(0.9)
    # Another class for the second segment.
    assert equal_share(expected, result([[1, 1, 1, 2, 0], [1, 1, 1, 2, 0]], 7, 8)) == pytest.approx(0.8)
    # The first segment cut in thirds: no part is more than half of it.
    assert equal_share(expected, result([[1, 3, 4, 2, 0], [1, 3, 4, 2, 0]], 7, 9, 7, 7)) == pytest.approx(0.4)
    # Nothing found.
    assert equal_share(expected, result([[0] * 5] * 2)) == pytest.approx(0.2)


def test_arithmetic_is_counted_by_stage() -> None:
    sys.path.insert(0, str(ROOT))
    from benchmarks.lib.work import gflop_by_stage

    # Worked out by hand from layer sizes; the paper gives no numbers at this size.
    gflop = gflop_by_stage(PRESETS["convnext_large"], 1, 800, 1088)
    assert gflop["backbone"] == pytest.approx(1192, rel=0.01)
    assert gflop["pixel decoder"] == pytest.approx(161 + 77 + 3, rel=0.01)
    assert gflop["mask decoder"] == pytest.approx(35 + 21, rel=0.02)
    assert gflop_by_stage(PRESETS["tiny"], 2, 64, 96)["backbone"] == pytest.approx(
        2 * gflop_by_stage(PRESETS["tiny"], 1, 64, 96)["backbone"]
    )


def test_the_view_from_beside_is_upright_and_centered() -> None:
    sys.path.insert(0, str(ROOT))
    from demo.places_picture import SIZE, beside

    # A camera that looks along the world's x axis, tipped down by 30 degrees.
    pose = np.eye(4)
    pose[:3, :3] = np.array([[0, -0.5, 3**0.5 / 2], [-1, 0, 0], [0, -(3**0.5) / 2, -0.5]])
    up, target = pose[:3, :3].T @ [0, 0, 1], np.array([0.1, 0.2, 3.0])
    for azimuth in (-50.0, 0.0, 50.0):
        view = beside(SimpleNamespace(pose=pose), target, azimuth, 30.0, 4.0)
        assert np.linalg.norm(view.eye - target) == pytest.approx(4.0)
        assert (view.eye - target) @ up == pytest.approx(2.0)
        (center, above), depth = view.project(np.array([target, target + 0.1 * up]))
        assert depth[0] == pytest.approx(4.0)
        assert above[0] == pytest.approx(center[0])
        assert above[1] < center[1]
        assert center[0] / center[1] == pytest.approx(SIZE[0] / SIZE[1])
    # What looks to the left stands on the right.
    assert (beside(SimpleNamespace(pose=pose), target, 50.0, 30.0, 4.0).eye - target)[0] > 0


@needs_gl
@pytest.mark.slow
def test_the_picture_of_places_is_drawn(tmp_path: Path) -> None:
    printed = run(sys.executable, "-m", "demo.places_picture", "--out", tmp_path / "places.png")
    assert "yellow cylinder" in printed
    assert (tmp_path / "places.png").stat().st_size > 10_000


def test_bleeding_depth_lies_between_both_sides_of_an_edge_and_is_right_elsewhere() -> None:
    from benchmarks.quality.depth import bleeding

    depth = np.full((40, 60), 4.0, np.float32)
    depth[:, 30:] = 1.0
    bled = bleeding(depth, np.random.default_rng(1))
    near_the_edge = np.zeros(depth.shape, bool)
    near_the_edge[:, 27:33] = True
    np.testing.assert_array_equal(bled[~near_the_edge], depth[~near_the_edge])
    assert ((bled[near_the_edge] > 1.0) & (bled[near_the_edge] < 4.0)).all()
    assert len(np.unique(bled[near_the_edge])) == 5 * 2, "one for each 8 x 8 pixels"
