"""Matching and losses on cases small enough to work out by hand; test_training_golden.py holds the authors' numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fcclip_core.errors import TrainingError
from fcclip_core.training.config import LossConfig
from fcclip_core.training.losses import Criterion
from fcclip_core.training.matching import LayerPrediction, Targets, match

CONFIG = LossConfig(num_points=4)


class PixelCenters:
    """Every pixel of a 2 x 2 map once: sums over points are sums over pixels."""

    centers = torch.tensor([[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]])

    def matching_points(self, layer: int, image: int) -> Tensor:
        return self.centers

    def loss_points(self, layer: int, mask_logits: Tensor, counts: Sequence[int]) -> Tensor:
        return self.centers.expand(len(mask_logits), -1, -1)


def masks(*rows: str) -> Tensor:
    """`(Q, 2, 2)` logits, +4 for # and -4 for a point, row by row."""
    return torch.tensor([[4.0 if sign == "#" else -4.0 for sign in row] for row in rows]).view(-1, 2, 2)


def prediction(mask_logits: Tensor, class_logits: Sequence[Sequence[float]]) -> LayerPrediction:
    return LayerPrediction(mask_logits[None], torch.tensor([class_logits], dtype=torch.float32))


def targets(segment_map: Sequence[Sequence[int]], labels: Sequence[int]) -> Targets:
    return Targets(torch.tensor([segment_map], dtype=torch.int32), (torch.tensor(labels, dtype=torch.int64),))


def test_masks_decide_where_classes_do_not() -> None:
    found = match(
        [prediction(masks("..##", "....", "##.."), [[0, 0, 0]] * 3)],
        targets([[1, 1], [2, 2]], [0, 1]),
        PixelCenters(),
        CONFIG,
    )[0][0]
    assert (found.queries.tolist(), found.segments.tolist()) == ([0, 2], [1, 0])


def test_classes_decide_where_masks_do_not() -> None:
    found = match(
        [prediction(masks("####", "####"), [[0, 9, 0], [9, 0, 0]])],
        targets([[1, 1], [2, 2]], [0, 1]),
        PixelCenters(),
        CONFIG,
    )[0][0]
    assert (found.queries.tolist(), found.segments.tolist()) == ([0, 1], [1, 0])


def test_one_matched_pair_by_hand() -> None:
    # Query 1 covers the left column of which the truth has one pixel; query 0 answers void.
    given = prediction(masks("....", "#.#."), [[0, 0, 2], [1, 0, 0]])
    losses = Criterion(CONFIG)([given], targets([[1, 0], [0, 0]], [0]), PixelCenters())
    right, wrong = math.log1p(math.exp(-4)), math.log1p(math.exp(4))
    high, low = 1 / (1 + math.exp(-4)), 1 / (1 + math.exp(4))
    cross_entropy = (-2 + math.log(math.e**2 + 2)) * 0.1 + (-1 + math.log(math.e + 2))
    dice = 1 - (2 * high + 1) / (2 * high + 2 * low + 1 + 1)
    assert losses.classes.item() == pytest.approx(cross_entropy / 1.1)
    assert losses.masks.item() == pytest.approx((3 * right + wrong) / 4)
    assert losses.dice.item() == pytest.approx(dice)
    total = 2 * losses.classes + 5 * losses.masks + 5 * losses.dice
    assert losses.total.item() == pytest.approx(total.item())


def test_cross_entropy_is_torchs_weighted_mean() -> None:
    logits = torch.randn(1, 5, 3, generator=torch.Generator().manual_seed(0))
    given = LayerPrediction(masks("....", "##..", "....", "....", "....")[None], logits)
    losses = Criterion(CONFIG)([given], targets([[1, 1], [0, 0]], [1]), PixelCenters())
    expected = F.cross_entropy(logits[0], torch.tensor([2, 1, 2, 2, 2]), torch.tensor([1, 1, 0.1]))
    assert losses.classes.item() == pytest.approx(expected.item())


def test_depths_are_matched_on_their_own_and_added() -> None:
    first = prediction(masks("##..", "..##"), [[5, 0, 0], [0, 5, 0]])
    second = prediction(masks("..##", "##.."), [[0, 5, 0], [5, 0, 0]])
    truth = targets([[1, 1], [2, 2]], [0, 1])
    alone = Criterion(CONFIG)([first], truth, PixelCenters())
    both = Criterion(CONFIG)([first, second], truth, PixelCenters())
    assert both.total.item() == pytest.approx(2 * alone.total.item())


def test_an_image_without_truth_teaches_void_only() -> None:
    logits = masks("##..", "....").requires_grad_(True)
    given = prediction(logits, [[3, 0, 0], [0, 0, 3]])
    losses = Criterion(CONFIG)([given], targets([[0, 0], [0, 0]], []), PixelCenters())
    assert losses.masks.item() == losses.dice.item() == 0
    assert losses.classes.item() == pytest.approx((math.log(math.e**3 + 2) + math.log(math.e**3 + 2) - 3) / 2)
    losses.total.backward()
    assert logits.grad is not None and not logits.grad.any()  # workers wait for each other's gradients: zeros, not none


def test_more_segments_than_queries() -> None:
    given = prediction(masks("#..."), [[1, 0, 0]])
    losses = Criterion(CONFIG)([given], targets([[1, 2], [3, 3]], [0, 1, 1]), PixelCenters())
    found = match([given], targets([[1, 2], [3, 3]], [0, 1, 1]), PixelCenters(), CONFIG)[0][0]
    assert (found.queries.tolist(), found.segments.tolist()) == ([0], [0])
    # Divided by all segments, found or not.
    assert losses.masks.item() == pytest.approx(math.log1p(math.exp(-4)) / 3, rel=1e-5)


def test_a_segment_that_the_crop_cut_away_still_counts() -> None:
    given = prediction(masks("##..", "...."), [[1, 0, 0], [0, 1, 0]])
    losses = Criterion(CONFIG)([given], targets([[1, 1], [0, 0]], [0, 1]), PixelCenters())
    matched = match([given], targets([[1, 1], [0, 0]], [0, 1]), PixelCenters(), CONFIG)[0][0]
    assert (matched.queries.tolist(), matched.segments.tolist()) == ([0, 1], [0, 1])
    assert losses.masks.item() == pytest.approx(math.log1p(math.exp(-4)), rel=1e-5)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_predictions_that_are_no_numbers_are_refused(broken: float) -> None:
    with pytest.raises(TrainingError, match="not finite"):
        Criterion(CONFIG)(
            [prediction(masks("##..") * broken, [[0, 0, 0]])], targets([[1, 1], [0, 0]], [0]), PixelCenters()
        )
