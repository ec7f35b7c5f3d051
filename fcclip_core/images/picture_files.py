"""Opens image files; their size and data are checked before decoding."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path

from PIL import ExifTags, Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from fcclip_core.errors import ImageError
from fcclip_core.images.encoded_images import SHRINKS, check_png, check_size, decode_jpeg, is_jpeg

_ADVICE = "reduce its size, raise max_image_pixels, or convert it to JPEG, which can be decoded at a reduced size"

LARGEST = 400_000_000
"""Largest number of pixels of an image that must not be reduced."""

_pillow_s_limit = threading.Lock()


def open_picture(path: Path, max_pixels: int) -> tuple[Image.Image, int]:
    """Opens and decodes an image after checking its size.

    Args:
        path: The file.
        max_pixels: Largest number of pixels to decode.

    Returns:
        The image, and the factor by which its sides were divided.

    Raises:
        ImageError: Too large, not a file, or an incomplete JPEG or PNG.
        Exception: Any error of Pillow for broken files.
    """
    if path.exists() and not path.is_file():
        raise ImageError("it is not a file; folders, pipes and devices cannot be read")
    with path.open("rb") as file:
        start = file.read(16)
    with warnings.catch_warnings():
        # Pillow warns of large images and unusual headers; anything that matters is an error here.
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
    # Not by Image.open, which rejects large photographs of phones as decompression bombs.
    with JpegImageFile(path) as header:
        height, width = header.height, header.width
        orientation = _orientation(header)
    sizes = {shrink: (-(-height // shrink), -(-width // shrink)) for shrink in SHRINKS}
    fitting = [shrink for shrink, (rows, columns) in sizes.items() if rows * columns <= max_pixels]
    if not fitting:
        check_size(*sizes[SHRINKS[-1]], max_pixels, "this is an eighth of its size: reduce it")
    picture = Image.fromarray(decode_jpeg(path.read_bytes(), fitting[0]))
    picture.getexif()[ExifTags.Base.Orientation] = orientation
    return picture, fitting[0]


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF data does not make the image unusable
        return 1


def _open_other(path: Path, max_pixels: int) -> Image.Image:
    # Pillow's limit is twice this number. It is needed because some formats are decoded on opening.
    with _pillow_s_limit:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, max_pixels
        try:
            return Image.open(path)
        except Image.DecompressionBombError:
            raise ImageError(
                f"it has more than {max_pixels / 1e6:g} million pixels, which is the limit; {_ADVICE}"
            ) from None
        finally:
            Image.MAX_IMAGE_PIXELS = before
