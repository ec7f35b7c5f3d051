"""Opens picture files: their size and their data are checked before they are decoded."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path

from PIL import ExifTags, Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from fcclip_core.errors import ImageError
from fcclip_core.images.encoded_images import SHRINKS, check_png, check_size, decode_jpeg, is_jpeg

_ADVICE = "make it smaller, raise max_image_pixels, or convert it to JPEG, which can be decoded at a reduced size"

LARGEST = 400_000_000
"""Pixels of a picture that must not be reduced, at most."""

_pillow_s_limit = threading.Lock()


def open_picture(path: Path, max_pixels: int) -> tuple[Image.Image, int]:
    """Opens and decodes a picture, whose size is checked before.

    Args:
        path: The file.
        max_pixels: Pixels that are decoded at most.

    Returns:
        The picture, and what its sides were divided by.

    Raises:
        ImageError: Too large, no file, or a JPEG or PNG that lacks data.
        Exception: Whatever Pillow raises for broken files.
    """
    if path.exists() and not path.is_file():
        raise ImageError("it is no file; a folder, a pipe or a device cannot be read")
    with path.open("rb") as file:
        start = file.read(16)
    with warnings.catch_warnings():
        # Pillow warns of large pictures and of odd headers; what matters is an error here.
        warnings.simplefilter("ignore")
        if is_jpeg(start):
            return _open_jpeg(path, max_pixels)
        picture = _open_other(path, max_pixels)
        try:
            check_size(picture.height, picture.width, max_pixels, _ADVICE)
            if isinstance(picture, PngImageFile):
                check_png(path.read_bytes(), picture)
            picture.load()
        except Exception:
            picture.close()
            raise
        return picture, 1


def _open_jpeg(path: Path, max_pixels: int) -> tuple[Image.Image, int]:
    # Not by Image.open, which calls the photographs of today's telephones an attack.
    with JpegImageFile(path) as header:
        height, width = header.height, header.width
        orientation = _orientation(header)
    sizes = {shrink: (-(-height // shrink), -(-width // shrink)) for shrink in SHRINKS}
    fitting = [shrink for shrink, (rows, columns) in sizes.items() if rows * columns <= max_pixels]
    if not fitting:
        check_size(*sizes[SHRINKS[-1]], max_pixels, "this is an eighth of its size: make it smaller")
    picture = Image.fromarray(decode_jpeg(path.read_bytes(), fitting[0]))
    picture.getexif()[ExifTags.Base.Orientation] = orientation
    return picture, fitting[0]


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Damaged EXIF data is no damaged picture.
        return 1


def _open_other(path: Path, max_pixels: int) -> Image.Image:
    # Pillow's limit is twice this number. Some formats are decoded while they are opened, so there must be one.
    with _pillow_s_limit:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, max_pixels
        try:
            return Image.open(path)
        except Image.DecompressionBombError:
            raise ImageError(
                f"it has more than {max_pixels / 1e6:g} million pixels, the most that are taken; {_ADVICE}"
            ) from None
        finally:
            Image.MAX_IMAGE_PIXELS = before
