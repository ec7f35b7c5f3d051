"""Images that differ from frame to frame: windows of the bundled photographs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image

from benchmarks import ROOT

PHOTOS = ROOT / "demo" / "photos"
_SMALLEST_WINDOW = 0.4
"""Of the largest window of the same proportions that fits into a photograph."""


class Pictures:
    """An endless sequence of images of one size; the same seed gives the same sequence."""

    def __init__(self, width: int, height: int, seed: int = 0) -> None:
        """Reads the photographs."""
        self._photos = [Image.open(path).convert("RGB") for path in sorted(PHOTOS.glob("*.jpg"))]
        self._size = (width, height)
        self._dice = np.random.default_rng(seed)

    def next(self) -> np.ndarray:
        """The next window of a photograph, perhaps mirrored, lighter or darker: uint8 RGB `(H, W, 3)`."""
        dice, (width, height) = self._dice, self._size
        photo = self._photos[dice.integers(len(self._photos))]
        scale = min(photo.width / width, photo.height / height) * dice.uniform(_SMALLEST_WINDOW, 1.0)
        left = dice.uniform(0, photo.width - scale * width)
        top = dice.uniform(0, photo.height - scale * height)
        box = (left, top, left + scale * width, top + scale * height)
        pixels = np.asarray(photo.resize(self._size, Image.Resampling.BILINEAR, box=box), np.float32)
        if dice.integers(2):
            pixels = pixels[:, ::-1]
        return (pixels * dice.uniform(0.6, 1.2)).clip(0, 255).astype(np.uint8)

    def several(self, count: int) -> Iterator[np.ndarray]:
        """The next `count` of them."""
        return (self.next() for _ in range(count))
