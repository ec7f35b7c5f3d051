"""The network for NVIDIA GPUs in float16 or bfloat16, with faster replacements for slow PyTorch operations.

Modules that need Triton are imported only after a probe has shown that they work. docs/reference/performance.md has the
gain of each replacement, measured on an H200.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from timm.layers import Mlp
from timm.models.convnext import ConvNeXtBlock
from torch import Tensor, nn

from fcclip_core.kernels.library_products import ActivatedLinear, pool_masks
from fcclip_core.kernels.probe import ATTENTION, CONVOLUTION, PROBES, SAMPLING, working_kernels
from fcclip_core.model.backbone import ConvNeXtTower
from fcclip_core.model.deformable_attention import Sampler, sample_by_grid, set_sampler
from fcclip_core.model.fcclip import FCCLIP
from fcclip_core.model.mask_decoder import DecoderLayer
from fcclip_core.model.precision import in_precision
from fcclip_core.model.relu_linear import ReluLinear


def for_gpu(model: FCCLIP, device: torch.device, dtype: torch.dtype) -> tuple[FCCLIP, frozenset[str]]:
    """A copy of `model` for inference on an NVIDIA GPU; it shares unchanged weights, and `model` is not modified.

    Args:
        model: The network, on any device.
        device: The GPU.
        dtype: torch.float32, float16 or bfloat16; in float32 only deformable attention is replaced, because the other
            replacements have the rounding of 16-bit types.

    Returns:
        The network on `device`, channels last in memory, and the names in `probe.PROBES` of the kernels that it uses.
    """
    is_16_bit = dtype != torch.float32
    kernels = working_kernels(device, dtype, PROBES if is_16_bit else [SAMPLING])
    fast = in_precision(model, dtype)
    sampler: Sampler = sample_by_grid
    if SAMPLING in kernels:
        from fcclip_core.kernels.deformable_triton import sample_by_triton as sampler
    set_sampler(fast, sampler)
    if is_16_bit:
        _replace_16_bit(fast, kernels)
    return fast.to(device).to(memory_format=torch.channels_last), kernels


def _replace_16_bit(network: FCCLIP, kernels: frozenset[str]) -> None:
    """Replaces, in place, the operations that are faster in 16-bit types."""
    network.mask_decoder.pool = pool_masks
    if isinstance(network.backbone, ConvNeXtTower):
        network.backbone.pool = pool_masks
        stem = cast(nn.Sequential, network.backbone.trunk.stem)
        stem[0] = PatchProjection(cast(nn.Conv2d, stem[0]))
    if ATTENTION in kernels:
        from fcclip_core.kernels.attention_triton import attend_in_parts, takes_heads

        for layer in network.mask_decoder.modules():
            if isinstance(layer, DecoderLayer):
                attention = layer.cross_attention
                if takes_heads(attention.out_proj.in_features // attention.heads):
                    attention.attend = attend_in_parts
    _replace(network, CONVOLUTION in kernels)


def _replace(parent: nn.Module, convolves: bool) -> None:
    """Replaces modules by their fused implementations; `convolves`: whether the convolution kernel works."""
    for name, child in parent.named_children():
        if isinstance(child, ReluLinear):
            setattr(parent, name, ActivatedLinear(child, gelu=False))
        elif convolves and isinstance(child, ConvNeXtBlock) and FusedBlock.takes(child):
            setattr(parent, name, FusedBlock(child))
        else:
            _replace(child, convolves)


class FusedBlock(nn.Module):
    """timm's ConvNeXt block for inference: convolution + normalization, linear + GELU, scaled linear, residual."""

    def __init__(self, block: ConvNeXtBlock) -> None:
        """Uses the weights of `block`, for which `takes` must be true; folds layer scale into the last linear layer."""
        super().__init__()
        convolution, norm, mlp = cast(nn.Conv2d, block.conv_dw), cast(nn.LayerNorm, block.norm), cast(Mlp, block.mlp)
        last = cast(nn.Linear, mlp.fc2)
        scale = torch.ones(1) if block.gamma is None else block.gamma.detach().float()[:, None]
        self.eps = norm.eps
        # In the kernel's layout and type, so that it need not convert them.
        taps = convolution.weight.detach().float().flatten(1).T.contiguous()
        self.register_buffer("taps", taps, persistent=False)
        self.bias, self.scale, self.shift = convolution.bias, norm.weight, norm.bias
        self.first = ActivatedLinear(cast(nn.Linear, mlp.fc1), gelu=True)
        self.last_weight = nn.Parameter((scale * last.weight.detach().float()).to(last.weight.dtype), False)
        self.last_bias = nn.Parameter((scale.squeeze(-1) * last.bias.detach().float()).to(last.bias.dtype), False)

    @staticmethod
    def takes(block: ConvNeXtBlock) -> bool:
        """Whether this class can replace a block, and the kernel supports its number of channels."""
        from fcclip_core.kernels.depthwise_triton import KERNEL_SIZE, takes_channels

        convolution = cast(nn.Conv2d, block.conv_dw)
        return (
            isinstance(block.shortcut, nn.Identity)
            and not block.use_conv_mlp
            and convolution.kernel_size == (KERNEL_SIZE, KERNEL_SIZE)
            and takes_channels(convolution.out_channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)` -> `(B, C, H, W)`, both channels last in memory."""
        pixels = x.permute(0, 2, 3, 1)
        convolved = torch.ops.fcclip.depthwise_norm(pixels, self.taps, self.bias, self.scale, self.shift, self.eps)
        hidden = self.first(convolved)
        return (pixels + F.linear(hidden, self.last_weight, self.last_bias)).permute(0, 3, 1, 2)


class PatchProjection(nn.Module):
    """A convolution with non-overlapping windows as one linear layer: cuDNN is slow for three input channels."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        """Uses the weights of `convolution`, whose stride must equal its kernel size."""
        super().__init__()
        self._side = convolution.stride[0]
        self.weight = nn.Parameter(convolution.weight.detach().permute(0, 2, 3, 1).flatten(1).contiguous(), False)
        self.bias = convolution.bias

    def forward(self, image: Tensor) -> Tensor:
        """`(B, C, H, W)`, sides divisible by the stride -> `(B, D, H/stride, W/stride)`, channels last in memory."""
        side = self._side
        rows = image.permute(0, 2, 3, 1).unflatten(2, (-1, side)).unflatten(1, (-1, side))
        patches = rows.transpose(2, 3).flatten(3)
        return F.linear(patches, self.weight, self.bias).permute(0, 3, 1, 2)
