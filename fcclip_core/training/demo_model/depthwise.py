"""Depthwise convolutions for bfloat16 training on a CPU, where torch's weight gradient is slow."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution with stride 1 and "same" padding whose weight gradient is computed in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """`x` `(N, C, H, W)`, `weight` `(C, 1, k, k)`, `bias` `(C,)` -> `(N, C, H, W)`."""
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of x, weight and bias."""
        (grad,) = gradients
        x, weight = ctx.saved_tensors
        pad, channels = weight.shape[-1] // 2, len(weight)
        grad_x = F.conv2d(grad, weight.flip(-1, -2), padding=pad, groups=channels)
        arguments = ([1, 1], [pad, pad], [1, 1], False, [0, 0], channels, [False, True, True])
        _, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
            grad.float(), x.float(), weight.float(), [channels], *arguments
        )
        return grad_x, grad_weight.to(weight.dtype), grad_bias.to(weight.dtype)


def speed_up_depthwise(network: nn.Module) -> None:
    """Makes the depthwise convolutions of `network` compute their weight gradient in float32, equal up to rounding."""
    for module in network.modules():
        if (
            isinstance(module, nn.Conv2d)
            and module.groups == module.in_channels == module.out_channels
            and module.stride == (1, 1)
            and module.padding == (module.kernel_size[0] // 2,) * 2
            and module.bias is not None
        ):
            module.forward = partial(_forward, module)  # type: ignore[method-assign]


def _forward(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    weight, bias = convolution.weight, convolution.bias
    assert bias is not None
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
    return _Depthwise.apply(x, weight, bias)
