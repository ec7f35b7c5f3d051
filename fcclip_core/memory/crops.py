"""Small JPEG pictures of objects."""

from __future__ import annotations

import cv2
import numpy as np
import simplejpeg

MAX_CROP_BYTES = 1 << 18
"""Largest picture that a file may hold; those made here have a few kilobytes."""

_QUALITY = 85
_MARGIN = 0.1
"""Share of the box's sides shown around it."""


def crop_of(image: np.ndarray | None, box: tuple[int, int, int, int], side: int) -> bytes:
    """A JPEG of what a box shows.

    Args:
        image: uint8 RGB `(H, W, 3)`, or None.
        box: `(x_min, y_min, x_max, y_max)`, pixels, maxima exclusive.
        side: Longer side of the picture at most, pixels; 0 for none.

    Returns:
        The JPEG; empty without an image.
    """
    if image is None or not side:
        return b""
    left, top, right, bottom = box
    across, down = round(_MARGIN * (right - left)), round(_MARGIN * (bottom - top))
    part = image[max(top - down, 0) : bottom + down, max(left - across, 0) : right + across]
    if not part.size:
        return b""
    scale = side / max(part.shape[:2])
    if scale < 1:
        size = (max(round(part.shape[1] * scale), 1), max(round(part.shape[0] * scale), 1))
        part = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
    data: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(part), _QUALITY, "RGB")
    return data
