"""Decodes untrusted JPEG and PNG data: the size in the header is checked against limits and the data before decoding.

Incomplete images are rejected. Most decoders fill the missing part with gray or black instead.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import simplejpeg
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from fcclip_core.errors import ImageError
from fcclip_core.images.image_limits import MAX_SIDE
from fcclip_core.quoting import first_line

Data = bytes | memoryview

SHRINKS = (1, 2, 4, 8)
"""Factors by which a JPEG can be reduced while decoding."""

_MAX_SCANS = 64
"""Largest number of scans of a progressive JPEG; encoders write about ten, and each costs as much as an image."""

_MAX_DEFLATE_RATIO = 1032
"""Largest number of bytes that one byte of deflated data can expand to."""

_START_OF_SCAN = re.compile(rb"\xff\xda")
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_END_OF_IMAGE = b"\xff\xd9"
_JPEG_START, _PNG_START = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"

# libjpeg's messages for missing or corrupt data. It also warns of surplus bytes, which many cameras write, and of
# unusual headers.
_DAMAGE = re.compile("(?i)premature end|bad huffman|bad arithmetic|instead of rst")

# First column and row of each pass of an interlaced PNG, and their steps.
_INTERLACED = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def check_size(
    height: int, width: int, max_pixels: int, advice: str = "send smaller images, or raise max_image_pixels"
) -> None:
    """Checks the size of an image.

    Args:
        height: Pixels.
        width: Pixels.
        max_pixels: Largest number of pixels.
        advice: Advice for the message.

    Raises:
        ImageError: Too many pixels, or a side longer than `MAX_SIDE`.
    """
    if max(height, width) > MAX_SIDE:
        raise ImageError(f"the image is {width} x {height} pixels; a side may have {MAX_SIDE} at most")
    if height * width > max_pixels:
        raise ImageError(
            f"the image is {width} x {height} pixels, {height * width / 1e6:.1f} million; at most "
            f"{max_pixels / 1e6:g} million are allowed; {advice}"
        )


def announced_size(data: Data) -> tuple[int, int]:
    """(height, width) in the header of a JPEG or PNG.

    Raises:
        ImageError: It is neither, or its header is unreadable.
    """
    return _jpeg_header(data)[:2] if is_jpeg(data) else _png_header(data)[:2]


def decode(data: Data, max_pixels: int) -> np.ndarray:
    """Decodes a JPEG or PNG without applying EXIF orientation; transparency is dropped.

    Args:
        data: The file.
        max_pixels: Largest number of pixels.

    Returns:
        uint8 RGB `(H, W, 3)`; for grayscale images uint8 or uint16 `(H, W)`.

    Raises:
        ImageError: It is neither, too large, damaged, or incomplete.
    """
    height, width = announced_size(data)
    check_size(height, width, max_pixels)
    return decode_jpeg(data) if is_jpeg(data) else _decode_png(data)


def is_jpeg(data: Data) -> bool:
    """Whether the data have a JPEG's signature."""
    return bytes(data[:3]) == _JPEG_START


def is_png(data: Data) -> bool:
    """Whether the data have a PNG's signature."""
    return bytes(data[:8]) == _PNG_START


