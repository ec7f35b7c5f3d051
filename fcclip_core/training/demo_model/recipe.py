"""FC-CLIP on the simulated world: a smaller version of the paper's training, without the held-out classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fcclip_core.model.config import CONVNEXT_SMALL, ModelConfig
from fcclip_core.model.decoder_config import KMeansDecoderConfig
from fcclip_core.simulation.names import train_vocabulary
from fcclip_core.training.config import AugmentationConfig, KMeansLossConfig, LossConfig, TrainingConfig
from fcclip_core.training.initialization import fresh_weights
from fcclip_core.training.recipes import trained_as_kmax
from fcclip_core.weights.checkpoints import Checkpoint, Provenance, Source, join_clip
from fcclip_core.weights.clip_weights import load_clip

DEFAULT_STEPS = 4_000
LICENSE = "Apache-2.0"
_SLOW_DOWN = (0.75, 0.92)
"""Fractions of the steps at which the learning rate drops to a tenth and a hundredth."""


def world_config(
    steps: int = DEFAULT_STEPS, seed: int = 0, train_backbone: bool = False, model: ModelConfig = CONVNEXT_SMALL
) -> TrainingConfig:
    """The recipe: the paper's losses and optimizer with smaller images and batches, a higher rate and fewer points.

    Frames of 320 x 240 pixels are enlarged 1.4 to 3.2 times; at inference, FC-CLIP enlarges them 2.67 times.

    Args:
        steps: Optimizer steps.
        seed: Determines weights, order, augmentation and points.
        train_backbone: Also train CLIP's image tower, at a tenth of the learning rate (Table 6).
        model: Its mask decoder decides on loss and schedule.

    Raises:
        SettingsError: `steps` or `seed` is out of range.
    """
    config = TrainingConfig(
        steps=steps,
        batch_size=8,
        learning_rate=5e-4,
        slow_down=_SLOW_DOWN,
        gradient_clip=0.1,
        train_backbone=train_backbone,
        precision="bfloat16",
        seed=seed,
        loss=LossConfig(num_points=1024),
        augmentation=AugmentationConfig(crop=320, min_scale=1.4, max_scale=3.2, keep_cropped_out=False),
        save_every=100,
        loader_processes=0,
    )
    if isinstance(model.mask_decoder, KMeansDecoderConfig):
        # In a run of few steps, running statistics must follow the weights faster than in one of 150,000.
        return trained_as_kmax(replace(config, statistics_momentum=0.1), KMeansLossConfig(sampled_pixels=1024))
    return config


def starting_point(clip: Path, seed: int, config: ModelConfig = CONVNEXT_SMALL) -> Checkpoint:
    """Combines a trained small CLIP with initial weights of everything that FC-CLIP trains.

    Args:
        clip: A file written by `fcclip train world-clip`.
        seed: Determines the initial weights.
        config: The model's sizes, equal to the CLIP's.

    Raises:
        CheckpointError: The file is missing, damaged, or a different CLIP.
    """
    weights = load_clip(config, clip)
    source = Source("CLIP weights", clip.name, path=clip)
    return join_clip(
        config, fresh_weights(config, seed), weights, train_vocabulary(), Provenance((source,), license=LICENSE)
    )
