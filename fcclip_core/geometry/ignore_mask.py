"""Masks of camera pixels that are not labeled because they show the robot itself, for example its arm or bumper."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

import cv2
import numpy as np

from fcclip_core.errors import ImageError
from fcclip_core.geometry.camera import same_aspect
from fcclip_core.images.image_files import read_mask
from fcclip_core.quoting import short_name


class IgnoreMask:
    """A mask image whose non-black pixels are ignored.

    Attributes:
        path: The image file.
        share: Fraction of ignored pixels, 0..1.
    """

    def __init__(self, path: Path) -> None:
        """Reads a PNG.

        Raises:
            ImageError: It cannot be read, or has no black pixel.
        """
        self.path = path
        try:
            self._mask = read_mask(path)
        except ImageError as error:
            raise ImageError(f"the ignore mask {short_name(path)} cannot be used: {error}") from error
        self.share = float(self._mask.mean())
        if self.share == 1.0:
            raise ImageError(
                f"the ignore mask {short_name(path)} has no black pixel, so nothing would be labeled; non-black pixels "
                "are ignored: check whether the mask is inverted"
            )
        self._last = self._mask

    @property
    def content_id(self) -> str:
        """Hash of its pixels, whatever the file is called."""
        return blake2b(repr(self._mask.shape).encode() + self._mask.tobytes(), digest_size=16).hexdigest()

    def at(self, height: int, width: int) -> np.ndarray:
        """The ignored pixels of an image, bool `(height, width)`: resized by nearest neighbor and cached.

        Raises:
            ImageError: The image has a different aspect ratio.
        """
        if self._last.shape != (height, width):
            self._last = self._resized(height, width)
        return self._last

    def _resized(self, height: int, width: int) -> np.ndarray:
        rows, columns = self._mask.shape
        if not same_aspect((columns, rows), (width, height)):
            raise ImageError(
                f"the ignore mask {short_name(self.path)} has {columns} x {rows} pixels, but the image has {width} x "
                f"{height}, a different aspect ratio; draw the mask on an image of this camera"
            )
        resized = cv2.resize(self._mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        return resized.astype(bool)
