"""Which cells of CLIP's stride-32 features a mask is pooled over (section 3.2), when it vanishes there, too.

A small mask may have no positive logit left at stride 32. As published, such a mask is pooled over nothing: its
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
    """The cells inside each mask, as published; none for a mask that vanishes. Shapes as `PooledCells`."""
    return logits > 0


def positive_or_best_cell(logits: Tensor) -> Tensor:
    """The cells inside each mask; for a mask that vanishes the one with the highest logit, of equal ones the first.

    The best cell of any other mask lies inside it. Shapes as `PooledCells`.
    """
    flat = logits.flatten(2)
    # No comparison with the maximum: a compiler that computes a logit twice may round it in two ways.
    best = at_least_float32(flat).argmax(-1, keepdim=True)
    is_best = torch.arange(flat.shape[-1], device=logits.device) == best
    return (logits > 0) | is_best.view(logits.shape)


POOLED_CELLS: dict[str, PooledCells] = {PUBLISHED: positive_cells, BEST_CELL: positive_or_best_cell}
"""Value of `FCCLIP.vanished_masks` -> what it stands for."""
