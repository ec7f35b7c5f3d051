"""A ConvNeXt block's depthwise 7x7 convolution and the following layer normalization, as one Triton kernel.

cuDNN's channels-last depthwise convolution reaches a tenth of the peak arithmetic rate. Here a thread handles a few
channels of four neighboring pixels: the ten inputs under a row of their windows are loaded once and used 28 times. A
program has all channels of its pixels, so the normalization needs no extra pass over memory. Sums are float32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

KERNEL_SIZE = 7
PIXELS_AT_ONCE = 4
"""Neighboring pixels of a row per thread; the kernel has one variable for each."""

_VALUES = 512
"""Rows times channels per program and block."""


def takes_channels(channels: int) -> bool:
    """Whether the kernel supports a number of channels: 16, 32, 64, ... or three times that, as in ConvNeXt."""
    size, number = _channel_blocks(channels)
    return size >= 16 and number in (1, 3)


def _channel_blocks(channels: int) -> tuple[int, int]:
    """(size, number) of the blocks that `channels` are split into; the size is a power of two."""
    size = channels & -channels
    return size, channels // size


def depthwise_norm(x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    """Depthwise 7x7 convolution (zero padding 3) and layer normalization over channels; not differentiable.

    Args:
        x: `(B, H, W, C)`, contiguous; float16, bfloat16 or float32.
        weight: float32 `(49, C)`, taps row by row.
        bias: `(C,)` of the convolution.
        scale: `(C,)` of the normalization.
        shift: `(C,)` of the normalization.
        eps: Added to the variance.

    Returns:
        `(B, H, W, C)`, same type as `x`.

    Raises:
        ValueError: Unsupported number of channels; see `takes_channels`.
    """
    if not takes_channels(x.shape[-1]):
        raise ValueError(f"got {x.shape[-1]} channels; expected 16, 32, 64, ... or three times that")
    return _depthwise_norm(x, weight, bias, scale, shift, eps)


# A custom operator is opaque to torch.compile, which calls it unchanged.
@torch.library.custom_op("fcclip::depthwise_norm", mutates_args=())
def _depthwise_norm(x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    x = x.contiguous()
    batch, height, width, channels = x.shape
    block, blocks = _channel_blocks(channels)
    rows = max(1, _VALUES // block)
    out = torch.empty_like(x)
    grid = (triton.cdiv(width, PIXELS_AT_ONCE), triton.cdiv(height, rows), batch)
    with torch.cuda.device_of(x):
        sizes = (height, width, channels, block, blocks, rows)
        _kernel[grid](x, weight, bias, scale, shift, out, eps, *sizes, _is_packed(x), num_warps=4)
    return out


def _is_packed(x: Tensor) -> bool:
    """Whether values are converted in pairs, by instructions that Triton's interpreter does not support."""
    return x.dtype == torch.bfloat16 and x.is_cuda


