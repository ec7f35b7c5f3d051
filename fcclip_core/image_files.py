"""Photographs from files, as the model wants them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from fcclip_core.encoded_images import MAX_PIXELS
from fcclip_core.errors import ImageError
from fcclip_core.picture_files import LARGEST, open_picture


@dataclass(frozen=True)
class Photograph:
    """What a file shows.

    Attributes:
        pixels: uint8 RGB `(H, W, 3)`, upright.
        reduced_by: What its sides were divided by, rounded up, because it has too many pixels; 1 for most.
    """

    pixels: np.ndarray
    reduced_by: int = 1


def read_photograph(path: Path, max_pixels: int = MAX_PIXELS) -> Photograph:
    """Reads an image upright: the EXIF orientation is applied.

    A JPEG with more than `max_pixels` is decoded at a half, a quarter or an eighth of its size. Transparency is
    dropped, 16-bit grey is reduced to its upper 8 bits.

    Args:
        path: The file.
        max_pixels: Pixels that are decoded at most.

    Raises:
        ImageError: The file is missing, damaged, too large or no image.
    """
    try:
        image, reduced_by = open_picture(path, max_pixels)
        with image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):
                upright = Image.fromarray((np.asarray(upright).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
            return Photograph(np.array(upright.convert("RGB")), reduced_by)
    except FileNotFoundError as error:
        raise ImageError("there is no such file") from error
    except Image.UnidentifiedImageError as error:
        raise ImageError("not an image that Pillow can read") from error
    except (OSError, SyntaxError, ValueError, MemoryError) as error:
        raise ImageError(str(error) or type(error).__name__) from error


def read_image(path: Path) -> np.ndarray:
    """The pixels of `read_photograph` at their own size, up to 400 million: uint8 RGB `(H, W, 3)`.

    Raises:
        ImageError: As `read_photograph` does.
    """
    photograph = read_photograph(path, LARGEST)
    if photograph.reduced_by > 1:
        raise ImageError(f"it has more than {LARGEST // 1_000_000} million pixels; make it smaller")
    return photograph.pixels
