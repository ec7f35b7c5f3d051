"""The Triton kernel of deformable attention against grid_sample."""

from __future__ import annotations

from dataclasses import dataclass

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

from fcclip_core.model.deformable_attention import DeformableAttention, sample_by_grid, set_sampler

if LAUNCHES:
    from fcclip_core.kernels.deformable_triton import sample_by_triton


@dataclass(frozen=True)
class Case:
    shapes: tuple[tuple[int, int], ...]
    batch: int = 1
    queries: int = 33
    heads: int = 2
    points: int = 2
    channels: int = 16


CASES = {
    "three levels, blocks that do not divide the queries": Case(((2, 3), (4, 6), (7, 12)), queries=70, channels=32),
    "batch": Case(((3, 5), (6, 9)), batch=3, queries=5),
    "one level, one point, one head": Case(((6, 7),), heads=1, points=1),
    "channels that are no power of two": Case(((4, 4), (8, 8)), channels=24),
    "one pixel": Case(((1, 1), (1, 5), (5, 1)), points=4),
    "an empty level first": Case(((0, 4), (6, 5)), queries=40),
    "empty levels between and last": Case(((3, 4), (0, 0), (6, 5), (2, 0))),
    "four levels, five points, 64 channels": Case(((9, 4), (5, 4), (3, 2), (2, 1)), points=5, channels=64, queries=9),
}


def draw(case: Case, spread: float, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Values, locations up to `spread` outside the image on each side, weights."""
    generator = torch.Generator().manual_seed(1)
    tokens, levels = sum(height * width for height, width in case.shapes), len(case.shapes)
    grid = (case.batch, case.queries, case.heads, levels, case.points)
    value = torch.randn(case.batch, tokens, case.heads, case.channels, generator=generator).to(dtype)
    locations = torch.rand(*grid, 2, generator=generator) * (1 + 2 * spread) - spread
    return value.to(DEVICE), locations.to(DEVICE), torch.rand(grid, generator=generator).to(DEVICE)


def expected(
    case: Case, value: torch.Tensor, locations: torch.Tensor, weights: torch.Tensor, dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    """grid_sample's answer in `dtype`; it refuses empty levels, which add nothing."""
    kept = [index for index, (height, width) in enumerate(case.shapes) if height * width]
    shapes = [case.shapes[index] for index in kept]
    return sample_by_grid(value.to(dtype), shapes, locations[:, :, :, kept].to(dtype), weights[:, :, :, kept].to(dtype))


@runs_kernels
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_kernel_equals_grid_sample(case: Case) -> None:
    inputs = draw(case, spread=0.4, dtype=torch.float32)
    ours = sample_by_triton(inputs[0], case.shapes, *inputs[1:])
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), expected(case, *inputs), atol=2e-5, rtol=1e-5)


@runs_kernels
@pytest.mark.parametrize(("dtype", "step"), [(torch.float16, 2**-11), (torch.bfloat16, 2**-7)])
def test_kernel_rounds_short_values_only_once(dtype: torch.dtype, step: float) -> None:
    # Sums of twelve weighted values: rounding after every addition would miss by several steps. Triton's interpreter
    # cuts numbers off where the GPU rounds them to bfloat16.
    case = Case(((4, 5), (8, 10), (16, 20)), points=4, queries=20)
    inputs = draw(case, spread=0.1, dtype=dtype)
    ours = sample_by_triton(inputs[0], case.shapes, *inputs[1:])
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.double(), expected(case, *inputs), atol=2e-5, rtol=1.01 * step)