@_depthwise_norm.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@triton.jit
def _kernel(
    image: tl.tensor,  # (B, height, width, CHANNELS)
    weight: tl.tensor,  # (49, CHANNELS)
    bias: tl.tensor,  # (CHANNELS,)
    scale: tl.tensor,  # (CHANNELS,)
    shift: tl.tensor,  # (CHANNELS,)
    out: tl.tensor,  # (B, height, width, CHANNELS)
    eps: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
    ROWS: tl.constexpr,
    PACKED: tl.constexpr,
) -> None:
    column = tl.program_id(0) * 4
    line = tl.program_id(1) * ROWS + tl.arange(0, ROWS)[:, None]
    start = tl.program_id(2).to(tl.int64) * height * width * CHANNELS
    channel = tl.arange(0, BLOCK)[None, :]
    image += start
    # One variable per pixel and block of channels: Triton has no register arrays.
    a0, a1, a2, a3 = _convolve(image, weight, bias, line, column, channel, height, width, CHANNELS, PACKED)
    s0, s1, s2, s3 = tl.sum(a0, 1), tl.sum(a1, 1), tl.sum(a2, 1), tl.sum(a3, 1)
    if BLOCKS == 3:
        second, third = channel + BLOCK, channel + 2 * BLOCK
        b0, b1, b2, b3 = _convolve(image, weight, bias, line, column, second, height, width, CHANNELS, PACKED)
        c0, c1, c2, c3 = _convolve(image, weight, bias, line, column, third, height, width, CHANNELS, PACKED)
        s0 += tl.sum(b0 + c0, 1)
        s1 += tl.sum(b1 + c1, 1)
        s2 += tl.sum(b2 + c2, 1)
        s3 += tl.sum(b3 + c3, 1)
    m0, m1 = (s0 / CHANNELS)[:, None], (s1 / CHANNELS)[:, None]
    m2, m3 = (s2 / CHANNELS)[:, None], (s3 / CHANNELS)[:, None]
    a0, a1, a2, a3 = a0 - m0, a1 - m1, a2 - m2, a3 - m3
    q0, q1, q2, q3 = tl.sum(a0 * a0, 1), tl.sum(a1 * a1, 1), tl.sum(a2 * a2, 1), tl.sum(a3 * a3, 1)
    if BLOCKS == 3:
        b0, b1, b2, b3 = b0 - m0, b1 - m1, b2 - m2, b3 - m3
        c0, c1, c2, c3 = c0 - m0, c1 - m1, c2 - m2, c3 - m3
        q0 += tl.sum(b0 * b0 + c0 * c0, 1)
        q1 += tl.sum(b1 * b1 + c1 * c1, 1)
        q2 += tl.sum(b2 * b2 + c2 * c2, 1)
        q3 += tl.sum(b3 * b3 + c3 * c3, 1)
    r0, r1 = tl.rsqrt(q0 / CHANNELS + eps)[:, None], tl.rsqrt(q1 / CHANNELS + eps)[:, None]
    r2, r3 = tl.rsqrt(q2 / CHANNELS + eps)[:, None], tl.rsqrt(q3 / CHANNELS + eps)[:, None]

    pixel = out + start + (line * width + column) * CHANNELS
    is_line = line < height
    _store(pixel, a0 * r0, a1 * r1, a2 * r2, a3 * r3, scale, shift, channel, is_line, column, width, CHANNELS)
    if BLOCKS == 3:
        _store(pixel, b0 * r0, b1 * r1, b2 * r2, b3 * r3, scale, shift, second, is_line, column, width, CHANNELS)
        _store(pixel, c0 * r0, c1 * r1, c2 * r2, c3 * r3, scale, shift, third, is_line, column, width, CHANNELS)


@triton.jit
def _widen(values: tl.tensor, PACKED: tl.constexpr) -> tl.tensor:
    """Converts to float32; two packed bfloat16 values take one instruction each, where Triton uses three for both."""
    if PACKED:
        return tl.inline_asm_elementwise(
            "shl.b32 $0, $2, 16; and.b32 $1, $2, 0xffff0000;", "=r,=r,r", [values], tl.float32, True, 2
        )
    return values.to(tl.float32)


