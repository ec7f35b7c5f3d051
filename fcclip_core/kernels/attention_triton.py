"""Masked attention of few queries to many keys, as two Triton kernels: one per part of the keys, then a reduction.

Attention kernels usually parallelize over queries and heads. 250 queries and 8 heads give only 16 blocks for the 132
multiprocessors of a large GPU, so the 13,600 keys of a level are split, too ("split-K"). Softmax and sums are float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

_QUERIES = 64
_KEYS = 64
_JOINED = 4
"""Queries per program of the second kernel."""
_PROGRAMS = 256
"""Target number of programs: about two per multiprocessor of the largest GPUs."""


def takes_heads(channels: int) -> bool:
    """Whether the kernels support heads with this number of channels."""
    return channels in (16, 32, 64, 128)


def attend_in_parts(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None) -> Tensor:
    """`scaled_dot_product_attention` with a bool mask; not differentiable.

    Args:
        query: `(B, heads, Q, c)`, float16 or bfloat16; c is 16, 32, 64 or 128.
        key: `(B, heads, N, c)`, likewise; the last dimension of all three is contiguous.
        value: `(B, heads, N, c)`, likewise.
        allowed: bool `(B, 1, Q, N)`; a query without any allowed key gives NaN, as in torch. None: all keys.

    Returns:
        `(B, heads, Q, c)`, a view of `(B, Q, heads, c)`.
    """
    if allowed is None:
        return F.scaled_dot_product_attention(query, key, value)
    return _attend_in_parts(query, key, value, allowed)


@torch.library.custom_op("fcclip::attend_in_parts", mutates_args=())
def _attend_in_parts(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor) -> Tensor:
    batch, heads, queries, channels = query.shape
    keys = key.shape[2]
    query_blocks = triton.cdiv(queries, _QUERIES)
    parts = max(1, min(_PROGRAMS // (batch * heads * query_blocks), triton.cdiv(keys, 2 * _KEYS)))
    keys_a_part = triton.cdiv(triton.cdiv(keys, parts), _KEYS) * _KEYS
    parts = triton.cdiv(keys, keys_a_part)
    sums = torch.empty((parts, batch * heads, queries, channels), dtype=torch.float32, device=query.device)
    peaks = torch.empty((2, parts, batch * heads, queries), dtype=torch.float32, device=query.device)
    out = query.new_empty((batch, queries, heads, channels))
    mask = allowed.contiguous().view(torch.uint8)
    with torch.cuda.device_of(query):
        _part_kernel[(parts, query_blocks, batch * heads)](
            query,
            key,
            value,
            mask,
            sums,
            peaks,
            channels**-0.5 * 1.4426950408889634,  # exp(x) = 2^(x log2 e)
            heads,
            queries,
            keys,
            keys_a_part,
            *query.stride()[:3],
            *key.stride()[:3],
            *value.stride()[:3],
            channels,
            _QUERIES,
            _KEYS,
            num_warps=4,
        )
        _join_kernel[(triton.cdiv(queries, _JOINED), batch * heads)](
            sums, peaks, out, parts, heads, queries, channels, _JOINED, num_warps=4
        )
    return out.transpose(1, 2)


@_attend_in_parts.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor) -> Tensor:
    batch, heads, queries, channels = query.shape
    return query.new_empty((batch, queries, heads, channels)).transpose(1, 2)


@triton.jit
def _part_kernel(
    query: tl.tensor,
    key: tl.tensor,
    value: tl.tensor,
    allowed: tl.tensor,  # (B, 1, queries, keys)
    sums: tl.tensor,  # (parts, B * heads, queries, CHANNELS)
    peaks: tl.tensor,  # (2, parts, B * heads, queries): largest logit, sum of exponentials
    scale: tl.tensor,
    heads: tl.tensor,
    queries: tl.tensor,
    keys: tl.tensor,
    keys_a_part: tl.tensor,
    query_batch: tl.tensor,
    query_head: tl.tensor,
    query_row: tl.tensor,
    key_batch: tl.tensor,
    key_head: tl.tensor,
    key_row: tl.tensor,
    value_batch: tl.tensor,
    value_head: tl.tensor,
    value_row: tl.tensor,
    CHANNELS: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
) -> None:
    part, parts = tl.program_id(0), tl.num_programs(0)
    both, boths = tl.program_id(2), tl.num_programs(2)
    batch, head = (both // heads).to(tl.int64), both % heads
    row = tl.program_id(1) * QUERIES + tl.arange(0, QUERIES)
    channel = tl.arange(0, CHANNELS)
    is_row = row < queries
    query += batch * query_batch + head * query_head
    q = tl.load(query + row[:, None] * query_row + channel[None, :], mask=is_row[:, None], other=0.0)
    key += batch * key_batch + head * key_head
    value += batch * value_batch + head * value_head
    allowed += (batch * queries + row[:, None]) * keys

    peak = tl.full((QUERIES,), -float("inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    summed = tl.zeros((QUERIES, CHANNELS), tl.float32)
    first = part * keys_a_part
    for start in range(first, tl.minimum(first + keys_a_part, keys), KEYS):
        place = start + tl.arange(0, KEYS)
        is_key = place < keys
        k = tl.load(key + place[None, :] * key_row + channel[:, None], mask=is_key[None, :], other=0.0)
        v = tl.load(value + place[:, None] * value_row + channel[None, :], mask=is_key[:, None], other=0.0)
        may = tl.load(allowed + place[None, :], mask=is_row[:, None] & is_key[None, :], other=0)
        logits = tl.where(may != 0, tl.dot(q, k) * scale, -float("inf"))
        higher = tl.maximum(peak, tl.max(logits, 1))
        # The peak is minus infinity until a key is allowed; inf - inf would be NaN.
        base = tl.where(higher == -float("inf"), 0.0, higher)
        weights = tl.exp2(logits - base[:, None])
        fade = tl.exp2(peak - base)
        total = total * fade + tl.sum(weights, 1)
        summed = summed * fade[:, None] + tl.dot(weights.to(v.dtype), v)
        peak = higher

    place = (part * boths + both).to(tl.int64) * queries + row
    tl.store(sums + place[:, None] * CHANNELS + channel[None, :], summed, mask=is_row[:, None])
    tl.store(peaks + place, peak, mask=is_row)
    tl.store(peaks + boths.to(tl.int64) * parts * queries + place, total, mask=is_row)


@triton.jit
def _join_kernel(
    sums: tl.tensor,  # (parts, B * heads, queries, CHANNELS)
    peaks: tl.tensor,  # (2, parts, B * heads, queries)
    out: tl.tensor,  # (B, queries, heads, CHANNELS)
    parts: tl.tensor,
    heads: tl.tensor,
    queries: tl.tensor,
    CHANNELS: tl.constexpr,
    QUERIES: tl.constexpr,
) -> None:
    both, boths = tl.program_id(1), tl.num_programs(1)
    row = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    channel = tl.arange(0, CHANNELS)
    is_row = row < queries
    totals = peaks + boths.to(tl.int64) * parts * queries
    peak = tl.full((QUERIES,), -float("inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    summed = tl.zeros((QUERIES, CHANNELS), tl.float32)
    for part in range(0, parts):
        place = (part * boths + both).to(tl.int64) * queries + row
        part_peak = tl.load(peaks + place, mask=is_row, other=-float("inf"))
        part_total = tl.load(totals + place, mask=is_row, other=0.0)
        part_sum = tl.load(sums + place[:, None] * CHANNELS + channel[None, :], mask=is_row[:, None], other=0.0)
        higher = tl.maximum(peak, part_peak)
        base = tl.where(higher == -float("inf"), 0.0, higher)
        fade, share = tl.exp2(peak - base), tl.exp2(part_peak - base)
        total = total * fade + part_total * share
        summed = summed * fade[:, None] + part_sum * share[:, None]
        peak = higher
    place = ((both // heads).to(tl.int64) * queries + row) * heads + both % heads
    answer = (summed / tl.where(is_row, total, 1.0)[:, None]).to(out.dtype.element_ty)
    tl.store(out + place[:, None] * CHANNELS + channel[None, :], answer, mask=is_row[:, None])
