"""Multi-scale deformable attention as one Triton kernel: `sample_by_grid`'s sum on an NVIDIA GPU, for inference.

One program handles `QUERIES_AT_ONCE` neighboring queries of one head. Their samples are close together, so most
neighbors of sampling points come from the cache, and only the sum is written. Values may be float16 or bfloat16.
Coordinates, weights and sums are float32: half a float16 step near 1 is a fifteenth of a pixel on a map 270 pixels
wide.

Importing this module requires Triton, which PyTorch's CUDA builds include; `sample_by_grid` does not need it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

QUERIES_AT_ONCE = 32
MOST_LEVELS = 4
VALUE_TYPES = (torch.float16, torch.bfloat16, torch.float32)


def sample_by_triton(value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """`sample_by_grid` as one kernel; not differentiable.

    Args:
        value: `(B, N, heads, C)`, tokens of all levels in order; float16, bfloat16 or float32.
        shapes: (H, W) of each level; a level may be empty.
        locations: `(B, Q, heads, levels, points, 2)`, (x, y), 0..1 across the image; converted to float32.
        weights: `(B, Q, heads, levels, points)`; converted to float32.

    Returns:
        `(B, Q, heads * C)`, same type as `value`.

    Raises:
        TypeError: Unsupported type of `value`.
        ValueError: More than `MOST_LEVELS` levels.
    """
    if len(shapes) > MOST_LEVELS:
        raise ValueError(f"got {len(shapes)} levels; the kernel supports up to {MOST_LEVELS}: use sample_by_grid")
    if value.dtype not in VALUE_TYPES:
        raise TypeError(f"value is {value.dtype}; expected float16, bfloat16 or float32; or use sample_by_grid")
    sides = [side for shape in shapes for side in shape]
    return _sample_deformably(value, sides, locations.float(), weights.float())


# A custom operator is opaque to torch.compile, which calls it unchanged.
@torch.library.custom_op("fcclip::sample_deformably", mutates_args=())
def _sample_deformably(value: Tensor, sides: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    value, locations, weights = value.contiguous(), locations.contiguous(), weights.contiguous()
    batch, tokens, heads, channels = value.shape
    queries, levels, points = weights.shape[1], weights.shape[3], weights.shape[4]
    sums = value.new_empty(batch, queries, heads * channels)
    grid = (triton.cdiv(queries, QUERIES_AT_ONCE), heads, batch)
    if 0 in sums.shape:
        return sums
    with torch.cuda.device_of(value):
        _sample_kernel[grid](
            value,
            locations,
            weights,
            sums,
            # Single arguments: Triton before 3.3 does not support tuples.
            *sides,
            *(0 for _ in range(2 * MOST_LEVELS - len(sides))),
            tokens,
            queries,
            heads,
            levels,
            points,
            channels,
            triton.next_power_of_2(channels),
            QUERIES_AT_ONCE,
        )
    return sums


@_sample_deformably.register_fake
def _(value: Tensor, sides: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    batch, _, heads, channels = value.shape
    return value.new_empty(batch, weights.shape[1], heads * channels)


@triton.jit
def _sample_kernel(
    value: tl.tensor,  # (B, N, heads, C)
    locations: tl.tensor,  # (B, Q, heads, LEVELS, POINTS, 2)
    weights: tl.tensor,  # (B, Q, heads, LEVELS, POINTS)
    sums: tl.tensor,  # (B, Q, heads, C)
    height_0: tl.tensor,  # of each level; unused levels are never read
    width_0: tl.tensor,
    height_1: tl.tensor,
    width_1: tl.tensor,
    height_2: tl.tensor,
    width_2: tl.tensor,
    height_3: tl.tensor,
    width_3: tl.tensor,
    tokens: tl.tensor,
    queries: tl.tensor,
    heads: tl.tensor,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    CHANNELS: tl.constexpr,
    CHANNEL_BLOCK: tl.constexpr,
    QUERY_BLOCK: tl.constexpr,
) -> None:
    query = tl.program_id(0) * QUERY_BLOCK + tl.arange(0, QUERY_BLOCK)
    head = tl.program_id(1)
    # Offsets may exceed 2^31.
    batch = tl.program_id(2).to(tl.int64)
    channel = tl.arange(0, CHANNEL_BLOCK)[None, :]
    is_query, is_channel = query < queries, channel < CHANNELS
    row = (batch * queries + query) * heads + head
    point_row = row * (LEVELS * POINTS)
    token_stride = heads * CHANNELS
    level_start = value + (batch * tokens * heads + head) * CHANNELS + channel

    total = tl.zeros((QUERY_BLOCK, CHANNEL_BLOCK), tl.float32)
    for level in tl.static_range(LEVELS):
        if level == 0:
            height, width = height_0, width_0
        elif level == 1:
            height, width = height_1, width_1
        elif level == 2:
            height, width = height_2, width_2
        else:
            height, width = height_3, width_3
        for point in tl.static_range(POINTS):
            index = point_row + (level * POINTS + point)
            weight = tl.load(weights + index, mask=is_query, other=0.0)
            x = tl.load(locations + 2 * index, mask=is_query, other=0.0) * width - 0.5
            y = tl.load(locations + 2 * index + 1, mask=is_query, other=0.0) * height - 0.5
            left, top = tl.floor(x), tl.floor(y)
            x_right, y_low = x - left, y - top
            column, line = left.to(tl.int32), top.to(tl.int32)
            for below in tl.static_range(2):
                for right in tl.static_range(2):
                    near_column, near_line = column + right, line + below
                    inside = is_query & (near_column >= 0) & (near_column < width)
                    inside = inside & (near_line >= 0) & (near_line < height)
                    x_share = x_right if right else 1.0 - x_right
                    y_share = y_low if below else 1.0 - y_low
                    pixel = level_start + ((near_line * width + near_column) * token_stride)[:, None]
                    near = tl.load(pixel, mask=inside[:, None] & is_channel, other=0.0)
                    total += near.to(tl.float32) * (weight * x_share * y_share)[:, None]
        level_start += height * width * token_stride
    out = sums + (row * CHANNELS)[:, None] + channel
    tl.store(out, total.to(sums.dtype.element_ty), mask=is_query[:, None] & is_channel)
