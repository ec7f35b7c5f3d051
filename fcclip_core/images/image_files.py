"""Photographs from files, as the model wants them, and pictures into files, whole or not at all."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from fcclip_core.errors import FcclipError, ImageError
from fcclip_core.files.atomic_write import write_atomically
from fcclip_core.images.image_limits import MAX_PIXELS, MAX_SIDE
from fcclip_core.images.image_modes import to_rgb
from fcclip_core.images.picture_files import LARGEST, open_picture

_HEIC_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
_ONE_PICTURE = frozenset({"MPO", "PSD"})
"""Formats whose further frames are the same picture: a preview, a map of brightness, layers."""


@dataclass(frozen=True)
class Photograph:
    """What a file shows.

    Attributes:
        pixels: uint8 RGB `(H, W, 3)`, upright.
        first_of_several: Whether the file holds more pictures: it is an animation, or has pages.
        reduced_by: What its sides were divided by, rounded up, because it has too many pixels; 1 for most.
    """

    pixels: np.ndarray
    first_of_several: bool = False
    reduced_by: int = 1


def read_photograph(path: Path, max_pixels: int = MAX_PIXELS) -> Photograph:
    """Reads an image upright: the EXIF orientation is applied; `to_rgb` says what becomes of its pixels.

    Args:
        path: The file.
        max_pixels: Pixels that are decoded at most. A JPEG with more is decoded at a half, a quarter or an eighth of
            its size.

    Raises:
        ImageError: The file is missing, damaged, too large or no image.
    """
    with _image_errors(path):
        image, reduced_by = open_picture(path, max_pixels)
        with image:
            several = image.format not in _ONE_PICTURE and bool(getattr(image, "is_animated", False))
            return Photograph(to_rgb(_upright(image)), several, reduced_by)


def read_image(path: Path) -> np.ndarray:
    """The pixels of `read_photograph` at their own size, up to 400 million: uint8 RGB `(H, W, 3)`.

    Raises:
        ImageError: As `read_photograph` does.
    """
    photograph = read_photograph(path, LARGEST)
    if photograph.reduced_by > 1:
        raise ImageError(f"it has more than {LARGEST / 1e6:g} million pixels; make it smaller")
    return photograph.pixels


def read_mask(path: Path) -> np.ndarray:
    """Reads a PNG of which every pixel is black or not; transparency does not count.

    Returns:
        bool `(H, W)`, true where a pixel is not black.

    Raises:
        ImageError: The file is missing, damaged, larger than 40 million pixels or no PNG: what was compressed with
            loss has no black left.
    """
    with _image_errors(path):
        image, _ = open_picture(path, MAX_PIXELS)
        with image:
            if image.format != "PNG":
                raise ImageError(f"it is {image.format or 'JPEG'}; expected a PNG, whose black pixels stay black")
            if image.mode in ("P", "PA"):
                image = image.convert("RGBA")
            values = np.atleast_3d(np.asarray(image))
            if image.mode in ("LA", "RGBA"):
                values = values[..., :-1]
            return np.any(values, axis=2)


def write_image(path: Path, pixels: np.ndarray, **options: int | bool) -> None:
    """Writes a picture in the format of the file's suffix, whole or not at all.

    Args:
        path: The file.
        pixels: uint8 or uint16 `(H, W)`, or uint8 RGB `(H, W, 3)`.
        **options: For Pillow's encoder, such as `quality`.

    Raises:
        ImageError: The format cannot hold a picture of this size.
        OSError: The disk refuses.
    """
    # Pillow writes to files past Python, and takes no notice of what the disk says.
    write_atomically(path, encode_image(pixels, path.suffix, **options))


def encode_image(pixels: np.ndarray, suffix: str, **options: int | bool) -> bytes:
    """A picture as the contents of a file with this suffix; arguments and errors are those of `write_image`."""
    height, width = pixels.shape[:2]
    if suffix.lower() in (".jpg", ".jpeg") and max(height, width) > MAX_SIDE:
        raise ImageError(f"{height} x {width} pixels are too many for a JPEG, which ends at {MAX_SIDE} on a side")
    buffer = io.BytesIO()
    try:
        Image.fromarray(pixels).save(buffer, Image.registered_extensions()[suffix.lower()], **options)
    except (OSError, ValueError) as error:
        raise ImageError(f"{height} x {width} pixels cannot be encoded as {suffix.lstrip('.')}: {error}") from error
    return buffer.getvalue()


@contextlib.contextmanager
def _image_errors(path: Path) -> Iterator[None]:
    """Lets what reading a picture raises be an ImageError that says what was wrong."""
    try:
        yield
    except FcclipError:
        raise
    except FileNotFoundError as error:
        raise ImageError("there is no such file") from error
    except Image.UnidentifiedImageError as error:
        advice = "; HEIC cannot be read, convert it to JPEG or PNG" if path.suffix.lower() in _HEIC_SUFFIXES else ""
        raise ImageError(f"not an image that Pillow can read{advice}") from error
    except OSError as error:
        raise ImageError(error.strerror or str(error)) from error
    except Exception as error:  # What Pillow's decoders raise for damaged files has no bounds.
        raise ImageError(f"it cannot be decoded: {type(error).__name__}: {error}") from error


def _upright(image: Image.Image) -> Image.Image:
    """Decoded, and turned as its EXIF data says; what cannot be read there turns nothing."""
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # Damaged EXIF data is no damaged picture.
        return image
