"""Initial weights of the trained part, as in Mask2Former and Deformable DETR."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fcclip_core.model.config import ModelConfig
from fcclip_core.model.decoders import build_mask_decoder, build_pixel_decoder
from fcclip_core.model.deformable_attention import DeformableAttention
from fcclip_core.model.mask_decoder import Attention, MaskDecoder
from fcclip_core.model.pixel_decoder import PixelDecoder
from fcclip_core.weights.published_names import published_name


def fresh_weights(config: ModelConfig, seed: int) -> dict[str, Tensor]:
    """Initializes pixel decoder, mask decoder and void embedding.

    Args:
        config: Architecture of the model.
        seed: Determines the weights.

    Returns:
        Published key -> float32 tensor of everything but CLIP (`checkpoints.join_clip` adds CLIP).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = nn.ModuleDict(
            {
                "pixel_decoder": build_pixel_decoder(config),
                "mask_decoder": build_mask_decoder(config),
                "void_embedding": nn.Embedding(1, config.embed_dim),
            }
        )
        for part in parts.values():
            _initialize(part)
    return {published_name(name): tensor.detach() for name, tensor in parts.state_dict().items()}


def _initialize(part: nn.Module) -> None:
    if isinstance(part, PixelDecoder):
        _xavier(part.layers)
        for convolution in (*part.input_proj.modules(), part.lateral, part.output, part.mask_features):
            if isinstance(convolution, nn.Conv2d):
                nn.init.kaiming_uniform_(convolution.weight, a=1)
                if convolution.bias is not None:
                    nn.init.zeros_(convolution.bias)
        for convolution in part.input_proj.modules():
            if isinstance(convolution, nn.Conv2d):
                nn.init.xavier_uniform_(convolution.weight)
    if isinstance(part, MaskDecoder):
        _xavier(part.layers)
    for module in part.modules():
        if isinstance(module, DeformableAttention):
            _initialize_offsets(module)
        elif isinstance(module, Attention):
            nn.init.zeros_(module.out_proj.bias)


def _xavier(layers: nn.ModuleList) -> None:
    for parameter in layers.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)


def _initialize_offsets(attention: DeformableAttention) -> None:
    """One direction per head, with increasing offsets of its points (Zhu et al., 2021, appendix A.4)."""
    for linear in (attention.sampling_offsets, attention.attention_weights):
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    for linear in (attention.value_proj, attention.output_proj):
        nn.init.zeros_(linear.bias)
    angle = torch.arange(attention.heads) * (2 * math.pi / attention.heads)
    direction = torch.stack((angle.cos(), angle.sin()), dim=-1)
    direction = direction / direction.abs().amax(-1, keepdim=True)
    steps = torch.arange(1, attention.points + 1)
    offsets = direction[:, None, None] * steps[:, None].expand(attention.levels, -1, -1)
    with torch.no_grad():
        attention.sampling_offsets.bias.copy_(offsets.flatten())
