"""Images at the size of their labels, which `output_stride` makes smaller."""

from __future__ import annotations

import cv2
import numpy as np

from fcclip_core.errors import ImageError
from fcclip_core.settings import OUTPUT_STRIDES


def label_size(height: int, width: int, stride: int) -> tuple[int, int]:
    """(height, width) of the labels of an image: its sides divided by `output_stride`, rounded up."""
    return -(-height // stride), -(-width // stride)


def at_label_size(image: np.ndarray, labels: tuple[int, int]) -> np.ndarray:
    """The image with one pixel per label: unchanged, or reduced by averaging.

    Args:
        image: uint8 `(H, W, 3)`.
        labels: `(height, width)` of the labels that were made from it.

    Raises:
        ImageError: No `output_stride` gives labels of that size, so they are of another image.
    """
    height, width = image.shape[:2]
    if labels == (height, width):
        return image
    if labels not in [label_size(height, width, stride) for stride in OUTPUT_STRIDES]:
        raise ImageError(
            f"the image is {height} x {width} pixels and the segment map {labels[0]} x {labels[1]}; use the image that "
            "was segmented"
        )
    return cv2.resize(image, labels[::-1], interpolation=cv2.INTER_AREA)
