"""Products of NVIDIA's libraries with more in one call than PyTorch's modules ask for.

Each is an operator of its own: opaque to torch.compile, `torch.export` and CUDA graphs, which call it where it stands.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ActivatedLinear(nn.Module):
    """A linear layer and its activation in one call of cuBLASLt: no pass over memory between them."""

    def __init__(self, linear: nn.Linear, *, gelu: bool) -> None:
        """Takes over the weights of `linear`.

        Args:
            linear: With a bias.
            gelu: GELU in its form by tanh, which is within rounding of float16 and bfloat16; else ReLU.
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
    """`mask_pool` whose factors stay short: 0 or 1 times a short number is exact, and sums are float32."""
    weights, tokens = masks.flatten(2), features.flatten(2).transpose(1, 2)
    return wide_sums(weights.to(features.dtype), tokens) / (weights.sum(-1, keepdim=True).float() + 1e-8)


@torch.library.custom_op("fcclip::wide_sums", mutates_args=())
def wide_sums(weights: Tensor, tokens: Tensor) -> Tensor:
    """`(B, Q, N)` times `(B, N, C)` -> float32 `(B, Q, C)`, whatever the type of the factors."""
    if tokens.is_cuda and hasattr(torch.ops.aten.bmm, "dtype"):
        return torch.bmm(weights, tokens, out_dtype=torch.float32)
    # Before PyTorch 2.8 a product has its factors' type.
    return torch.bmm(weights.float(), tokens.float())


@wide_sums.register_fake
def _(weights: Tensor, tokens: Tensor) -> Tensor:
    return weights.new_empty((weights.shape[0], weights.shape[1], tokens.shape[2]), dtype=torch.float32)
