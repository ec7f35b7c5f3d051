"""Which mask owns which pixel, as one Triton kernel: no mask is ever enlarged in memory.

One program decides a tile of the image. It goes through the surviving queries in order and looks at the few mask
pixels that lie under the tile first: their extremes bound every enlarged value, because enlarging is averaging. A mask
that is negative all over, or whose probability cannot pass what every pixel of the tile has already, needs no enlarging
there; that is exact, and leaves a few masks a tile out of all. How many queries survive is read on the device.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fcclip_core.device_postprocess import TILE, FrameTaps, OwnedPixels


def owned_pixels_by_triton(mask_logits: Tensor, scores: Tensor, kept: Tensor, taps: FrameTaps) -> OwnedPixels:
    """`owned_pixels` without a wait for the number of surviving queries.

    Args:
        mask_logits: `(Q, h, w)`, float16, bfloat16 or float32.
        scores: float32 `(Q,)`.
        kept: bool `(Q,)`.
        taps: From `(h, w)` to the image.
    """
    mask_logits = mask_logits.contiguous()
    height, width = len(taps.rows.first), len(taps.columns.first)
    # Survivors first, in order.
    order = torch.argsort(kept.logical_not().to(torch.uint8), stable=True).int()
    owner = torch.zeros((height, width), dtype=torch.int32, device=mask_logits.device)
    inside = torch.zeros((height, width), dtype=torch.uint8, device=mask_logits.device)
    counts = torch.zeros((3, len(scores)), dtype=torch.int32, device=mask_logits.device)
    with torch.cuda.device_of(mask_logits):
        _own_kernel[(triton.cdiv(height, TILE[0]), triton.cdiv(width, TILE[1]))](
            mask_logits,
            scores.contiguous(),
            order,
            kept.sum(dtype=torch.int32),
            taps.rows.first,
            taps.rows.weights,
            taps.columns.first,
            taps.columns.weights,
            owner,
            inside,
            counts,
            len(scores),
            mask_logits.shape[1],
            mask_logits.shape[2],
            height,
            width,
            taps.rows.weights.shape[1],
            taps.columns.weights.shape[1],
            triton.next_power_of_2(taps.rows.patch),
            triton.next_power_of_2(taps.columns.patch),
            *TILE,
            num_warps=8,
        )
    return OwnedPixels(owner, inside.view(torch.bool), *counts)


@triton.jit
def _own_kernel(
    logits: tl.tensor,  # (Q, mask_height, mask_width)
    scores: tl.tensor,  # (Q,)
    order: tl.tensor,  # (Q,), surviving queries first
    survivors: tl.tensor,  # (), how many
    row_first: tl.tensor,  # (height,)
    row_weights: tl.tensor,  # (height, ROW_TAPS)
    column_first: tl.tensor,  # (width,)
    column_weights: tl.tensor,  # (width, COLUMN_TAPS)
    owners: tl.tensor,  # (height, width)
    insides: tl.tensor,  # (height, width)
    counts: tl.tensor,  # (3, Q): mask areas, owned, held
    queries: tl.tensor,
    mask_height: tl.tensor,
    mask_width: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    ROW_TAPS: tl.constexpr,
    COLUMN_TAPS: tl.constexpr,
    PATCH_ROWS: tl.constexpr,
    PATCH_COLUMNS: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
) -> None:
    top, left = tl.program_id(0) * TILE_ROWS, tl.program_id(1) * TILE_COLUMNS
    row, column = top + tl.arange(0, TILE_ROWS), left + tl.arange(0, TILE_COLUMNS)
    is_row, is_column = row < height, column < width
    is_pixel = is_row[:, None] & is_column[None, :]
    pixels = tl.sum(is_pixel.to(tl.int32))
    first_row = tl.load(row_first + row, mask=is_row, other=0)
    first_column = tl.load(column_first + column, mask=is_column, other=0)
    bottom, right = tl.minimum(top + TILE_ROWS, height) - 1, tl.minimum(left + TILE_COLUMNS, width) - 1
    patch_row = tl.load(row_first + top) + tl.arange(0, PATCH_ROWS)
    patch_column = tl.load(column_first + left) + tl.arange(0, PATCH_COLUMNS)
    last_row = tl.minimum(tl.load(row_first + bottom) + ROW_TAPS, mask_height)
    last_column = tl.minimum(tl.load(column_first + right) + COLUMN_TAPS, mask_width)
    in_patch = (patch_row < last_row)[:, None] & (patch_column < last_column)[None, :]
    patch = patch_row[:, None] * mask_width + patch_column[None, :]

    best = tl.full((TILE_ROWS, TILE_COLUMNS), -1.0, tl.float32)
    owner = tl.zeros((TILE_ROWS, TILE_COLUMNS), tl.int32)
    least_best = tl.min(best)
    kept = tl.load(survivors)
    for place in range(0, kept):
        query = tl.load(order + place)
        score = tl.load(scores + query)
        mask = logits + query.to(tl.int64) * mask_height * mask_width
        values = tl.load(mask + patch, mask=in_patch, other=0.0).to(tl.float32)
        highest = tl.max(tl.where(in_patch, values, -float("inf")))
        lowest = tl.min(tl.where(in_patch, values, float("inf")))
        # Rounding may carry an average a little beyond its terms.
        slack = 1e-4 * tl.maximum(tl.abs(highest), tl.abs(lowest)) + 1e-6
        may_own = score * tl.sigmoid(highest + slack) > least_best
        has_edge = (highest + slack >= 0.0) & (lowest - slack < 0.0)
        area = tl.where(lowest - slack >= 0.0, pixels, 0)
        if may_own | has_edge:
            logit = tl.zeros((TILE_ROWS, TILE_COLUMNS), tl.float32)
            for row_tap in tl.static_range(ROW_TAPS):
                near_row = tl.minimum(first_row + row_tap, mask_height - 1)
                row_weight = tl.load(row_weights + row * ROW_TAPS + row_tap, mask=is_row, other=0.0)
                for column_tap in tl.static_range(COLUMN_TAPS):
                    near_column = tl.minimum(first_column + column_tap, mask_width - 1)
                    column_weight = tl.load(
                        column_weights + column * COLUMN_TAPS + column_tap, mask=is_column, other=0.0
                    )
                    near = tl.load(mask + near_row[:, None] * mask_width + near_column[None, :])
                    logit += near.to(tl.float32) * (row_weight[:, None] * column_weight[None, :])
            area = tl.sum((is_pixel & (logit >= 0.0)).to(tl.int32))
            probability = score * tl.sigmoid(logit)
            # Of equal ones the first query wins.
            better = probability > best
            best = tl.where(better, probability, best)
            owner = tl.where(better, query, owner)
            least_best = tl.min(tl.where(is_pixel, best, float("inf")))
        if area > 0:
            tl.atomic_add(counts + query, area)

    # At logit 0 the mask probability is one half.
    inside = is_pixel & (kept > 0) & (best >= 0.5 * tl.load(scores + owner))
    place = row[:, None] * width + column[None, :]
    tl.store(owners + place, owner, mask=is_pixel)
    tl.store(insides + place, inside.to(tl.uint8), mask=is_pixel)
    for nth in range(0, kept):
        query = tl.load(order + nth)
        mine = is_pixel & (owner == query)
        owned = tl.sum(mine.to(tl.int32))
        if owned > 0:
            tl.atomic_add(counts + queries + query, owned)
            tl.atomic_add(counts + 2 * queries + query, tl.sum((mine & inside).to(tl.int32)))
