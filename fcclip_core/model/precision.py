"""Numeric precision of a network: conversion to 16-bit types, operations that stay float32, and exact float32 products.

Normalization, softmax, the sums of mask pooling and sampling coordinates are computed in float32. The
modules convert their inputs themselves (`at_least_float32`), which changes nothing in a float32 or float64 network.
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
    """`x` in float32 if its type is narrower, else `x` itself."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def movable_copy(model: _Module) -> _Module:
    """A copy of `model` that shares its memory; moving or converting the copy does not affect `model`."""
    # deepcopy reuses the tensors in the memo. `Module.to` changes parameters in place, but replaces buffers.
    memo: dict[int, Tensor] = {id(buffer): buffer for buffer in model.buffers()}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    return copy.deepcopy(model, memo)


@contextmanager
def exact_products() -> Iterator[None]:
    """Disables TF32 for float32 products and convolutions inside the block, for the whole process.

    By default, torch allows TF32 in cuDNN convolutions on a GPU.
    """
    owners, name, exact = _tf32_switches(torch.backends)
    before = [getattr(owner, name) for owner in owners]
    try:
        for owner in owners:
            setattr(owner, name, exact)
        yield
    finally:
        for owner, value in zip(owners, before, strict=True):
            setattr(owner, name, value)


def _tf32_switches(backends: Any) -> tuple[tuple[Any, ...], str, Any]:
    """The settings that enable TF32: their objects, the attribute's name, and its value for exact float32."""
    owners, name = (backends.cuda.matmul, backends.cudnn), "allow_tf32"
    try:
        _ = [getattr(owner, name) for owner in owners]
    except RuntimeError:  # the settings of torch 2.9 and later were used before, so these cannot be read
        return (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn), "fp32_precision", "ieee"
    return owners, name, False


def in_precision(model: _Module, dtype: torch.dtype) -> _Module:
    """A copy of `model` for inference with weights and activations of type `dtype`; normalization stays float32.

    Batch normalization is folded into the preceding convolutions. Unchanged tensors share memory with `model`, which is
    not modified.

    Args:
        model: The network, or a part of it.
        dtype: torch.float32, float16 or bfloat16.
    """
    lowered = movable_copy(model).eval()
    for module in list(lowered.modules()):
        _fold_batch_norms(module)
    for module in lowered.modules():
        if isinstance(module, nn.LayerNorm | nn.GroupNorm | nn.BatchNorm1d | nn.BatchNorm2d):
            module.register_forward_pre_hook(lambda _, inputs: tuple(at_least_float32(x) for x in inputs))
            module.register_forward_hook(lambda _, __, output: output.to(dtype))
            _convert(module, torch.float32)
        else:
            _convert(module, dtype)
    return lowered


def _convert(module: nn.Module, dtype: torch.dtype) -> None:
    """Replaces the module's own parameters and buffers; the old ones may be shared with another module."""
    for name, parameter in list(module.named_parameters(recurse=False)):
        module.register_parameter(name, nn.Parameter(parameter.detach().to(dtype), requires_grad=False))
    for name, buffer in list(module.named_buffers(recurse=False)):
        if buffer.is_floating_point():
            setattr(module, name, buffer.to(dtype))


def _fold_batch_norms(parent: nn.Module) -> None:
    """Folds each batch normalization among the children into the convolution registered before it."""
    children = list(parent.named_children())
    for (conv_name, conv), (norm_name, norm) in zip(children, children[1:], strict=False):
        if isinstance(conv, nn.Conv1d | nn.Conv2d) and isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            setattr(parent, conv_name, fuse_conv_bn_eval(conv, norm))
            setattr(parent, norm_name, nn.Identity())
