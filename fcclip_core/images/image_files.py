"""Reads photographs as RGB arrays, and writes images atomically."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from fcclip_core.errors import FcclipError, ImageError
from fcclip_core.files.atomic_write import write_atomically
from fcclip_core.images.image_limits import MAX_PIXELS, MAX_SIDE
from fcclip_core.images.image_modes import to_rgb
from fcclip_core.images.picture_files import LARGEST, open_picture

_HEIC_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
_ONE_PICTURE = frozenset({"MPO", "PSD"})
"""Formats whose additional frames belong to the same image: a preview, a gain map, layers."""


@dataclass(frozen=True)
class Photograph:
    """A decoded photograph.

    Attributes:
        pixels: uint8 RGB `(H, W, 3)`, with the EXIF orientation applied.
        first_of_several: Whether the file contains more images: it is an animation, or has pages.
        reduced_by: Factor by which the sides were divided, rounded up, because it has too many pixels; usually 1.
    """

    pixels: np.ndarray
    first_of_several: bool = False
    reduced_by: int = 1


def read_photograph(path: Path, max_pixels: int = MAX_PIXELS) -> Photograph:
    """Reads an image with the EXIF orientation applied; `to_rgb` documents the conversion of pixels.

    Args:
        path: The file.
        max_pixels: Largest number of pixels to decode. A larger JPEG is decoded at a half, a quarter or an eighth of
            its size.

    Raises:
        ImageError: The file is missing, damaged, too large or not an image.
    """
    with _image_errors(path):
        image, reduced_by = open_picture(path, max_pixels)
        with image:
            several = image.format not in _ONE_PICTURE and bool(getattr(image, "is_animated", False))
            return Photograph(to_rgb(_upright(image)), several, reduced_by)


def read_image(path: Path) -> np.ndarray:
    """The pixels of `read_photograph` in full size, up to 400 million: uint8 RGB `(H, W, 3)`.

    Raises:
        ImageError: As `read_photograph` does.
    """
    photograph = read_photograph(path, LARGEST)
    if photograph.reduced_by > 1:
        raise ImageError(f"it has more than {LARGEST / 1e6:g} million pixels; reduce its size")
    return photograph.pixels


def read_mask(path: Path) -> np.ndarray:
    """Reads a PNG as a mask of its non-black pixels, ignoring transparency.

    Returns:
        bool `(H, W)`, true for non-black pixels.

    Raises:
        ImageError: The file is missing, damaged, larger than 40 million pixels or not a PNG: lossy compression does not
            preserve black.
    """
    with _image_errors(path):
        image, _ = open_picture(path, MAX_PIXELS)
        with image:
            if image.format != "PNG":
                raise ImageError(f"it is {image.format or 'JPEG'}; expected a PNG, which preserves black pixels")
            if image.mode in ("P", "PA"):
                image = image.convert("RGBA")
            values = np.atleast_3d(np.asarray(image))
            if image.mode in ("LA", "RGBA"):
                values = values[..., :-1]
            return np.any(values, axis=2)


def write_image(path: Path, pixels: np.ndarray, **options: int | bool) -> None:
    """Writes an image atomically, in the format of the file's suffix.

    Args:
        path: The file.
        pixels: uint8 or uint16 `(H, W)`, or uint8 RGB `(H, W, 3)`.
        **options: Options of Pillow's encoder, such as `quality`.

    Raises:
        ImageError: The format does not support this size.
        OSError: The file cannot be written.
    """
    # Encoded in memory, because Pillow ignores write errors of the disk.
    write_atomically(path, encode_image(pixels, path.suffix, **options))


def encode_image(pixels: np.ndarray, suffix: str, **options: int | bool) -> bytes:
    """Encodes an image as the content of a file with this suffix; arguments and errors as for `write_image`."""
    height, width = pixels.shape[:2]
    if suffix.lower() in (".jpg", ".jpeg") and max(height, width) > MAX_SIDE:
        raise ImageError(f"{height} x {width} pixels are too large for a JPEG, whose sides are limited to {MAX_SIDE}")
    buffer = io.BytesIO()
    try:
        Image.fromarray(pixels).save(buffer, Image.registered_extensions()[suffix.lower()], **options)
    except (OSError, ValueError) as error:
        raise ImageError(f"{height} x {width} pixels cannot be encoded as {suffix.lstrip('.')}: {error}") from error
    return buffer.getvalue()


@contextlib.contextmanager
def _image_errors(path: Path) -> Iterator[None]:
    """Converts errors while reading an image to `ImageError`."""
    try:
        yield
    except FcclipError:
        raise
    except FileNotFoundError as error:
        raise ImageError("there is no such file") from error
    except UnidentifiedImageError as error:
        advice = "; HEIC cannot be read, convert it to JPEG or PNG" if path.suffix.lower() in _HEIC_SUFFIXES else ""
        raise ImageError(f"not an image that Pillow can read{advice}") from error
    except OSError as error:
        raise ImageError(error.strerror or str(error)) from error
    except Exception as error:  # Pillow's decoders may raise anything for damaged files
        raise ImageError(f"it cannot be decoded: {type(error).__name__}: {error}") from error


def _upright(image: Image.Image) -> Image.Image:
    """Decodes an image and applies its EXIF orientation; unreadable EXIF data is ignored."""
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF data does not make the image unusable
        return image
