"""The loss of a kind of mask decoder, with its own random numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from fcclip_core.training.config import KMeansLossConfig, LossConfig
from fcclip_core.training.kmeans_losses import KMeansCriterion, RandomNoise
from fcclip_core.training.losses import Criterion, Losses
from fcclip_core.training.matching import Targets
from fcclip_core.training.points import RandomPoints

LossFunction = Callable[[Sequence[Any], Targets, Sequence[torch.Generator]], Losses]
"""(predictions of all depths, ground truth, one generator per image) -> the loss."""


def loss_function(config: LossConfig | KMeansLossConfig) -> LossFunction:
    """The loss that `config` describes; predictions must be of the mask decoder that it is for."""
    if isinstance(config, KMeansLossConfig):
        by_shares = KMeansCriterion(config)
        return lambda predictions, targets, generators: by_shares(predictions, targets, RandomNoise(generators))
    at_points = Criterion(config)
    return lambda predictions, targets, generators: at_points(predictions, targets, RandomPoints(config, generators))
