"""A linear layer with its activation, so that a backend can fuse both."""

from __future__ import annotations

from torch import Tensor, nn


class ReluLinear(nn.Linear):
    """`nn.Linear` followed by ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        """`(..., in)` -> `(..., out)`, at least 0."""
        return super().forward(x).relu_()
