"""Which recipe a model is trained with: it follows from its mask decoder."""

from __future__ import annotations

import math
from dataclasses import replace

from fcclip_core.model.config import ModelConfig
from fcclip_core.model.decoder_config import KMeansDecoderConfig
from fcclip_core.training.config import KMeansLossConfig, PolySchedule, TrainingConfig


def recipe_for(model: ModelConfig) -> TrainingConfig:
    """The training on COCO of the paper that a model's mask decoder comes from.

    A k-means mask decoder is trained as kMaX-DeepLab is, with crops of 1280 pixels in place of 1281 and FC-CLIP's
    augmentation. What FC-CLIP's authors changed for it is not published. Drop path and copy-paste are left out.
    """
    paper = TrainingConfig()
    if not isinstance(model.mask_decoder, KMeansDecoderConfig):
        return paper
    wide = replace(paper, steps=150_000, batch_size=64, augmentation=replace(paper.augmentation, crop=1280))
    return trained_as_kmax(replace(wide, learning_rate=5e-4), KMeansLossConfig())


def trained_as_kmax(config: TrainingConfig, loss: KMeansLossConfig) -> TrainingConfig:
    """`config` with kMaX-DeepLab's schedule and optimizer, and `loss`."""
    return replace(config, poly=PolySchedule(), milestones=(), decay_vectors=False, gradient_clip=math.inf, loss=loss)