def decode_jpeg(data: Data, shrink: int = 1) -> np.ndarray:
    """Decodes a JPEG of any size, optionally reduced.

    Args:
        data: The file.
        shrink: Factor by which the sides are divided, rounded up; one of `SHRINKS`.

    Returns:
        uint8 RGB `(H, W, 3)`, or `(H, W)` for grayscale images.

    Raises:
        ImageError: It is damaged or incomplete.
    """
    height, width, colors = _jpeg_header(data)
    # Each block of 8 x 8 pixels needs at least one bit.
    if len(data) * 8 < -(-height // 8) * -(-width // 8):
        raise _damaged(data, f"it claims {width} x {height} pixels, but has too little data for them")
    if _scans(data) > _MAX_SCANS:
        raise _damaged(data, f"it has more than {_MAX_SCANS} scans")
    if not colors:
        return _jpeg_by_pillow(data, shrink)
    space = {"Gray": "GRAY", "CMYK": "CMYK", "YCCK": "CMYK"}.get(colors, "RGB")
    options = {"colorspace": space, "min_height": -(-height // shrink), "min_width": -(-width // shrink)}
    try:
        pixels = simplejpeg.decode_jpeg(data, **options)
    except Exception as error:
        if _DAMAGE.search(str(error)):
            raise _damaged(data, f"its data are truncated ({first_line(error)})") from None
        try:
            pixels = simplejpeg.decode_jpeg(data, **options, strict=False)
        except Exception:
            raise _damaged(data, error) from None
    if space == "CMYK":
        # Stored inverted, as in Adobe's files.
        return np.asarray(Image.fromarray(255 - pixels, "CMYK").convert("RGB"))
    return pixels[:, :, 0] if space == "GRAY" else pixels


def _scans(data: Data) -> int:
    """Number of scans of a JPEG, or an upper bound if that is small."""
    marks = sum(1 for _ in _START_OF_SCAN.finditer(data))
    if marks <= _MAX_SCANS:
        return marks
    # The marker's bytes may also occur in a preview, or in data that phones append.
    scans, place = 0, 2
    while (marker := _MARKER.search(data, place)) and marker[0] != _END_OF_IMAGE:
        scans += bool(_START_OF_SCAN.match(marker[0]))
        place = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
    return scans


def _jpeg_header(data: Data) -> tuple[int, int, str]:
    """Height, width and color space; the latter is empty if only Pillow can decode it."""
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
        return height, width, colors
    except Exception:  # an unusual subsampling, or not a JPEG
        try:
            with JpegImageFile(io.BytesIO(data)) as picture:
                return picture.height, picture.width, ""
        except Exception:  # Pillow's parsers raise many types for broken files.
            raise _damaged(data, "its header cannot be read") from None


def _jpeg_by_pillow(data: Data, shrink: int) -> np.ndarray:
    try:
        with JpegImageFile(io.BytesIO(data)) as picture:
            picture.draft("RGB", (-(-picture.width // shrink), -(-picture.height // shrink)))
            return np.asarray(picture if picture.mode == "L" else picture.convert("RGB"))
    except Exception as error:
        raise _damaged(data, error) from None


def _png_header(data: Data) -> tuple[int, int, int, int, int]:
    """Height, width, bits per channel, color type, and whether it is interlaced."""
    head = bytes(data[:29])
    if not is_png(data):
        raise ImageError(f"the image ({len(data)} bytes) is neither JPEG nor PNG")
    if len(head) < 29 or head[12:16] != b"IHDR":
        raise _damaged(data, "its header cannot be read")
    width, height, bits, colors, _, _, interlaced = struct.unpack(">IIBBBBB", head[16:29])
    if not height or not width or bits not in (1, 2, 4, 8, 16) or colors not in _PNG_CHANNELS:
        raise _damaged(data, f"it claims {width} x {height} pixels of {bits} bits and the color type {colors}")
    return height, width, bits, colors, interlaced


def _decode_png(data: Data) -> np.ndarray:
    try:
        with PngImageFile(io.BytesIO(data)) as picture:
            check_png(data, picture)
            if picture.mode == "I" or picture.mode.startswith("I;16"):
                return np.asarray(picture).astype(np.uint16)
            return np.asarray(picture.convert("L" if picture.mode in ("1", "L", "LA") else "RGB"))
    except Exception as error:  # Pillow's decoders raise many types for broken files.
        raise _damaged(data, error) from None


def check_png(data: Data, picture: PngImageFile) -> None:
    """Decodes a PNG and checks that it is complete.

    Args:
        data: The file.
        picture: Pillow's image, not loaded yet.

    Raises:
        ImageError: It is incomplete.
        Exception: Any error of Pillow for broken files.
    """
    height, width, *_, interlaced = _png_header(data)
    if len(data) * _MAX_DEFLATE_RATIO < _png_bytes(data):
        raise ImageError(f"it claims {width} x {height} pixels, but has too little data for them")
    picture.load()
    # Pillow leaves missing rows black; complete images may be black there, too.
    ends_black = picture.crop((0, height - 1, width, height)).getbbox() is None
    if (ends_black or interlaced) and not _png_is_complete(data):
        raise ImageError("rows are missing")


def _damaged(data: Data, reason: object) -> ImageError:
    return ImageError(
        f"the image ({len(data)} bytes) cannot be decoded, it is probably cut short: {first_line(reason)}"
    )


def _png_bytes(data: Data) -> int:
    """Uncompressed size of a PNG's rows in bytes."""
    height, width, bits, colors, interlaced = _png_header(data)
    passes = _INTERLACED if interlaced else ((0, 0, 1, 1),)
    total = 0
    for left, top, across, down in passes:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + -(-columns * bits * _PNG_CHANNELS[colors] // 8))
    return total


def _png_is_complete(data: Data) -> bool:
    """Whether the compressed data contain all rows."""
    missing, inflate = _png_bytes(data), zlib.decompressobj()
    for part in _png_data(bytes(data)):
        while part and missing > 0:
            missing -= len(inflate.decompress(part, 1 << 16))
            part = inflate.unconsumed_tail
    return missing <= 0


def _png_data(data: bytes) -> Iterator[bytes]:
    """The data of a PNG's IDAT chunks."""
    place = len(_PNG_START)
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        if kind == b"IDAT":
            yield data[place + 8 : place + 8 + length]
        place += 12 + length
