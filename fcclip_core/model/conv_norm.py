"""Convolutions with batch normalization, as kMaX-DeepLab uses them everywhere.

Running statistics are part of a checkpoint. torch's `SyncBatchNorm.convert_sync_batchnorm` replaces every normalization
here by one over all workers, and `eval()` of a normalization freezes its statistics.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

_EPS = 1e-3
_MOMENTUM = 0.01


def batch_norm1d(channels: int) -> nn.BatchNorm1d:
    """Batch normalization of `(B, C, L)`."""
    return nn.BatchNorm1d(channels, _EPS, _MOMENTUM)


def batch_norm2d(channels: int) -> nn.BatchNorm2d:
    """Batch normalization of `(B, C, H, W)`."""
    return nn.BatchNorm2d(channels, _EPS, _MOMENTUM)


class ConvNorm2d(nn.Module):
    """A convolution that keeps the size, and batch normalization."""

    def __init__(self, channels: int, out: int, kernel: int = 1, **options: Any) -> None:
        """Builds a convolution `channels` -> `out` with a side of `kernel`; `options` as in `nn.Conv2d`."""
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, padding=kernel // 2, **{"bias": False, **options})
        self.norm = batch_norm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, channels, H, W)` -> `(B, out, H, W)`."""
        return self.norm(self.conv(x))


class ConvNormGelu2d(ConvNorm2d):
    """`ConvNorm2d`, then the exact GELU."""

    def forward(self, x: Tensor) -> Tensor:
        """`(B, channels, H, W)` -> `(B, out, H, W)`."""
        return F.gelu(super().forward(x))


class ConvNorm1d(nn.Module):
    """A linear map of every position of a sequence, and batch normalization."""

    def __init__(self, channels: int, out: int) -> None:
        """Builds a map `channels` -> `out` without bias."""
        super().__init__()
        self.conv = nn.Conv1d(channels, out, 1, bias=False)
        self.norm = batch_norm1d(out)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, channels, L)` -> `(B, out, L)`."""
        return self.norm(self.conv(x))


class ConvNormGelu1d(ConvNorm1d):
    """`ConvNorm1d`, then the exact GELU."""

    def forward(self, x: Tensor) -> Tensor:
        """`(B, channels, L)` -> `(B, out, L)`."""
        return F.gelu(super().forward(x))
