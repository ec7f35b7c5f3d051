"""A linear layer whose activation is part of it, so that a backend may compute both at once."""

from __future__ import annotations

from torch import Tensor, nn


class ReluLinear(nn.Linear):
    """`nn.Linear` followed by ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        """`(..., in)` -> `(..., out)`, at least 0."""
        return super().forward(x).relu_()
