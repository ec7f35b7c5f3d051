"""Depth of image_transport's compressedDepth: a header of 12 bytes, then a PNG or RVL data of 16-bit values.

The header is an int32, which says nothing that the format string does not, and two float32, A and B. Depth in 32FC1 is
quantized as A / meters + B with 0 for unknown; depth in 16UC1 is stored as it is, in millimeters. RVL (Wilson, "Fast
lossless depth image compression", 2017) has a header of its own: width and height as uint32.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fcclip_core.errors import ImageError
from fcclip_core.images.encoded_images import announced_size, check_size, decode, is_png

if TYPE_CHECKING:
    from sensor_msgs.msg import CompressedImage

SUFFIX = "/compressedDepth"
"""What image_transport appends to the name of a depth topic."""

ENCODINGS = ("16UC1", "mono16", "32FC1")
"""Encodings of the depth that was compressed."""

_HEADER = struct.Struct("<iff")
_RVL_SIZE = struct.Struct("<II")

_NIBBLES = np.arange(28, -4, -4, dtype=np.uint32)
"""Shifts of the nibbles of a 32-bit word in the order in which RVL writes them."""

_MAX_NIBBLES = 9
"""Most nibbles of a number in RVL; more than 2^27 pixels in a row are in no image."""


def is_compressed_depth(format_: str) -> bool:
    """Whether the format of a sensor_msgs/CompressedImage is that of compressed depth."""
    return "compressedDepth" in format_ or format_.strip() in ("16UC1", "32FC1")


@dataclass(frozen=True)
class CompressedDepth:
    """Compressed depth whose header has been checked.

    Attributes:
        quantization: A and B for depth in 32FC1; None for 16UC1.
        is_rvl: Whether the data are RVL; otherwise a PNG.
        size: (height, width) that the data announce.
        data: What follows the headers.
    """

    quantization: tuple[float, float] | None
    is_rvl: bool
    size: tuple[int, int]
    data: memoryview

    @classmethod
    def from_message(cls, message: CompressedImage, max_pixels: int) -> CompressedDepth:
        """Reads the headers; nothing is decoded.

        Args:
            message: sensor_msgs/CompressedImage of a topic of compressed depth.
            max_pixels: Maximum number of pixels.

        Raises:
            ImageError: It is not compressed depth, a header is wrong, or the image is too large.
        """
        encoding, codec = _format_of(message.format)
        content = memoryview(message.data).cast("B")
        if is_png(content):
            raise ImageError(
                "the compressed depth begins with a PNG; expected the header of 12 bytes that image_transport's "
                "compressedDepth writes before it"
            )
        if len(content) <= _HEADER.size:
            raise ImageError(
                f"the compressed depth has {len(content)} bytes; expected a header of {_HEADER.size} bytes and a "
                f"{'PNG' if codec == 'png' else 'RVL image'}"
            )
        _, scale, offset = _HEADER.unpack_from(content)
        if encoding == "32FC1" and not (math.isfinite(scale) and math.isfinite(offset) and scale > 0):
            raise ImageError(
                f"the header of the compressed depth has the quantization A = {scale:g}, B = {offset:g}; expected "
                "finite numbers, and A above 0"
            )
        data = content[_HEADER.size :]
        size = _rvl_size(data) if codec == "rvl" else _png_size(data)
        check_size(*size, max_pixels)
        quantization = (scale, offset) if encoding == "32FC1" else None
        return cls(quantization, codec == "rvl", size, data[_RVL_SIZE.size :] if codec == "rvl" else data)

    def decode(self) -> np.ndarray:
        """The depth.

        Returns:
            uint16 millimeters `(H, W)`, 0 where unknown; or float32 meters, NaN where unknown.

        Raises:
            ImageError: The data are damaged or incomplete, or not 16-bit values.
        """
        values = _decode_rvl(self.data, self.size) if self.is_rvl else _decode_png(self.data, self.size)
        if self.quantization is None:
            return values
        scale, offset = (np.float32(value) for value in self.quantization)
        with np.errstate(divide="ignore", over="ignore"):
            meters: np.ndarray = scale / (values.astype(np.float32) - offset)
        meters[values == 0] = np.nan
        return meters


def _format_of(format_: str) -> tuple[str, str]:
    """Encoding and codec ("png" or "rvl") of a format such as 16UC1; compressedDepth rvl."""
    encoding, separator, rest = (part.strip() for part in format_.partition(";"))
    words = rest.split()
    # Old releases of image_transport_plugins name no codec, the first ones the encoding alone.
    codec = "png" if words == ["compressedDepth"] or not separator else ""
    if len(words) > 1 and words[0] == "compressedDepth":
        codec = words[1]
    if encoding not in ENCODINGS or codec not in ("png", "rvl"):
        raise ImageError(
            f"the format of the compressed depth is {format_[:60]!r}; expected 16UC1 or 32FC1, then "
            '"; compressedDepth png" or "; compressedDepth rvl"'
        )
    return encoding, codec


def _png_size(data: memoryview) -> tuple[int, int]:
    if not is_png(data):
        raise ImageError(f"the compressed depth ({len(data)} bytes after its header) is no PNG, as its format says")
    return announced_size(data)


def _decode_png(data: memoryview, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    values = decode(data, height * width)
    if values.ndim != 2 or values.dtype != np.uint16:
        channels = 1 if values.ndim == 2 else values.shape[2]
        raise ImageError(
            f"the PNG of the compressed depth has {channels} channel{'s' * (channels != 1)} of {8 * values.itemsize} "
            "bits; expected one channel of 16 bits"
        )
    return values


def _rvl_size(data: memoryview) -> tuple[int, int]:
    if len(data) < _RVL_SIZE.size:
        raise ImageError(f"the RVL image has {len(data)} bytes; it begins with its width and height in 8 bytes")
    width, height = _RVL_SIZE.unpack_from(data)
    if not width or not height:
        raise ImageError(f"the RVL image is {width} x {height}, so it has no pixels")
    return height, width


def _decode_rvl(data: memoryview, size: tuple[int, int]) -> np.ndarray:
    """Decodes RVL: by turns the number of zeros, the number of other values, and these as differences in zigzag."""
    pixels = size[0] * size[1]
    numbers = _rvl_numbers(data[: 3 * pixels + 16])  # no image takes more
    runs: list[int] = []
    filled = place = 0
    while filled < pixels:
        zeros, known = (numbers.item(place), numbers.item(place + 1)) if place + 2 <= len(numbers) else (pixels, 1)
        runs += (zeros, known)
        place, filled = place + 2 + known, filled + zeros + known
        if place > len(numbers) or filled > pixels or zeros + known == 0:
            raise ImageError(
                f"the RVL image ({len(data)} bytes) is damaged or cut short: it has {size[1]} x {size[0]} pixels"
            )
    is_known = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    runs[::2] = [2] * (len(runs) // 2)  # the two numbers before each run of differences
    is_difference = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    zigzag = numbers[:place][is_difference]
    values = np.zeros(pixels, np.uint16)
    # The sums of 16-bit differences wrap around, as in the encoder.
    values[is_known] = np.cumsum((zigzag >> 1) ^ -(zigzag & 1), dtype=np.int64).astype(np.uint16)
    return values.reshape(size)


def _rvl_numbers(data: memoryview) -> np.ndarray:
    """All numbers of RVL data, int32: nibbles of three bits each, the lowest first; the fourth bit says "more"."""
    words = np.frombuffer(data[: len(data) // 4 * 4], "<u4")
    nibbles = ((words[:, None] >> _NIBBLES) & 15).astype(np.uint8).ravel()
    last = np.flatnonzero(nibbles < 8)
    if not len(last):
        return np.empty(0, np.int32)
    first = np.concatenate([[0], last[:-1] + 1])
    lengths = last + 1 - first
    if lengths.max() > _MAX_NIBBLES:
        raise ImageError(f"the RVL image ({len(data)} bytes) is damaged: it has a number of {lengths.max()} digits")
    nibbles = nibbles[: last[-1] + 1]
    digits = np.arange(len(nibbles), dtype=np.int32) - np.repeat(first, lengths).astype(np.int32)
    numbers: np.ndarray = np.add.reduceat((nibbles & 7).astype(np.int32) << (3 * digits), first)
    return numbers
