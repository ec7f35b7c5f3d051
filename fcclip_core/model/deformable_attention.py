"""Multi-scale deformable attention (Zhu et al., "Deformable DETR", equation 3), the pixel decoder's self-attention.

The sampling sum has several implementations: `sample_by_grid` is differentiable, `sample_by_index` is fastest on a CPU,
`sample_by_gather` uses plain index arithmetic for exported graphs. Coordinates and attention weights are always
float32, whatever the precision of the values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcclip_core.model.precision import at_least_float32

Sampler = Callable[[Tensor, Sequence[tuple[int, int]], Tensor, Tensor], Tensor]


def sample_by_grid(value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of bilinear samples, with zeros outside the image.

    Args:
        value: `(B, N, heads, C)`, tokens of all levels in order, N = sum of H * W.
        shapes: (H, W) of each level.
        locations: `(B, Q, heads, levels, points, 2)`, (x, y), 0..1 across the image, pixel centers at (i + 0.5) / size.
        weights: `(B, Q, heads, levels, points)`.

    Returns:
        `(B, Q, heads * C)`.
    """
    batch, _, heads, channels = value.shape
    queries = locations.shape[1]
    grids = (2 * locations - 1).permute(0, 2, 1, 3, 4, 5).flatten(0, 1)
    samples = []
    for level, (height, width) in enumerate(shapes):
        start = sum(h * w for h, w in shapes[:level])
        image = value[:, start : start + height * width].permute(0, 2, 3, 1).reshape(-1, channels, height, width)
        image = image.to(grids.dtype)
        samples.append(F.grid_sample(image, grids[:, :, level], padding_mode="zeros", align_corners=False))
    weights = weights.permute(0, 2, 1, 3, 4).reshape(batch * heads, 1, queries, -1)
    summed = (torch.cat(samples, dim=-1) * weights).sum(-1).to(value.dtype)
    return summed.unflatten(0, (batch, heads)).permute(0, 3, 1, 2).flatten(2)


