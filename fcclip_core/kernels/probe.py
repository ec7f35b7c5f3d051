"""Finds out which Triton kernels work on a GPU: each is run once on small inputs before a network uses it.

Triton compiles a kernel at its first launch. Anything missing or incompatible (Triton itself, a C compiler, a version,
a driver, the GPU) raises an error then, which must disable only that kernel.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

import torch
import torch.nn.functional as F

from fcclip_core.model.deformable_attention import sample_by_grid
from fcclip_core.quoting import first_line

_logger = logging.getLogger(__name__)

_TOLERANCE = 0.03
"""Relative error above which a kernel is rejected; bfloat16 rounding reaches a tenth of it."""


def working_kernels(device: torch.device, dtype: torch.dtype, names: Collection[str]) -> frozenset[str]:
    """Runs kernels on small inputs.

    Args:
        device: A GPU.
        dtype: Type of the values.
        names: Keys of `PROBES`.

    Returns:
        Names of the kernels that work; the log has the reasons for the others.
    """
    working = set()
    for name in names:
        try:
            expected, found = PROBES[name](device, dtype)
            error = float((expected - found.float()).norm() / expected.norm())
            reason = "" if error < _TOLERANCE else f"its result is off by {error:.2g}"
        except Exception as failure:  # Triton, the compiler and CUDA raise various types
            reason = f"{type(failure).__name__}: {first_line(failure)}"
        if reason:
            _logger.warning("%s runs without its Triton kernel, which is slower: %s", name, reason)
        else:
            working.add(name)
    return frozenset(working)


def _numbers(device: torch.device, dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Reproducible values; not all equal, which would hide wrong indices."""
    count = torch.Size(shape).numel()
    return (torch.arange(count, device=device) * 0.7391).sin().view(shape).to(dtype)


def _sampling(device: torch.device, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    from fcclip_core.kernels.deformable_triton import sample_by_triton

    shapes = [(3, 4), (6, 8)]
    value = _numbers(device, dtype, 1, 60, 2, 16)
    locations = _numbers(device, torch.float32, 1, 60, 2, 2, 2, 2) * 0.6 + 0.5
    weights = _numbers(device, torch.float32, 1, 60, 2, 2, 2).abs()
    expected = sample_by_grid(value.float(), shapes, locations, weights)
    return expected, sample_by_triton(value, shapes, locations, weights)


def _convolution(device: torch.device, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    from fcclip_core.kernels.depthwise_triton import depthwise_norm

    channels = 48
    pixels, taps = _numbers(device, dtype, 1, 9, 10, channels), _numbers(device, torch.float32, 49, channels)
    bias, scale = _numbers(device, dtype, channels), _numbers(device, torch.float32, channels)
    convolved = F.conv2d(
        pixels.float().permute(0, 3, 1, 2), taps.T.reshape(channels, 1, 7, 7), bias.float(), padding=3, groups=channels
    )
    expected = F.layer_norm(convolved.permute(0, 2, 3, 1), (channels,), scale, scale, 1e-6)
    return expected, depthwise_norm(pixels, taps, bias, scale, scale, 1e-6)


def _attention(device: torch.device, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    from fcclip_core.kernels.attention_triton import attend_in_parts

    query, key = _numbers(device, dtype, 1, 2, 70, 32), _numbers(device, dtype, 1, 2, 300, 32)
    allowed = _numbers(device, torch.float32, 1, 1, 70, 300) > 0.3
    expected = F.scaled_dot_product_attention(query.float(), key.float(), key.float(), allowed)
    return expected, attend_in_parts(query, key, key, allowed)


Probe = Callable[[torch.device, torch.dtype], tuple[torch.Tensor, torch.Tensor]]
"""Device and type of values -> expected result, and the kernel's result."""

SAMPLING, CONVOLUTION, ATTENTION = "deformable attention", "depthwise convolution", "masked attention"
PROBES: dict[str, Probe] = {SAMPLING: _sampling, CONVOLUTION: _convolution, ATTENTION: _attention}
