"""The network for CPUs: oneDNN's fused linear layers, in bfloat16 if the CPU supports it.

torch uses MKL for float32 products, which is slow on CPUs that are not Intel's, and computes the activation, layer
scale and residual of a block in separate passes over memory. Here a linear layer and its activation or residual are one
operation, layer scale is folded into the weights, and normalization reads bfloat16 directly (with float32 sums). The
mask decoder is always float32.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d, Mlp
from timm.models.convnext import ConvNeXtBlock
from torch import Tensor, nn

from fcclip_core.errors import BackendError
from fcclip_core.kernels.deformable_native import NativeDeformableAttention, takes
from fcclip_core.kernels.processor import has_bfloat16
from fcclip_core.model.deformable_attention import DeformableAttention, sample_by_index, set_sampler
from fcclip_core.model.fcclip import FCCLIP
from fcclip_core.model.kmeans_decoder import KMeansDecoder
from fcclip_core.model.kmeans_layer import MaskPredictor
from fcclip_core.model.mask_decoder import Attention, MaskDecoder, MaskPrediction
from fcclip_core.model.pixel_decoder import PixelDecoderOutput
from fcclip_core.model.precision import in_precision
from fcclip_core.model.relu_linear import ReluLinear
from fcclip_core.model.text_tower import TextTower


def best_type() -> torch.dtype:
    """bfloat16 if this CPU has bfloat16 instructions, else float32."""
    return torch.bfloat16 if has_bfloat16() and torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32


def for_processor(model: FCCLIP, dtype: torch.dtype, *, native: bool) -> FCCLIP:
    """A copy of `model` for inference on the CPU; it shares unchanged weights, and `model` is not modified.

    Args:
        model: The network, on the CPU.
        dtype: torch.float32 or bfloat16.
        native: Compute deformable attention by `deformable_native`'s kernel, which must be compiled.

    Raises:
        BackendError: torch was built without oneDNN.
    """
    _check_library()
    fused = in_precision(model, dtype)
    decoder = in_precision(model.mask_decoder, torch.float32)
    _replace(decoder, torch.float32, native)
    for module in decoder.modules():
        if isinstance(module, MaskDecoder | MaskPredictor):
            module.multiply = _multiply
        elif isinstance(module, Attention):
            module.project = _project
    fused.mask_decoder = cast(MaskDecoder, WideMaskDecoder(decoder))
    _replace(fused, dtype, native)
    set_sampler(fused, sample_by_index)
    return fused.to(memory_format=torch.channels_last)


def text_tower_for_processor(tower: TextTower) -> TextTower:
    """A copy of a text tower in float32 for inference on the CPU; it shares weights, and `tower` is not modified.

    Raises:
        BackendError: torch was built without oneDNN.
    """
    _check_library()
    fused = in_precision(tower, torch.float32)
    for block in fused.transformer.resblocks:
        first, activation, last = block.mlp
        if isinstance(activation, nn.GELU):
            block.mlp = nn.Sequential(FusedLinear(first, "gelu"), FusedLinear(last))
        else:
            block.mlp = nn.Sequential(FusedLinear(first), activation, FusedLinear(last))
        block.attn = FusedSelfAttention(block.attn)
    return fused


def _check_library() -> None:
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        raise BackendError(f"torch {torch.__version__} was built without oneDNN's fused linear layers")


class FusedLinear(nn.Module):
    """A linear layer with an optional activation ("gelu" or "relu") in one operation."""

    def __init__(self, linear: nn.Linear, activation: str = "none") -> None:
        """Uses the weights of `linear`."""
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self._activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """`(..., in)` -> `(..., out)`."""
        # The last argument is GELU's approximation: "none" is the exact one, by erf.
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, self._activation, [], "none")


class FusedBlock(nn.Module):
    """timm's ConvNeXt block for inference: layer scale and residual are part of the second linear layer."""

    def __init__(self, block: ConvNeXtBlock) -> None:
        """Uses the weights of `block`, whose shortcut must be the identity."""
        super().__init__()
        mlp = cast(Mlp, block.mlp)
        last = cast(nn.Linear, mlp.fc2)
        weight, bias = last.weight.float(), last.bias.float()
        if block.gamma is not None:
            scale = block.gamma.float()
            weight, bias = scale[:, None] * weight, scale * bias
        self.conv_dw, self.norm = block.conv_dw, block.norm
        self.fc1 = FusedLinear(cast(nn.Linear, mlp.fc1), "gelu")
        self.weight = nn.Parameter(weight.to(last.weight.dtype), requires_grad=False)
        self.bias = nn.Parameter(bias.to(last.weight.dtype), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)` -> `(B, C, H, W)`, both channels last in memory."""
        hidden = self.fc1(self.norm(self.conv_dw(x).permute(0, 2, 3, 1)))
        shortcut = x.permute(0, 2, 3, 1)
        summed = torch.ops.mkldnn._linear_pointwise.binary(hidden, shortcut, self.weight, self.bias, "add")
        return summed.permute(0, 3, 1, 2)


class FusedSelfAttention(nn.Module):
    """torch's multi-head self-attention, with the call signature that open_clip's transformer uses."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        """Uses the weights of `attention`."""
        super().__init__()
        self.weight, self.bias = attention.in_proj_weight, attention.in_proj_bias
        self.out = FusedLinear(attention.out_proj)
        self._heads = attention.num_heads

    def forward(self, x: Tensor, *_: Tensor, need_weights: bool, attn_mask: Tensor) -> tuple[Tensor]:
        """`(B, L, C)` and additive mask `(L, L)` -> a tuple with one tensor `(B, L, C)`."""
        projected = _project(x, self.weight, self.bias).unflatten(-1, (3, self._heads, -1))
        query, key, value = projected.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=attn_mask)
        return (self.out(attended.transpose(1, 2).flatten(2)),)


class MixedNorm(nn.Module):
    """Layer or group normalization of 16-bit inputs with float32 weights and sums, in one pass."""

    def __init__(self, norm: nn.LayerNorm | nn.GroupNorm, dtype: torch.dtype) -> None:
        """Uses the weights of `norm`; returns tensors of `dtype`."""
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.normalized_shape = norm.normalized_shape if isinstance(norm, nn.LayerNorm) else ()
        self._groups = norm.num_groups if isinstance(norm, nn.GroupNorm) else 0
        self._channels_second = isinstance(norm, LayerNorm2d)
        self._dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        """Same shapes as the replaced normalization."""
        if self._groups:
            return F.group_norm(x, self._groups, self.weight, self.bias, self.eps).to(self._dtype)
        x = x.permute(0, 2, 3, 1) if self._channels_second else x
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps).to(self._dtype)
        return x.permute(0, 3, 1, 2) if self._channels_second else x


class WideMaskDecoder(nn.Module):
    """The mask decoder in float32 after a 16-bit pixel decoder.

    Its attention masks are thresholds at logit 0, and a k-means decoder's pixels go to the largest logit: there rounding
    errors accumulate over the layers. It is a small part of the computation.
    """

    def __init__(self, decoder: MaskDecoder | KMeansDecoder) -> None:
        """Wraps a decoder in float32."""
        super().__init__()
        self.decoder = decoder

    def forward(self, pixels: PixelDecoderOutput) -> MaskPrediction:
        """As the decoder's."""
        coarse, middle, fine = (level.float() for level in pixels.levels)
        return self.decoder(PixelDecoderOutput(pixels.mask_features.float(), (coarse, middle, fine)))


def _project(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _multiply(queries: Tensor, features: Tensor) -> Tensor:
    """`(B, Q, C)` times `(B, C, N)` as linear layers with the pixels as weights, channels last in memory."""
    return torch.stack([_project(x, pixels.T, None) for x, pixels in zip(queries, features, strict=True)])


def _replace(parent: nn.Module, dtype: torch.dtype, native: bool) -> None:
    """Replaces modules by their fused implementations."""
    for name, child in parent.named_children():
        if isinstance(child, ConvNeXtBlock) and isinstance(child.shortcut, nn.Identity) and not child.use_conv_mlp:
            child = FusedBlock(child)
            setattr(parent, name, child)
        if native and isinstance(child, DeformableAttention) and takes(child):
            child = NativeDeformableAttention(child)
            setattr(parent, name, child)
        if isinstance(child, nn.LayerNorm | nn.GroupNorm):
            setattr(parent, name, MixedNorm(child, dtype))
        elif type(child) is ReluLinear:
            setattr(parent, name, FusedLinear(child, "relu"))
        elif type(child) is nn.Linear:
            setattr(parent, name, FusedLinear(child))
        elif not isinstance(child, WideMaskDecoder):
            _replace(child, dtype, native)
