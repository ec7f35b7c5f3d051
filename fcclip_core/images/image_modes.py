"""What pixels of every kind that Pillow reads look like as uint8 RGB."""

from __future__ import annotations

import numpy as np
from PIL import Image

from fcclip_core.errors import ImageError

_UNIT_FLOOR = 0.1
"""Numbers from 0 to 1 are taken for shares of full brightness if the largest is at least this."""


def to_rgb(picture: Image.Image) -> np.ndarray:
    """Brings a picture to 8 bits and three channels; how depends on its file alone.

    - Colors of 8 bits, gray, palettes, CMYK, YCbCr, HSV, CIELAB and black-and-white stand for what they say;
      transparency is dropped, and colors that were multiplied by it are divided again.
    - Integers of more than 8 bits are shifted down to the upper 8 of the bits in use: as many as the largest needs, at
      least 8 and an even number. So a camera's 12 bits in a file of 16 do not come out black. What is below 0 is black.
    - Fractions from 0 to 1 are brightness; all other ones are stretched, from the smallest to the largest. What is no
      number is black.

    Args:
        picture: Of any mode, decoded or not.

    Returns:
        uint8 RGB `(H, W, 3)`.

    Raises:
        ImageError: No value is a number or above 0, or this Pillow cannot convert the mode.
    """
    if picture.mode == "F":
        return _gray(_from_fractions(np.asarray(picture, np.float32)))
    if picture.mode.startswith("I"):
        return _gray(_from_integers(np.asarray(picture)))
    if picture.mode == "LAB":
        return np.array(_from_lab(picture))
    if picture.mode in ("RGBa", "La"):
        picture = picture.convert({"RGBa": "RGBA", "La": "LA"}[picture.mode])
    try:
        return np.array(picture.convert("RGB"))
    except ValueError as error:
        raise ImageError(f"its pixels of the kind {picture.mode} cannot be shown as RGB: {error}") from error


def _gray(pixels: np.ndarray) -> np.ndarray:
    return np.repeat(pixels[:, :, None], 3, axis=2)


def _from_integers(values: np.ndarray) -> np.ndarray:
    largest = int(values.max())
    if largest <= 0 and values.min() < 0:
        raise ImageError(f"its pixels are integers from {values.min()} to {largest}; expected some above 0")
    bits = max(8, largest.bit_length() + largest.bit_length() % 2)
    return (np.maximum(values, 0) >> (bits - 8)).astype(np.uint8)


def _from_fractions(values: np.ndarray) -> np.ndarray:
    known = np.isfinite(values)
    if not known.any():
        raise ImageError("its pixels are fractions, and none is a finite number")
    low, high = float(values[known].min()), float(values[known].max())
    values = np.where(known, values, np.float32(low))
    if low >= 0 and _UNIT_FLOOR <= high <= 1 or low == high == 0:
        return np.rint(values * 255).astype(np.uint8)
    if low == high:
        return np.full(values.shape, 128, np.uint8)
    # In double precision: the difference of two single ones may be infinite.
    scaled = (values.astype(np.float64) - low) * (255 / (high - low))
    return np.rint(scaled).astype(np.uint8)


def _from_lab(picture: Image.Image) -> Image.Image:
    try:
        from PIL import ImageCms

        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(picture, lab, srgb, outputMode="RGB")
    except (ImportError, OSError) as error:
        raise ImageError(f"its colors are CIELAB, which this Pillow cannot convert ({error})") from error
    assert converted is not None
    return converted
