"""Assigns each pixel to a mask with four Triton kernels, without storing an enlarged mask.

The image is processed tile by tile. Enlarging is a weighted average, so the extremes of the few mask pixels under a
tile bound every enlarged value in it. A mask that is negative in the whole tile, or whose probability cannot reach what
another mask has at every pixel, is skipped in that tile; this is exact and leaves a few masks per tile. Several
programs share the remaining masks of a tile and combine their results by an atomic maximum per pixel. There is no
synchronization with the host.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fcclip_core.inference.ownership import TILE, FrameTaps, OwnedPixels

_GROUPS = 8
"""Programs that share the masks of one tile."""

_CELL = 8
"""Side of the square cells of mask pixels whose extremes are stored."""

_SMALLEST_PRODUCT = 16
"""Smallest matrix side that `tl.dot` accepts."""


def owned_pixels_by_triton(mask_logits: Tensor, scores: Tensor, kept: Tensor, taps: FrameTaps) -> OwnedPixels:
    """`owned_pixels` without synchronizing on the number of kept queries.

    Args:
        mask_logits: `(Q, h, w)`, float16, bfloat16 or float32.
        scores: float32 `(Q,)`, at least 0.
        kept: bool `(Q,)`.
        taps: From `(h, w)` to the image.
    """
    mask_logits, scores, kept = mask_logits.contiguous(), scores.contiguous(), kept.contiguous().view(torch.uint8)
    queries, mask_height, mask_width = mask_logits.shape
    height, width = len(taps.rows.first), len(taps.columns.first)
    rows, columns = triton.cdiv(height, TILE[0]), triton.cdiv(width, TILE[1])
    device = mask_logits.device
    patch_rows, patch_columns = (
        max(_SMALLEST_PRODUCT, triton.next_power_of_2(axis.patch)) for axis in (taps.rows, taps.columns)
    )
    cell_rows, cell_columns = triton.cdiv(mask_height, _CELL), triton.cdiv(mask_width, _CELL)
    extremes = torch.empty((2, queries, cell_rows, cell_columns), dtype=torch.float32, device=device)
    listed = torch.empty((rows * columns, queries + 1), dtype=torch.int32, device=device)
    counts = torch.zeros((3, queries), dtype=torch.int32, device=device)
    best = torch.zeros((height, width), dtype=torch.int64, device=device)
    owner = torch.empty((height, width), dtype=torch.int32, device=device)
    inside = torch.empty((height, width), dtype=torch.uint8, device=device)
    places = (taps.rows.first, taps.columns.first)
    reach = (taps.rows.weights.shape[1], taps.columns.weights.shape[1])
    with torch.cuda.device_of(mask_logits):
        _cell_kernel[(cell_rows, queries)](
            mask_logits, extremes, mask_height, mask_width, cell_columns, _CELL, triton.next_power_of_2(cell_columns)
        )
        _list_kernel[(rows, columns)](
            extremes,
            scores,
            kept,
            *places,
            listed,
            counts,
            queries,
            mask_height,
            mask_width,
            cell_rows,
            cell_columns,
            height,
            width,
            *reach,
            triton.next_power_of_2(queries),
            _CELL,
            *TILE,
            num_warps=4,
        )
        _compete_kernel[(rows, columns, _GROUPS)](
            mask_logits,
            scores,
            listed,
            *places,
            taps.rows.weights,
            taps.columns.weights,
            best,
            counts,
            queries,
            mask_height,
            mask_width,
            height,
            width,
            *reach,
            patch_rows,
            patch_columns,
            _GROUPS,
            *TILE,
            num_warps=4,
        )
        _settle_kernel[(rows, columns)](
            best,
            scores,
            owner,
            inside,
            counts,
            queries,
            height,
            width,
            max(32, triton.next_power_of_2(queries + 1)),
            *TILE,
            num_warps=8,
        )
    return OwnedPixels(owner, inside.view(torch.bool), *counts)


@triton.jit
def _cell_kernel(
    logits: tl.tensor,  # (Q, mask_height, mask_width)
    extremes: tl.tensor,  # (2, Q, cell rows, cell_columns): highest and lowest mask pixel of each cell
    mask_height: tl.tensor,
    mask_width: tl.tensor,
    cell_columns: tl.tensor,
    CELL: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    cell_row, query = tl.program_id(0), tl.program_id(1)
    cell_rows, queries = tl.num_programs(0), tl.num_programs(1)
    row = cell_row * CELL + tl.arange(0, CELL)[:, None]
    column = tl.arange(0, COLUMNS * CELL)[None, :]
    is_value = (row < mask_height) & (column < mask_width)
    place = query.to(tl.int64) * mask_height * mask_width + row * mask_width + column
    values = tl.load(logits + place, mask=is_value, other=0.0).to(tl.float32)
    highest = tl.max(tl.where(is_value, values, -float("inf")), 0).reshape((COLUMNS, CELL))
    lowest = tl.min(tl.where(is_value, values, float("inf")), 0).reshape((COLUMNS, CELL))
    cell = tl.arange(0, COLUMNS)
    out = extremes + (query * cell_rows + cell_row) * cell_columns + cell
    tl.store(out, tl.max(highest, 1), mask=cell < cell_columns)
    tl.store(out + queries * cell_rows * cell_columns, tl.min(lowest, 1), mask=cell < cell_columns)


@triton.jit
def _list_kernel(
    extremes: tl.tensor,  # (2, Q, cell_rows, cell_columns)
    scores: tl.tensor,  # (Q,)
    kept: tl.tensor,  # (Q,)
    row_first: tl.tensor,  # (height,)
    column_first: tl.tensor,  # (width,)
    listed: tl.tensor,  # (tiles, 1 + Q): number of queries to enlarge, then 2 * query + (1 if its area is counted)
    counts: tl.tensor,  # (3, Q): mask areas, owned, held
    queries: tl.tensor,
    mask_height: tl.tensor,
    mask_width: tl.tensor,
    cell_rows: tl.tensor,
    cell_columns: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    ROW_TAPS: tl.constexpr,
    COLUMN_TAPS: tl.constexpr,
    QUERIES: tl.constexpr,
    CELL: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
) -> None:
    tile = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    top, left = tl.program_id(0) * TILE_ROWS, tl.program_id(1) * TILE_COLUMNS
    bottom, right = tl.minimum(top + TILE_ROWS, height) - 1, tl.minimum(left + TILE_COLUMNS, width) - 1
    last_row = tl.minimum(tl.load(row_first + bottom) + ROW_TAPS, mask_height) - 1
    last_column = tl.minimum(tl.load(column_first + right) + COLUMN_TAPS, mask_width) - 1
    query = tl.arange(0, QUERIES)
    is_query = query < queries
    highest = tl.full((QUERIES,), -float("inf"), tl.float32)
    lowest = tl.full((QUERIES,), float("inf"), tl.float32)
    # The cells that the tile touches cover more than the tile: the bounds are looser, but valid.
    for cell_row in range(tl.load(row_first + top) // CELL, last_row // CELL + 1):
        for cell_column in range(tl.load(column_first + left) // CELL, last_column // CELL + 1):
            cell = extremes + (query * cell_rows + cell_row) * cell_columns + cell_column
            highest = tl.maximum(highest, tl.load(cell, mask=is_query, other=0.0))
            lowest = tl.minimum(lowest, tl.load(cell + queries * cell_rows * cell_columns, mask=is_query, other=0.0))
    score = tl.load(scores + query, mask=is_query, other=0.0)
    competes = tl.load(kept + query, mask=is_query, other=0) != 0
    # Rounding may push an average slightly beyond its terms.
    slack = 1e-4 * tl.maximum(tl.abs(highest), tl.abs(lowest)) + 1e-6
    highest, lowest = highest + slack, lowest - slack
    # Some mask reaches at least this probability at every pixel of the tile.
    floor = tl.max(tl.where(competes, score * tl.sigmoid(lowest), -1.0))
    may_own = competes & (score * tl.sigmoid(highest) >= floor)
    has_edge = competes & (highest >= 0.0) & (lowest < 0.0)
    pixels = (bottom + 1 - top) * (right + 1 - left)
    tl.atomic_add(counts + query, tl.zeros_like(query) + pixels, mask=competes & (lowest >= 0.0), sem="relaxed")
    enlarge = may_own | has_edge
    number = tl.cumsum(enlarge.to(tl.int32), 0)
    out = listed + tile * (queries + 1)
    tl.store(out + number, 2 * query + has_edge.to(tl.int32), mask=enlarge)
    tl.store(out, tl.sum(enlarge.to(tl.int32)))


@triton.jit
def _compete_kernel(
    logits: tl.tensor,  # (Q, mask_height, mask_width)
    scores: tl.tensor,  # (Q,)
    listed: tl.tensor,  # (tiles, 1 + Q)
    row_first: tl.tensor,  # (height,)
    column_first: tl.tensor,  # (width,)
    row_weights: tl.tensor,  # (height, ROW_TAPS)
    column_weights: tl.tensor,  # (width, COLUMN_TAPS)
    bests: tl.tensor,  # (height, width): bits of the largest probability, then 2^31 - 1 less its query
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
    GROUPS: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
) -> None:
    tile = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    listed += tile * (queries + 1)
    number = tl.load(listed)
    group = tl.program_id(2)
    if group < number:
        row = tl.program_id(0) * TILE_ROWS + tl.arange(0, TILE_ROWS)
        column = tl.program_id(1) * TILE_COLUMNS + tl.arange(0, TILE_COLUMNS)
        is_row, is_column = row < height, column < width
        is_pixel = is_row[:, None] & is_column[None, :]
        # Enlarging a mask takes two products: with the row taps, then with the column taps.
        top = tl.load(row_first + tl.program_id(0) * TILE_ROWS)
        left = tl.load(column_first + tl.program_id(1) * TILE_COLUMNS)
        patch_row, patch_column = tl.arange(0, PATCH_ROWS), tl.arange(0, PATCH_COLUMNS)
        first_row = tl.load(row_first + row, mask=is_row, other=0) - top
        first_column = tl.load(column_first + column, mask=is_column, other=0) - left
        from_rows = tl.zeros((TILE_ROWS, PATCH_ROWS), tl.float32)
        for tap in tl.static_range(ROW_TAPS):
            share = tl.load(row_weights + row * ROW_TAPS + tap, mask=is_row, other=0.0)
            from_rows += tl.where((first_row + tap)[:, None] == patch_row[None, :], share[:, None], 0.0)
        from_columns = tl.zeros((PATCH_COLUMNS, TILE_COLUMNS), tl.float32)
        for tap in tl.static_range(COLUMN_TAPS):
            share = tl.load(column_weights + column * COLUMN_TAPS + tap, mask=is_column, other=0.0)
            from_columns += tl.where(patch_column[:, None] == (first_column + tap)[None, :], share[None, :], 0.0)
        in_patch = (top + patch_row < mask_height)[:, None] & (left + patch_column < mask_width)[None, :]
        patch = (top + patch_row)[:, None] * mask_width + (left + patch_column)[None, :]
        best = tl.full((TILE_ROWS, TILE_COLUMNS), -1.0, tl.float32)
        owner = tl.zeros((TILE_ROWS, TILE_COLUMNS), tl.int32)
        for nth in range(group, number, GROUPS):
            entry = tl.load(listed + 1 + nth)
            query = entry // 2
            score = tl.load(scores + query)
            mask = logits + query.to(tl.int64) * mask_height * mask_width
            values = tl.load(mask + patch, mask=in_patch, other=0.0).to(tl.float32)
            # Three TF32 products are as accurate as one in float32.
            narrow = tl.dot(from_rows, values, input_precision="tf32x3")
            logit = tl.dot(narrow, from_columns, input_precision="tf32x3")
            probability = score * tl.sigmoid(logit)
            # The first query wins a tie, here and below.
            better = probability > best
            best = tl.where(better, probability, best)
            owner = tl.where(better, query, owner)
            if entry % 2 == 1:
                area = tl.sum((is_pixel & (logit >= 0.0)).to(tl.int32))
                tl.atomic_add(counts + query, area, sem="relaxed")
        # The bit patterns of non-negative floats have the same order as the floats.
        bits = best.to(tl.int32, bitcast=True).to(tl.int64) << 32
        claim = bits | (2147483647 - owner).to(tl.int64)
        tl.atomic_max(bests + row[:, None] * width + column[None, :], claim, mask=is_pixel, sem="relaxed")


@triton.jit
def _settle_kernel(
    bests: tl.tensor,  # (height, width)
    scores: tl.tensor,  # (Q,)
    owners: tl.tensor,  # (height, width)
    insides: tl.tensor,  # (height, width)
    counts: tl.tensor,  # (3, Q): mask areas, owned, held
    queries: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    BINS: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
) -> None:
    nth = tl.arange(0, TILE_ROWS * TILE_COLUMNS)
    row = tl.program_id(0) * TILE_ROWS + nth // TILE_COLUMNS
    column = tl.program_id(1) * TILE_COLUMNS + nth % TILE_COLUMNS
    is_pixel = (row < height) & (column < width)
    best = tl.load(bests + row * width + column, mask=is_pixel, other=0)
    is_owned = best != 0
    owner = tl.where(is_owned, 2147483647 - (best & 4294967295).to(tl.int32), 0)
    probability = (best >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    score = tl.load(scores + owner, mask=is_pixel, other=0.0)
    # At logit 0 the mask probability is one half.
    inside = is_owned & (probability >= 0.5 * score)
    tl.store(owners + row * width + column, owner, mask=is_pixel)
    tl.store(insides + row * width + column, inside.to(tl.uint8), mask=is_pixel)
    # Pixels without an owner are counted in the last bin, which belongs to no query.
    query = tl.arange(0, BINS)
    owned = tl.histogram(tl.where(is_owned, owner, BINS - 1), BINS)
    held = tl.histogram(tl.where(inside, owner, BINS - 1), BINS)
    is_query = query < queries
    tl.atomic_add(counts + queries + query, owned, mask=is_query & (owned > 0), sem="relaxed")
    tl.atomic_add(counts + 2 * queries + query, held, mask=is_query & (held > 0), sem="relaxed")
