"""Precision of a network: which numbers may be short, which stay float32 whatever the rest is, and what float32 means.

Layer and group normalization, softmax, the sums of mask pooling and sampling coordinates are computed in float32. The
modules widen what needs it themselves (`at_least_float32`), so that a network in float32 or float64 is left as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

_Module = TypeVar("_Module", bound=nn.Module)


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32 if its own type is shorter, else `x` itself."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def movable_copy(model: _Module) -> _Module:
    """A copy of `model` that shares its memory until it is moved or converted, which leaves `model` where it is."""
    # deepcopy takes what it finds here; `Module.to` changes parameters in place, but replaces buffers.
    memo: dict[int, Tensor] = {id(buffer): buffer for buffer in model.buffers()}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    return copy.deepcopy(model, memo)


@contextmanager
def exact_products() -> Iterator[None]:
    """Computes float32 products and convolutions in float32, for the length of the block and in the whole process.

    A GPU's tensor cores shorten them to TF32 otherwise: torch lets cuDNN do so unless it is told.
    """
    backends: Any = torch.backends
    places, switch, exact = _switches(backends)
    before = [getattr(place, switch) for place in places]
    try:
        for place in places:
            setattr(place, switch, exact)
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            setattr(place, switch, value)


def _switches(backends: Any) -> tuple[tuple[Any, ...], str, Any]:
    """What decides between float32 and TF32: where, the attribute's name, and its value for float32."""
    places, switch = (backends.cuda.matmul, backends.cudnn), "allow_tf32"
    try:
        _ = [getattr(place, switch) for place in places]
    except RuntimeError:  # somebody used the switches of torch 2.9 and later, after which these cannot be read
        return (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn), "fp32_precision", "ieee"
    return places, switch, False


def in_precision(model: _Module, dtype: torch.dtype) -> _Module:
    """A copy of `model` for inference whose weights and activations are `dtype`; normalization stays float32.

    Batch normalization is folded into the convolutions before it. What stays as it was shares memory with `model`,
    which is not changed.

    Args:
        model: The network, or a part of it.
        dtype: torch.float32, float16 or bfloat16.
    """
    lowered = movable_copy(model).eval()
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
    """Folds each batch normalization among the children into the convolution that is listed before it."""
    children = list(parent.named_children())
    for (conv_name, conv), (norm_name, norm) in zip(children, children[1:], strict=False):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(parent, conv_name, fuse_conv_bn_eval(conv, norm))
            setattr(parent, norm_name, nn.Identity())
