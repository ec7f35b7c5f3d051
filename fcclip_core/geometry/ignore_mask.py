"""Pixels of a camera that are never labeled, because they show the robot itself: its arm, its bumper."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from fcclip_core.errors import ImageError
from fcclip_core.geometry.camera import same_aspect
from fcclip_core.images.image_files import read_mask
from fcclip_core.quoting import short_name


class IgnoreMask:
    """A picture in which the pixels that are to be ignored are not black.

    Attributes:
        path: Where it came from.
        share: Of its pixels that are ignored, 0..1.
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
                f"the ignore mask {short_name(path)} has no black pixel, so nothing would be labeled; pixels that are "
                "not black are ignored: is it inverted?"
            )
        self._fitted = self._mask

    def at(self, height: int, width: int) -> np.ndarray:
        """The ignored pixels of an image: bool `(height, width)`, looked up at the nearest pixel, kept for later.

        Raises:
            ImageError: The image has another aspect ratio.
        """
        if self._fitted.shape != (height, width):
            self._fitted = self._resized(height, width)
        return self._fitted

    def _resized(self, height: int, width: int) -> np.ndarray:
        rows, columns = self._mask.shape
        if not same_aspect((columns, rows), (width, height)):
            raise ImageError(
                f"the ignore mask {short_name(self.path)} has {columns} x {rows} pixels, the image {width} x {height}: "
                "another aspect ratio; draw it on an image of this camera"
            )
        resized = cv2.resize(self._mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        return resized.astype(bool)
