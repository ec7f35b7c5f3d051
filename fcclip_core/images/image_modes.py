"""Converts Pillow images of any mode to uint8 RGB."""

from __future__ import annotations

import numpy as np
from PIL import Image

from fcclip_core.errors import ImageError

_UNIT_FLOOR = 0.1
"""Floats in 0..1 are taken as brightness if the largest is at least this."""


def to_rgb(picture: Image.Image) -> np.ndarray:
    """Converts an image to 8 bits and three channels, depending on the image only.

    - 8-bit colors, grayscale, palettes, CMYK, YCbCr, HSV, CIELAB and black-and-white are converted by color.
      Transparency is dropped, and premultiplied colors are divided by it.
    - Integers of more than 8 bits are shifted down to the upper 8 of the used bits: as many as the largest value needs,
      at least 8 and an even number. So 12-bit camera data in a 16-bit file does not appear black. Negative values are
      black.
    - Floats in 0..1 are brightness; other floats are stretched from smallest to largest. NaN and infinity are black.

    Args:
        picture: An image of any mode, loaded or not.

    Returns:
        uint8 RGB `(H, W, 3)`.

    Raises:
        ImageError: All values are negative or not finite, or this Pillow cannot convert the mode.
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
        raise ImageError(f"its mode {picture.mode} cannot be converted to RGB: {error}") from error


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
        raise ImageError("its pixels are floats, and none is finite")
    low, high = float(values[known].min()), float(values[known].max())
    values = np.where(known, values, np.float32(low))
    if low >= 0 and _UNIT_FLOOR <= high <= 1 or low == high == 0:
        return np.rint(values * 255).astype(np.uint8)
    if low == high:
        return np.full(values.shape, 128, np.uint8)
    # In double precision, because the difference of two float32 values may overflow.
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
