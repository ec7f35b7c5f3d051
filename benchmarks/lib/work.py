"""How much arithmetic a frame is, by stage: counted on tensors without data."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from fcclip_core.model.config import ModelConfig
from fcclip_core.model.decoder_config import DeformablePixelDecoderConfig
from fcclip_core.model.fcclip import FCCLIP
from fcclip_core.model.pixel_decoder import NUM_LEVELS

STAGES = ("backbone", "pixel decoder", "mask decoder", "mask embedding")


def gflop_by_stage(config: ModelConfig, batch: int, height: int, width: int) -> dict[str, float]:
    """GFLOP (twice the multiply-adds) of matrix products, convolutions and deformable sampling.

    Args:
        config: The network.
        batch: Images at once.
        height: Pixels, divisible by 32.
        width: Pixels, divisible by 32.
    """
    with torch.device("meta"), torch.no_grad():
        network = FCCLIP(config).eval().requires_grad_(False)
        counter = FlopCounterMode(display=False)
        with counter:
            network(torch.empty(batch, 3, height, width))
    counts = {name: sum(operations.values()) for name, operations in counter.get_flop_counts().items()}
    stages = [counts[f"FCCLIP.{module}"] for module in ("backbone", "pixel_decoder", "mask_decoder")]
    rest = counts["Global"] - sum(stages)
    stages[1] += batch * _sampling_flop(config, height, width)
    return {name: flop / 1e9 for name, flop in zip(STAGES, (*stages, rest), strict=True)}


def _sampling_flop(config: ModelConfig, height: int, width: int) -> int:
    """Each token reads four neighbors of every sampling point, in all channels of a head."""
    decoder = config.pixel_decoder
    if not isinstance(decoder, DeformablePixelDecoderConfig):
        return 0
    tokens = sum((height // stride) * (width // stride) for stride in (8, 16, 32))
    return 2 * 4 * decoder.layers * tokens * decoder.dim * NUM_LEVELS * decoder.points
