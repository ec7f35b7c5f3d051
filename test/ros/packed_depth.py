"""Compressed depth as compressed_depth_image_transport writes it (its src/codec.cpp and src/rvl_codec.cpp)."""

from __future__ import annotations

import struct
from array import array

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

DEPTH_MAX, QUANTIZATION = 10.0, 100.0
"""The transport's defaults, in meters."""


def packed_depth(
    values: np.ndarray, encoding: str, codec: str = "png", header: Header | None = None
) -> CompressedImage:
    """A message with depth.

    Args:
        values: Millimeters for 16UC1, meters for 32FC1.
        encoding: 16UC1 or 32FC1.
        codec: png or rvl.
        header: Of the message.
    """
    if encoding == "32FC1":
        scale = np.float32(QUANTIZATION * (QUANTIZATION + 1))
        offset = np.float32(1) - scale / np.float32(DEPTH_MAX)
        with np.errstate(divide="ignore", invalid="ignore"):
            inverse = scale / values.astype(np.float32) + offset
            quantized = np.where(values < DEPTH_MAX, inverse, 0).astype(np.uint16)
        head = struct.pack("<iff", 0, scale, offset)
    else:
        quantized = np.where(values > DEPTH_MAX * 1000, 0, values).astype(np.uint16)
        head = struct.pack("<iff", 0, 0, 0)
    if codec == "png":
        body = cv2.imencode(".png", quantized)[1].tobytes()
    else:
        height, width = quantized.shape
        body = struct.pack("<II", width, height) + rvl(quantized.ravel().tolist())
    return CompressedImage(
        header=header or Header(), format=f"{encoding}; compressedDepth {codec}", data=array("B", head + body)
    )


def rvl(values: list[int]) -> bytes:
    """Run lengths of zeros and of other values by turns, and the differences of the latter, in nibbles."""
    nibbles: list[int] = []

    def write(number: int) -> None:
        while number >= 8:
            nibbles.append(number & 7 | 8)
            number >>= 3
        nibbles.append(number)

    place = previous = 0
    while place < len(values):
        start = place
        while place < len(values) and values[place] == 0:
            place += 1
        end = place
        while end < len(values) and values[end] != 0:
            end += 1
        write(place - start)
        write(end - place)
        for value in values[place:end]:
            difference, previous = value - previous, value
            write(difference << 1 if difference >= 0 else (-difference << 1) - 1)
        place = end
    nibbles += [0] * (-len(nibbles) % 8)
    words = ["".join(f"{nibble:x}" for nibble in nibbles[begin : begin + 8]) for begin in range(0, len(nibbles), 8)]
    return b"".join(bytes.fromhex(word)[::-1] for word in words)
