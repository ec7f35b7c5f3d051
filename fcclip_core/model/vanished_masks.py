"""Selects the cells of CLIP's stride-32 features over which a mask is pooled (section 3.2), also if it vanishes there.

A small mask may have no positive logit at stride 32. In the published code, such a mask is pooled over no cell, and its
out-of-vocabulary embedding is the same for every image.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fcclip_core.model.precision import at_least_float32
from fcclip_core.settings import BEST_CELL, PUBLISHED

PooledCells = Callable[[Tensor], Tensor]
"""Mask logits `(B, Q, h, w)` at stride 32 -> bool `(B, Q, h, w)`, the cells to pool over."""


def positive_cells(logits: Tensor) -> Tensor:
    """The cells inside each mask, as published; none for a vanished mask. Shapes as `PooledCells`."""
    return logits > 0


def positive_or_best_cell(logits: Tensor) -> Tensor:
    """The cells inside each mask; for a vanished mask the first cell with the highest logit.

    The best cell of any other mask is inside it. Shapes as `PooledCells`.
    """
    flat = logits.flatten(2)
    # No comparison with the maximum: a compiler that computes a logit twice may round it differently.
    best = at_least_float32(flat).argmax(-1, keepdim=True)
    is_best = torch.arange(flat.shape[-1], device=logits.device) == best
    return (logits > 0) | is_best.view(logits.shape)


POOLED_CELLS: dict[str, PooledCells] = {PUBLISHED: positive_cells, BEST_CELL: positive_or_best_cell}
"""Value of `FCCLIP.vanished_masks` -> its function."""