@triton.jit
def _convolve(
    image: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    line: tl.tensor,  # (ROWS, 1)
    column: tl.tensor,  # of the first of four pixels
    channel: tl.tensor,  # (1, BLOCK)
    height: tl.tensor,
    width: tl.tensor,
    CHANNELS: tl.constexpr,
    PACKED: tl.constexpr,
) -> tuple[tl.tensor, ...]:
    """Convolution results of four neighboring pixels, float32 `(ROWS, BLOCK)` each."""
    a0 = tl.load(bias + channel).to(tl.float32) + tl.zeros((line.shape[0], channel.shape[1]), tl.float32)
    a1, a2, a3 = a0, a0, a0
    # Not unrolled: ptxas would take half a minute to compile the kernel.
    for tap in range(7):
        near = line + (tap - 3)
        inside = (near >= 0) & (near < height)
        pixel = image + (near * width + column) * CHANNELS + channel
        v0 = _widen(tl.load(pixel - 3 * CHANNELS, mask=inside & (column >= 3), other=0.0), PACKED)
        v1 = _widen(tl.load(pixel - 2 * CHANNELS, mask=inside & (column >= 2), other=0.0), PACKED)
        v2 = _widen(tl.load(pixel - CHANNELS, mask=inside & (column >= 1), other=0.0), PACKED)
        v3 = _widen(tl.load(pixel, mask=inside, other=0.0), PACKED)
        v4 = _widen(tl.load(pixel + CHANNELS, mask=inside & (column + 1 < width), other=0.0), PACKED)
        v5 = _widen(tl.load(pixel + 2 * CHANNELS, mask=inside & (column + 2 < width), other=0.0), PACKED)
        v6 = _widen(tl.load(pixel + 3 * CHANNELS, mask=inside & (column + 3 < width), other=0.0), PACKED)
        v7 = _widen(tl.load(pixel + 4 * CHANNELS, mask=inside & (column + 4 < width), other=0.0), PACKED)
        v8 = _widen(tl.load(pixel + 5 * CHANNELS, mask=inside & (column + 5 < width), other=0.0), PACKED)
        v9 = _widen(tl.load(pixel + 6 * CHANNELS, mask=inside & (column + 6 < width), other=0.0), PACKED)
        # As many pointers as values: with fewer, other threads would load them and pass them through shared memory.
        taps = weight + tap * 7 * CHANNELS + channel + tl.zeros_like(line)
        w0 = tl.load(taps)
        w1 = tl.load(taps + CHANNELS)
        w2 = tl.load(taps + 2 * CHANNELS)
        w3 = tl.load(taps + 3 * CHANNELS)
        w4 = tl.load(taps + 4 * CHANNELS)
        w5 = tl.load(taps + 5 * CHANNELS)
        w6 = tl.load(taps + 6 * CHANNELS)
        a0 = a0 + v0 * w0 + v1 * w1 + v2 * w2 + v3 * w3 + v4 * w4 + v5 * w5 + v6 * w6
        a1 = a1 + v1 * w0 + v2 * w1 + v3 * w2 + v4 * w3 + v5 * w4 + v6 * w5 + v7 * w6
        a2 = a2 + v2 * w0 + v3 * w1 + v4 * w2 + v5 * w3 + v6 * w4 + v7 * w5 + v8 * w6
        a3 = a3 + v3 * w0 + v4 * w1 + v5 * w2 + v6 * w3 + v7 * w4 + v8 * w5 + v9 * w6
    return a0, a1, a2, a3


@triton.jit
def _store(
    pixel: tl.tensor,  # (ROWS, 1)
    y0: tl.tensor,  # (ROWS, BLOCK), normalized
    y1: tl.tensor,
    y2: tl.tensor,
    y3: tl.tensor,
    scale: tl.tensor,
    shift: tl.tensor,
    channel: tl.tensor,
    is_line: tl.tensor,
    column: tl.tensor,
    width: tl.tensor,
    CHANNELS: tl.constexpr,
) -> None:
    times, plus = tl.load(scale + channel).to(tl.float32), tl.load(shift + channel).to(tl.float32)
    place = pixel + channel
    kind = pixel.dtype.element_ty
    tl.store(place, (y0 * times + plus).to(kind), mask=is_line)
    tl.store(place + CHANNELS, (y1 * times + plus).to(kind), mask=is_line & (column + 1 < width))
    tl.store(place + 2 * CHANNELS, (y2 * times + plus).to(kind), mask=is_line & (column + 2 < width))
    tl.store(place + 3 * CHANNELS, (y3 * times + plus).to(kind), mask=is_line & (column + 3 < width))
