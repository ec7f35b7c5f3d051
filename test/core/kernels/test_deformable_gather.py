"""The gather form of deformable attention against grid_sample, which defines the sum."""

from __future__ import annotations

import pytest
import torch

from fcclip_core.model.deformable_attention import sample_by_gather, sample_by_grid

SHAPES = ([(4, 6)], [(1, 1), (2, 3)], [(3, 2), (6, 4), (12, 8)], [(1, 9), (7, 1)])


def random_case(
    shapes: list[tuple[int, int]], seed: int, batch: int = 2, low: float = -0.3, high: float = 1.3
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Values, locations (also outside the image) and weights for 5 queries, 3 heads of 4 channels and 2 points."""
    generator = torch.Generator().manual_seed(seed)
    tokens, levels = sum(h * w for h, w in shapes), len(shapes)
    value = torch.randn(batch, tokens, 3, 4, generator=generator)
    locations = low + (high - low) * torch.rand(batch, 5, 3, levels, 2, 2, generator=generator)
    return value, locations, torch.rand(batch, 5, 3, levels, 2, generator=generator)


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("seed", range(3))
def test_equals_grid_sample(shapes: list[tuple[int, int]], seed: int) -> None:
    value, locations, weights = random_case(shapes, seed)
    expected = sample_by_grid(value, shapes, locations, weights)
    torch.testing.assert_close(sample_by_gather(value, shapes, locations, weights), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("at", [0.0, 1.0, 0.125, 0.5, -0.125, 1.125, -7.0, 1e4])
def test_borders_and_far_outside(at: float) -> None:
    """Pixel centers, the border itself, half a pixel beyond it, and places where nothing is."""
    shapes = [(4, 4)]
    value, locations, weights = random_case(shapes, 0)
    locations = torch.full_like(locations, at)
    expected = sample_by_grid(value, shapes, locations, weights)
    torch.testing.assert_close(sample_by_gather(value, shapes, locations, weights), expected, atol=1e-6, rtol=1e-6)


def test_one_pixel_by_hand() -> None:
    """A quarter of the way from pixel 0 to pixel 1 of a row of two: 3/4 of one and 1/4 of the other."""
    value = torch.tensor([8.0, 16.0]).view(1, 2, 1, 1)
    locations = torch.tensor([0.375, 0.5]).view(1, 1, 1, 1, 1, 2)
    weights = torch.tensor([0.5]).view(1, 1, 1, 1, 1)
    assert sample_by_gather(value, [(1, 2)], locations, weights).item() == pytest.approx(0.5 * (0.75 * 8 + 0.25 * 16))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_values_keep_float32_coordinates(dtype: torch.dtype) -> None:
    """In a level 512 pixels wide, short coordinates would miss by whole pixels."""
    shapes = [(1, 512)]
    value = torch.zeros(1, 512, 1, 1, dtype=dtype)
    value[0, 401] = 1
    locations = torch.tensor([(401 + 0.5) / 512, 0.5]).view(1, 1, 1, 1, 1, 2)
    sampled = sample_by_gather(value, shapes, locations, torch.ones(1, 1, 1, 1, 1))
    assert sampled.dtype == dtype
    assert sampled.item() == pytest.approx(1, abs=1e-2)
