"""Merging on the device against `panoptic_segments`, and its kernel against the plain form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gpu_kernels import (
    DEVICE,
    GPUS,
    INTERPRETED,
    LAUNCHES,
    MOST_SPILLED,
    compile_for,
    needs_triton,
    runs_kernels,
)
from merged_frames import CASES, THINGS, Case, assert_merged, draw

from fcclip_core.inference import postprocess_gpu as device_postprocess
from fcclip_core.inference.mask_resize import MaskResizer
from fcclip_core.inference.ownership import FrameTaps, OwnedPixels, owned_pixels
from fcclip_core.inference.postprocess import ClassifiedMasks
from fcclip_core.inference.postprocess_gpu import DeviceMerger
from fcclip_core.inference.preprocess import FrameGeometry
from fcclip_core.settings import InferenceSettings

if LAUNCHES:
    from fcclip_core.inference.ownership_triton import owned_pixels_by_triton


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("seed", range(3))
def test_merges_as_panoptic_segments(case: Case, seed: int) -> None:
    frame = draw(case, seed, DEVICE)
    assert_merged(DeviceMerger(DEVICE)(frame), frame, apart=0.0 if DEVICE.type == "cpu" else 0.001)


def test_cases_cover_what_they_say() -> None:
    # Guards the test above: merged stuff, rejected masks and dropped queries must all happen in it.
    stuff_merged = rejected = 0
    for case in CASES.values():
        frame = draw(case, device=DEVICE)
        kept = frame.class_probs.max(-1).indices < len(THINGS)
        merger = DeviceMerger(DEVICE)
        merged = merger(frame)
        stuff = [label for label in merged.class_indices.tolist() if not THINGS[label]]
        assert len(set(stuff)) == len(stuff)
        accepted = int((merged.areas > 0).sum())
        rejected += int(kept.sum()) - accepted > 3
        stuff_merged += len(stuff) > 1
    assert stuff_merged >= 3
    assert rejected >= 3


def test_results_survive_the_next_frame() -> None:
    merger, case = DeviceMerger(DEVICE), CASES["shrunk, not padded"]
    frames = [draw(case, seed, DEVICE) for seed in range(3)]

    def run(frame: ClassifiedMasks) -> list[np.ndarray]:
        merged = merger(frame)
        return list(vars(merged).values())

    first = run(frames[0])
    kept = [part.copy() for part in first]
    for frame in frames[1:]:
        run(frame)
    for part, before in zip(first, kept, strict=True):
        np.testing.assert_array_equal(part, before)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_taps_are_the_resizer_s(case: Case) -> None:
    logits = draw(case, device=DEVICE).mask_logits[:2]
    taps = FrameTaps.of(case.geometry, case.mask_size, DEVICE)
    enlarged = logits
    for axis, side in ((1, taps.rows), (2, taps.columns)):
        steps = torch.arange(side.weights.shape[1], device=DEVICE)
        indices = (side.first[:, None] + steps).clamp(max=case.mask_size[axis - 1] - 1)
        shape = (1, *side.weights.shape, 1) if axis == 1 else (1, 1, *side.weights.shape)
        weighted = enlarged.index_select(axis, indices.flatten()).unflatten(axis, indices.shape)
        enlarged = (weighted * side.weights.view(shape)).sum(axis + 1)
        assert side.weights.shape[1] <= 4
    bands = MaskResizer(case.geometry, case.mask_size, DEVICE).bands(logits)
    torch.testing.assert_close(enlarged, torch.cat([band for _, band in bands], 1), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("image", [(1, 400_000), (400_000, 1)])
def test_taps_of_a_line_are_few(image: tuple[int, int]) -> None:
    geometry = FrameGeometry.of(*image, InferenceSettings())
    taps = FrameTaps.of(geometry, (geometry.padded[0] // 4, geometry.padded[1] // 4), torch.device("cpu"))
    for axis, side in zip((taps.rows, taps.columns), image, strict=True):
        assert axis.weights.shape[0] == side
        assert axis.weights.shape[1] <= 4
        torch.testing.assert_close(axis.weights.sum(1), torch.ones(side))


def compare(ours: OwnedPixels, plain: OwnedPixels) -> None:
    """Equal but for pixels at which rounding decides."""
    disputed = int(((ours.owner != plain.owner) | (ours.inside != plain.inside)).sum())
    assert disputed <= 0.002 * ours.owner.numel(), disputed
    for name in ("mask_areas", "owned", "held"):
        difference = (getattr(ours, name) - getattr(plain, name)).abs()
        assert int(difference.max()) <= disputed + 1, name


@runs_kernels
@pytest.mark.parametrize("case", [case for case in CASES.values() if case.queries < 100], ids=str)
def test_kernel_gives_pixels_to_the_same_queries(case: Case) -> None:
    frame = draw(case, device=DEVICE)
    scores, labels = frame.class_probs.max(-1)
    kept = (labels < len(THINGS)) & (scores > case.threshold)
    ours = owned_pixels_by_triton(frame.mask_logits, scores, kept, FrameTaps.of(case.geometry, case.mask_size, DEVICE))
    plain = owned_pixels(frame.mask_logits, scores, kept, MaskResizer(case.geometry, case.mask_size, DEVICE))
    assert ours.inside.dtype == torch.bool
    if not kept.any():
        assert not ours.inside.any()
        assert not (ours.owned.any() or ours.mask_areas.any())
        return
    compare(ours, plain)
    assert int(ours.owned.sum()) == ours.owner.numel()


@runs_kernels
def test_kernel_lets_the_first_of_equal_queries_win() -> None:
    case = Case((20, 30), (64, 96), (64, 96), queries=4)
    logits = torch.full((4, 16, 24), 5.0, device=DEVICE)
    scores = torch.tensor([0.5, 0.9, 0.9, 0.9], device=DEVICE)
    kept = torch.tensor([True, False, True, True], device=DEVICE)
    found = owned_pixels_by_triton(logits, scores, kept, FrameTaps.of(case.geometry, case.mask_size, DEVICE))
    assert found.owner.unique().tolist() == [2]
    assert found.owned.tolist() == [0, 0, 600, 0]
    assert found.held.tolist() == [0, 0, 600, 0]
    assert found.mask_areas.tolist() == [600, 0, 600, 600]


@runs_kernels
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_kernel_reads_short_logits(dtype: torch.dtype) -> None:
    case = CASES["shrunk, not padded"]
    frame = draw(case, device=DEVICE)
    logits, scores = frame.mask_logits.to(dtype), frame.class_probs.max(-1).values
    kept = torch.ones_like(scores, dtype=torch.bool)
    taps = FrameTaps.of(case.geometry, case.mask_size, DEVICE)
    plain = owned_pixels(logits, scores, kept, MaskResizer(case.geometry, case.mask_size, DEVICE))
    compare(owned_pixels_by_triton(logits, scores, kept, taps), plain)


@needs_triton
def test_a_triton_whose_compiler_would_end_the_process_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    # 3.1 and 3.2 abort in LLVM on the small products, which no handler survives.
    import triton

    for version, is_asked in (("3.2.0", False), ("3.3.0", True), ("3.10.1", True)):
        monkeypatch.setattr(triton, "__version__", version)
        assert (device_postprocess._gpu_kernel() is not None) == is_asked


@needs_triton
@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="nothing to compile in the interpreter")
@pytest.mark.parametrize("capability", GPUS)
@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
def test_compiles_for_a_gpu_that_is_not_here(capability: int, dtype: str) -> None:
    import fcclip_core.inference.ownership_triton as module

    taps = {"ROW_TAPS": 3, "COLUMN_TAPS": 3}
    constants = taps | {"PATCH_ROWS": 16, "PATCH_COLUMNS": 32, "TILE_ROWS": 16, "TILE_COLUMNS": 64}
    constants |= {"CELL": 8, "COLUMNS": 64, "QUERIES": 256, "GROUPS": 8, "BINS": 256}
    types = dict.fromkeys(("scores", "row_weights", "column_weights", "extremes"), "*fp32")
    types |= dict.fromkeys(("row_first", "column_first", "listed", "owners", "counts"), "*i32")
    types |= dict.fromkeys(("mask_height", "mask_width", "cell_rows", "cell_columns", "height", "width"), "i32")
    types |= {"queries": "i32", "logits": f"*{dtype}", "kept": "*u8", "insides": "*u8", "bests": "*i64"}
    for kernel, warps in (
        (module._cell_kernel, 4),
        (module._list_kernel, 4),
        (module._compete_kernel, 4),
        (module._settle_kernel, 8),
    ):
        names = kernel.arg_names
        mine = {name: kind for name, kind in types.items() if name in names}
        own = {name: value for name, value in constants.items() if name in names}
        _, _, stack = compile_for(capability, kernel, mine, own, warps=warps)
        assert stack <= MOST_SPILLED, kernel.__name__
