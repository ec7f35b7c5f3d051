"""Points: what is read there, and which are chosen."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fcclip_core.training.config import LossConfig
from fcclip_core.training.points import RandomPoints, sample_each, sample_segments, sample_shared


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_a_pixel_center_reads_its_pixel() -> None:
    maps = torch.arange(12.0).view(1, 3, 4)
    points = torch.tensor([[[0.5 / 4, 0.5 / 3], [3.5 / 4, 0.5 / 3], [1.5 / 4, 2.5 / 3], [1 / 4, 0.5 / 3]]])
    # x comes first; the last point lies half-way between two pixels.
    assert sample_each(maps, points)[0].tolist() == pytest.approx([0, 3, 9, 0.5], abs=1e-6)
    assert sample_shared(maps, points[0])[0].tolist() == pytest.approx([0, 3, 9, 0.5], abs=1e-6)


def test_segments_are_read_like_their_masks() -> None:
    random = torch.Generator().manual_seed(0)
    maps = torch.randint(0, 4, (2, 7, 5), generator=random, dtype=torch.int32)
    images, segments = torch.tensor([0, 1, 1]), torch.tensor([1, 2, 3])
    points = torch.rand(3, 200, 2, generator=random)
    points[:, :4] = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.999, 0.001]])  # half outside the image
    masks = torch.stack([maps[image] == segment for image, segment in zip(images, segments, strict=True)]).float()
    expected = F.grid_sample(masks[:, None], 2 * points[:, :, None] - 1, align_corners=False).flatten(1)
    torch.testing.assert_close(sample_segments(maps, images, segments, points), expected, atol=1e-5, rtol=0)


def test_segments_of_one_image_can_share_points() -> None:
    maps = torch.tensor([[[1, 2], [2, 2]]])
    points = torch.tensor([[[0.25, 0.25], [0.5, 0.5]]])
    inside = sample_segments(maps, torch.tensor([0]), torch.tensor([1, 2, 3]), points)
    assert inside.tolist() == [[1, 0.25], [0, 0.75], [0, 0]]


def test_most_points_are_uncertain_ones() -> None:
    # The left half is certain, the right half is not: of uniform candidates, half lie right.
    logits = torch.full((1, 8, 8), 9.0)
    logits[..., 4:] = 0.1
    config = LossConfig(num_points=1000, oversample_ratio=3, importance_ratio=0.75)
    points = RandomPoints(config, generators(0)).loss_points(0, logits, [1])
    assert points.shape == (1, 1000, 2)
    right = points[0, :, 0] > 0.5
    assert right[:750].all()
    assert 0.4 < right[750:].float().mean() < 0.6


def test_points_of_an_image_do_not_depend_on_the_others() -> None:
    logits = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(1))
    config = LossConfig(num_points=16)
    together = RandomPoints(config, generators(5, 6))
    alone = RandomPoints(config, generators(6))
    torch.testing.assert_close(together.matching_points(0, 1), alone.matching_points(0, 0))
    torch.testing.assert_close(together.loss_points(0, logits, [2, 1])[2:], alone.loss_points(0, logits[2:], [1]))
