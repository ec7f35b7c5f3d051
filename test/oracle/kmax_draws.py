"""The random numbers that the kMaX cases were made from, by the rules in test/reference/kmax_spec.json."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor


def draw(text: str, shape: tuple[int, ...]) -> np.ndarray:
    """float32 normal numbers that `text` determines."""
    return np.random.Generator(np.random.PCG64(zlib.crc32(text.encode()))).standard_normal(shape, dtype=np.float32)


def feature(tag: str, shape: tuple[int, int, int, int], grid: tuple[int, int], weight: float) -> Tensor:
    """A feature map `(B, C, h, w)` of coarse cells and fine noise; `tag` is the case's tag and the map's name."""
    coarse, fine = draw(f"{tag}:coarse", (*shape[:2], *grid)), draw(f"{tag}:fine", shape)
    rows, columns = (np.arange(side) * cells // side for side, cells in zip(shape[2:], grid, strict=True))
    return torch.from_numpy(np.float32(weight) * coarse[:, :, rows][..., columns] + np.float32(0.8) * fine)
