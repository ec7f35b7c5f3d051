"""Merging on the device against `panoptic_segments`, and its kernel against the plain form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
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
from scipy import ndimage

from fcclip_core.inference import postprocess_gpu as device_postprocess
from fcclip_core.inference.mask_resize import MaskResizer
from fcclip_core.inference.ownership import FrameTaps, OwnedPixels, owned_pixels
from fcclip_core.inference.postprocess import ClassifiedMasks, panoptic_segments
from fcclip_core.inference.postprocess_gpu import DeviceMerger
from fcclip_core.inference.preprocess import FrameGeometry
from fcclip_core.settings import InferenceSettings

if LAUNCHES:
    from fcclip_core.inference.ownership_triton import owned_pixels_by_triton

THINGS = (True, True, False, False, False)


@dataclass(frozen=True)
class Case:
    """A frame's sizes, how many queries there are, and thresholds that keep some of them."""

    image: tuple[int, int]
    resized: tuple[int, int]
    padded: tuple[int, int]
    queries: int = 12
    threshold: float = 0.0
    overlap: float = 0.3
    void: float = 0.0

    @property
    def geometry(self) -> FrameGeometry:
        return FrameGeometry(self.image, self.resized, self.padded)

    @property
    def mask_size(self) -> tuple[int, int]:
        return self.padded[0] // 4, self.padded[1] // 4

    @property
    def settings(self) -> InferenceSettings:
        return InferenceSettings(object_mask_threshold=self.threshold, overlap_threshold=self.overlap)


CASES = {
    "shrunk, not padded": Case((45, 60), (96, 128), (96, 128)),
    "enlarged and padded": Case((75, 131), (48, 84), (64, 96)),
    "a threshold drops some": Case((40, 70), (64, 112), (64, 128), threshold=0.45),
    "void drops some": Case((40, 70), (64, 112), (64, 128), void=3.0),
    "nothing is kept": Case((20, 30), (64, 96), (64, 96), threshold=1.0),
    "one query": Case((20, 30), (64, 96), (64, 96), queries=1),
    "tiny image": Case((1, 3), (32, 96), (32, 96)),
    "more queries than a byte counts": Case((24, 33), (32, 44), (32, 64), queries=300, overlap=0.0),
    "every overlap is enough": Case((48, 48), (96, 96), (96, 96), overlap=0.0),
}


def draw(case: Case, seed: int = 0) -> ClassifiedMasks:
    """Blobs of all sizes, most of a mask far from zero, as masks are."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(case.queries, 1, 4, 5, generator=generator) * 12 - 3
    logits = F.interpolate(coarse, size=case.mask_size, mode="bicubic")[:, 0]
    probs = torch.randn(case.queries, len(THINGS) + 1, generator=generator) * 2
    probs[:, -1] += case.void
    embeddings = torch.randn(case.queries, 7, generator=generator) * 3
    tensors = (logits, probs.softmax(-1), embeddings, torch.tensor(THINGS))
    return ClassifiedMasks(*(tensor.to(DEVICE) for tensor in tensors), case.geometry, case.settings)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("seed", range(3))
def test_merges_as_panoptic_segments(case: Case, seed: int) -> None:
    frame = draw(case, seed)
    resizer = MaskResizer(case.geometry, case.mask_size, DEVICE)
    expected = panoptic_segments(frame.mask_logits, frame.class_probs, frame.is_thing, resizer, case.settings)
    merged = DeviceMerger(DEVICE)(frame)
    assert merged.segment_map.dtype == np.int32
    assert (merged.segment_map != expected.segment_map).mean() <= (0.0 if DEVICE.type == "cpu" else 0.001)
    np.testing.assert_array_equal(merged.class_indices, expected.class_indices)
    np.testing.assert_array_equal(merged.queries, expected.queries)
    np.testing.assert_array_equal(merged.scores, expected.scores)
    assert [part.dtype for part in (merged.class_indices, merged.queries, merged.scores)] == ["<i8", "<i8", "<f4"]

    count = len(merged.queries)
    np.testing.assert_array_equal(merged.areas, np.bincount(merged.segment_map.ravel(), minlength=count + 1)[1:])
    boxes = [(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(merged.segment_map, count)]
    np.testing.assert_array_equal(merged.boxes, np.array(boxes, np.int64).reshape(-1, 4))
    unit = F.normalize(frame.embeddings, dim=-1)[merged.queries].cpu().numpy()
    np.testing.assert_array_equal(merged.embeddings, unit)


def test_cases_cover_what_they_say() -> None:
    # Guards the test above: merged stuff, rejected masks and dropped queries must all happen in it.
    stuff_merged = rejected = 0
    for case in CASES.values():
        frame = draw(case)
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
    frames = [draw(case, seed) for seed in range(3)]

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
    logits = draw(case).mask_logits[:2]
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
    frame = draw(case)
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
    frame = draw(case)
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
