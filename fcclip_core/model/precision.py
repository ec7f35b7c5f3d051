"""Precision of a network: which numbers may be short, and which stay float32 whatever the rest is.

Layer and group normalisation, softmax, the sums of mask pooling and sampling coordinates are computed in float32. The
modules widen what needs it themselves (`at_least_float32`), so that a network in float32 or float64 is left as it is.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

_Module = TypeVar("_Module", bound=nn.Module)


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32 if its own type is shorter, else `x` itself."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def in_precision(model: _Module, dtype: torch.dtype) -> _Module:
    """A copy of `model` for inference whose weights and activations are `dtype`; normalisation stays float32.

    Batch normalisation is folded into the convolutions before it. What stays as it was shares memory with `model`,
    which is not changed.

    Args:
        model: The network, or a part of it.
        dtype: torch.float32, float16 or bfloat16.
    """
    # deepcopy leaves alone what it finds here.
    memo = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    lowered = copy.deepcopy(model, memo).eval()
    for module in list(lowered.modules()):
        _fold_batch_norms(module)
    for module in lowered.modules():
        if isinstance(module, nn.LayerNorm | nn.GroupNorm):
            module.register_forward_pre_hook(lambda _, inputs: tuple(at_least_float32(x) for x in inputs))
            module.register_forward_hook(lambda _, __, output: output.to(dtype))
            _convert(module, torch.float32)
        else:
            _convert(module, dtype)
    return lowered


def _convert(module: nn.Module, dtype: torch.dtype) -> None:
    """Replaces the module's own parameters and buffers: the old ones may belong to somebody else, too."""
    for name, parameter in list(module.named_parameters(recurse=False)):
        module.register_parameter(name, nn.Parameter(parameter.detach().to(dtype), requires_grad=False))
    for name, buffer in list(module.named_buffers(recurse=False)):
        if buffer.is_floating_point():
            setattr(module, name, buffer.to(dtype))


def _fold_batch_norms(parent: nn.Module) -> None:
    """Folds each batch normalisation among the children into the convolution that is listed before it."""
    children = list(parent.named_children())
    for (conv_name, conv), (norm_name, norm) in zip(children, children[1:], strict=False):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(parent, conv_name, fuse_conv_bn_eval(conv, norm))
            setattr(parent, norm_name, nn.Identity())
