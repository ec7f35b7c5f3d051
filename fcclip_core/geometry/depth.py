"""Depth images from sensors -> depth in meters for each pixel of the color image."""

from __future__ import annotations

import cv2
import numpy as np

from fcclip_core.errors import DepthError
from fcclip_core.geometry.camera import same_aspect

_MILLIMETERS = np.float32(1000)


def depth_in_meters(depth: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Depth along the optical axis for each pixel of an image; the depth must be registered to the image.

    Depth of another size is resized by nearest neighbor: interpolating between foreground and background would give
    points where there is nothing.

    Args:
        depth: uint16 millimeters or float32 meters, `(h, w)`; 0, negative, infinite and NaN mean unknown.
        size: `(width, height)` of the image.

    Returns:
        float32 `(height, width)`, meters, NaN where unknown.

    Raises:
        DepthError: The aspect ratios differ, so the depth is not registered, or it is not a depth image.
    """
    if depth.ndim != 2 or depth.dtype not in (np.uint16, np.float32) or depth.size == 0:
        raise DepthError(
            f"depth is an array of {depth.dtype} with shape {depth.shape}; expected uint16 (millimeters) or float32 "
            "(meters) with shape (height, width)"
        )
    check_aspect((depth.shape[1], depth.shape[0]), size)
    if depth.shape != size[::-1]:
        depth = cv2.resize(np.ascontiguousarray(depth), size, interpolation=cv2.INTER_NEAREST_EXACT)
    if depth.dtype == np.uint16:
        meters = np.divide(depth, _MILLIMETERS, dtype=np.float32)
        meters[depth == 0] = np.nan
        return meters
    with np.errstate(invalid="ignore"):
        known = (depth > 0) & (depth < np.inf)
    return np.where(known, depth, np.float32(np.nan))


def check_aspect(depth: tuple[int, int], image: tuple[int, int]) -> None:
    """Checks that the aspect ratios of depth and image agree.

    Args:
        depth: `(width, height)` of the depth.
        image: `(width, height)` of the image.

    Raises:
        DepthError: They differ.
    """
    if not same_aspect(depth, image):
        raise DepthError(
            f"depth has {depth[0]} x {depth[1]} pixels, but the image has {image[0]} x {image[1]}, a different aspect "
            "ratio, so it is not registered to the image; use the driver's aligned depth or depth_image_proc's "
            "register node"
        )