def sample_by_index(value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """`sample_by_grid` as one weighted `embedding_bag` over the four neighbors of each sampling point.

    Rows of about 32 channels are summed directly, so no array of size points x channels is stored.
    """
    batch, tokens, heads, channels = value.shape
    queries = locations.shape[1]
    sizes = torch.tensor([(w, h) for h, w in shapes], dtype=locations.dtype, device=value.device)
    starts = torch.tensor([0] + [h * w for h, w in shapes], device=value.device).cumsum(0)[:-1].int()
    widths, heights = sizes.int().unbind(-1)
    widths, heights, starts = (x.view(-1, 1) for x in (widths, heights, starts))

    position = locations * sizes[:, None] - 0.5
    corner = position.floor()
    x_right, y_low = (position - corner).unbind(-1)
    x, y = corner.int().unbind(-1)
    row = torch.arange(batch * heads, device=value.device, dtype=torch.int32)
    first_row = (row // heads * tokens * heads + row % heads).view(batch, 1, heads, 1, 1)

    left, right = _inside(x, (1 - x_right) * weights, widths), _inside(x + 1, x_right * weights, widths)
    top, bottom = _inside(y, 1 - y_low, heights), _inside(y + 1, y_low, heights)
    line_rows = [first_row + (starts + line * widths) * heads for line, _ in (top, bottom)]
    column_rows = [column * heads for column, _ in (left, right)]
    indices = torch.stack([line + column for line in line_rows for column in column_rows], -1)
    factors = torch.stack([y_weight * x_weight for _, y_weight in (top, bottom) for _, x_weight in (left, right)], -1)
    factors = factors.to(value.dtype)
    bags = batch * queries * heads
    summed = F.embedding_bag(
        indices.view(bags, -1), value.reshape(-1, channels), mode="sum", per_sample_weights=factors.view(bags, -1)
    )
    return summed.view(batch, queries, heads * channels)


def sample_by_gather(value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """`sample_by_grid` as four gathers of rows, one per neighbor of the sampling points.

    For exported graphs: runtimes implement GridSample differently, but all agree on Gather.
    """
    batch, tokens, heads, channels = value.shape
    sizes = torch.tensor([(w, h) for h, w in shapes], dtype=locations.dtype, device=value.device)
    widths, heights = (x.view(-1, 1) for x in sizes.unbind(-1))
    starts = [sum(h * w for h, w in shapes[:level]) for level in range(len(shapes))]
    first_tokens = torch.tensor(starts, dtype=locations.dtype, device=value.device).view(-1, 1)
    first_rows = torch.arange(batch, device=value.device, dtype=torch.int32)[:, None] * (tokens * heads)
    first_rows = (first_rows + torch.arange(heads, device=value.device, dtype=torch.int32)).view(batch, 1, heads, 1, 1)
    table = value.reshape(-1, channels)

    position = locations * sizes[:, None] - 0.5
    corner = position.floor()
    x_right, y_low = (position - corner).unbind(-1)
    x, y = corner.unbind(-1)
    left, right = _inside(x, (1 - x_right) * weights, widths), _inside(x + 1, x_right * weights, widths)
    top, bottom = _inside(y, 1 - y_low, heights), _inside(y + 1, y_low, heights)

    def neighbors(line: tuple[Tensor, Tensor], column: tuple[Tensor, Tensor]) -> Tensor:
        # float32 holds integers up to 2^24 exactly, enough for every image that fits into memory.
        token = (first_tokens + line[0] * widths + column[0]).int()
        rows = F.embedding(token * heads + first_rows, table)
        factors = (line[1] * column[1]).to(value.dtype).unsqueeze(-1)
        return (rows * factors).flatten(3, 4).sum(3)

    upper = neighbors(top, left) + neighbors(top, right)
    lower = neighbors(bottom, left) + neighbors(bottom, right)
    return (upper + lower).flatten(2)


def _inside(index: Tensor, weight: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """The index clamped to 0..size-1, and its weight, zero where the index was outside."""
    clamped = index.clamp(min=0).minimum(size - 1)
    return clamped, torch.where(clamped == index, weight, 0.0)


class DeformableAttention(nn.Module):
    """Each token attends to a few learned offsets around its own position, on every level.

    Attributes:
        sampler: Implementation of the sampling sum; a backend may replace it.
    """

    def __init__(self, dim: int, heads: int, levels: int, points: int) -> None:
        """Builds attention over `levels` feature maps with `points` samples per head and map."""
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(dim, heads * levels * points * 2)
        self.attention_weights = nn.Linear(dim, heads * levels * points)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self.sampler: Sampler = sample_by_grid

    def forward(self, query: Tensor, tokens: Tensor, reference: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
        """Attends from `query` to `tokens`.

        Args:
            query: `(B, Q, dim)`.
            tokens: `(B, N, dim)`, all levels in order.
            reference: `(Q, 2)`, (x, y) of each query, 0..1.
            shapes: (H, W) of each level.

        Returns:
            `(B, Q, dim)`.
        """
        grid = (self.heads, self.levels, self.points)
        offsets = self.sampling_offsets(query).unflatten(-1, (*grid, 2))
        scores = self.attention_weights(query).unflatten(-1, (self.heads, -1))
        weights = at_least_float32(scores).softmax(-1).unflatten(-1, grid[1:])
        offsets = at_least_float32(offsets)
        # Filled on the device: a tensor from a list is copied from the host, which a CUDA graph cannot contain.
        sizes = torch.stack([offsets.new_full((), side) for height, width in shapes for side in (width, height)])
        locations = reference[:, None, None, None] + offsets / sizes.view(-1, 1, 2)
        value = self.value_proj(tokens).unflatten(-1, (self.heads, -1))
        return self.output_proj(self.sampler(value, shapes, locations, weights))


def set_sampler(model: nn.Module, sampler: Sampler) -> None:
    """Replaces the sampler of every deformable attention inside `model`."""
    for module in model.modules():
        if isinstance(module, DeformableAttention):
            module.sampler = sampler