@runs_kernels
def test_kernel_at_borders_and_pixel_centers() -> None:
    # 0 and 1 are the outer edges: half of the sample lies outside, where the image is zero; corners get a quarter.
    image = torch.tensor([[1.0, 2.0], [4.0, 8.0]], device=DEVICE).view(1, 4, 1, 1).expand(1, 4, 1, 16)
    table = {(0.25, 0.25): 1.0, (0.75, 0.75): 8.0, (0.5, 0.25): 1.5, (0.5, 0.5): 3.75}
    table |= {(0.0, 0.25): 0.5, (1.0, 1.0): 2.0, (1.0, 0.5): 2.5}
    table |= {(-0.25, 0.25): 0.0, (1.25, 0.75): 0.0, (7.0, -9.0): 0.0, (0.25, 1e9): 0.0}
    locations = torch.tensor(list(table), device=DEVICE).view(1, -1, 1, 1, 1, 2)
    weights = torch.full((1, len(table), 1, 1, 1), 2.0, device=DEVICE)
    sums = sample_by_triton(image, [(2, 2)], locations, weights)
    answers = torch.tensor(list(table.values()), device=DEVICE)
    torch.testing.assert_close(sums[0], 2 * answers[:, None].expand(-1, 16))


@runs_kernels
def test_kernel_reads_each_row_of_a_view() -> None:
    # What a projection leaves behind need not be contiguous.
    case = Case(((3, 4),), queries=6)
    value, locations, weights = draw(case, spread=0.0, dtype=torch.float32)
    view = value.transpose(1, 2).contiguous().transpose(1, 2)
    torch.testing.assert_close(
        sample_by_triton(view, case.shapes, locations.flip(1), weights),
        sample_by_triton(value, case.shapes, locations.flip(1).contiguous(), weights),
    )


@runs_kernels
def test_kernel_is_a_sampler_of_the_module() -> None:
    torch.manual_seed(0)
    attention = DeformableAttention(32, heads=2, levels=2, points=2).to(DEVICE)
    shapes = [(2, 3), (4, 5)]
    query, reference = torch.randn(1, 26, 32, device=DEVICE), torch.rand(26, 2, device=DEVICE)
    with torch.inference_mode():
        before = attention(query, query, reference, shapes)
        set_sampler(attention, sample_by_triton)
        after = attention(query, query, reference, shapes)
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)


@runs_kernels
def test_kernel_refuses_doubles() -> None:
    case = Case(((2, 2),))
    inputs = draw(case, spread=0.0, dtype=torch.float64)
    with pytest.raises(TypeError, match="use sample_by_grid"):
        sample_by_triton(inputs[0], case.shapes, *inputs[1:])


@runs_kernels
def test_kernel_refuses_more_levels_than_it_has_arguments_for() -> None:
    case = Case(((1, 1),) * 5, queries=5)
    inputs = draw(case, spread=0.0, dtype=torch.float32)
    with pytest.raises(ValueError, match="5 levels; the kernel supports up to 4"):
        sample_by_triton(inputs[0], case.shapes, *inputs[1:])


@needs_triton
@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="nothing to compile in the interpreter")
@pytest.mark.parametrize("capability", GPUS)
@pytest.mark.parametrize(("dtype", "loads"), [("fp16", 48), ("bf16", 48), ("fp32", 96)])
def test_compiles_for_a_gpu_that_is_not_here(capability: int, dtype: str, loads: int) -> None:
    # The interpreter checks no types. Each neighbor is one 16-byte load a thread: 12 points, 4 neighbors.
    from fcclip_core.kernels.deformable_triton import MOST_LEVELS, _sample_kernel

    constants = {"LEVELS": 3, "POINTS": 4, "CHANNELS": 32, "CHANNEL_BLOCK": 32, "QUERY_BLOCK": 32}
    types = {"value": f"*{dtype}", "locations": "*fp32", "weights": "*fp32", "sums": f"*{dtype}"}
    sides = [f"{side}_{level}" for level in range(MOST_LEVELS) for side in ("height", "width")]
    types |= dict.fromkeys([*sides, "tokens", "queries", "heads"], "i32")
    ptx, _, stack = compile_for(capability, _sample_kernel, types, constants)
    assert ptx.count("ld.global.v4.b32") == loads
    assert stack <= MOST_SPILLED
