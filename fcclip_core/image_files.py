"""Photographs from files, as the model wants them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from fcclip_core.errors import ImageError


def read_image(path: Path) -> np.ndarray:
    """Reads an image upright: the EXIF orientation is applied.

    Returns:
        uint8 RGB `(H, W, 3)`; transparency is dropped, 16-bit grey is reduced to its upper 8 bits.

    Raises:
        ImageError: The file is missing, truncated, too large or no image.
    """
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):
                upright = Image.fromarray((np.asarray(upright).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
            return np.array(upright.convert("RGB"))
    except FileNotFoundError as error:
        raise ImageError("there is no such file") from error
    except Image.UnidentifiedImageError as error:
        raise ImageError("not an image that Pillow can read") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(str(error)) from error
