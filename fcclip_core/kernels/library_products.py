"""Fused matrix products of NVIDIA's libraries that PyTorch's modules do not use.

Each is a custom operator, opaque to torch.compile and `torch.export`, which call it unchanged.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ActivatedLinear(nn.Module):
    """A linear layer and its activation in one cuBLASLt call."""

    def __init__(self, linear: nn.Linear, *, gelu: bool) -> None:
        """Uses the weights of `linear`.

        Args:
            linear: A layer with a bias.
            gelu: GELU in its tanh approximation, exact within float16 and bfloat16 rounding; otherwise ReLU.
        """
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self._gelu = gelu

    def forward(self, x: Tensor) -> Tensor:
        """`(..., in)` -> `(..., out)`."""
        return activated_linear(x.flatten(0, -2), self.weight, self.bias, self._gelu).unflatten(0, x.shape[:-1])


@torch.library.custom_op("fcclip::activated_linear", mutates_args=())
def activated_linear(x: Tensor, weight: Tensor, bias: Tensor, gelu: bool) -> Tensor:
    """`x` `(N, in)`, `weight` `(out, in)`, `bias` `(out,)` -> `(N, out)`; see `ActivatedLinear`."""
    return torch._addmm_activation(bias, x, weight.T, use_gelu=gelu)


@activated_linear.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, gelu: bool) -> Tensor:
    return x.new_empty((x.shape[0], weight.shape[0]))


def pool_masks(features: Tensor, masks: Tensor) -> Tensor:
    """`mask_pool` with 16-bit factors: multiplying by 0 or 1 is exact, and sums are float32."""
    weights, tokens = masks.flatten(2), features.flatten(2).transpose(1, 2)
    return wide_sums(weights.to(features.dtype), tokens) / (weights.sum(-1, keepdim=True).float() + 1e-8)


@torch.library.custom_op("fcclip::wide_sums", mutates_args=())
def wide_sums(weights: Tensor, tokens: Tensor) -> Tensor:
    """`(B, Q, N)` times `(B, N, C)` -> float32 `(B, Q, C)`, for factors of any type."""
    if tokens.is_cuda and hasattr(torch.ops.aten.bmm, "dtype"):
        return torch.bmm(weights, tokens, out_dtype=torch.float32)
    # Before PyTorch 2.8, `bmm` has no `out_dtype`.
    return torch.bmm(weights.float(), tokens.float())


@wide_sums.register_fake
def _(weights: Tensor, tokens: Tensor) -> Tensor:
    return weights.new_empty((weights.shape[0], weights.shape[1], tokens.shape[2]), dtype=torch.float32)
