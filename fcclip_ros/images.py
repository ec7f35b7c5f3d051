"""ROS images -> RGB, depth and label arrays.

OpenCV does the colour arithmetic, through cv_bridge where that is installed and works. What cameras get wrong (steps,
sizes, truncated data) is checked here first, so that the answer is a sentence and never a crash or a skewed picture.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import PIL.Image

from fcclip_core.errors import ImageError

if TYPE_CHECKING:
    from sensor_msgs.msg import CompressedImage, Image


@dataclass(frozen=True)
class _Encoding:
    """How an encoding lies in memory, and OpenCV's code that makes RGB of it (None: it is RGB)."""

    channels: int
    depth: str
    to_rgb: int | None


# ROS names a Bayer pattern by its first row's first two pixels, OpenCV by the second row's second and third.
_BAYER = {
    "rggb": cv2.COLOR_BayerBG2RGB,
    "bggr": cv2.COLOR_BayerRG2RGB,
    "gbrg": cv2.COLOR_BayerGR2RGB,
    "grbg": cv2.COLOR_BayerGB2RGB,
}

_ENCODINGS: dict[str, _Encoding] = {
    "rgb8": _Encoding(3, "u1", None),
    "bgr8": _Encoding(3, "u1", cv2.COLOR_BGR2RGB),
    "rgba8": _Encoding(4, "u1", cv2.COLOR_RGBA2RGB),
    "bgra8": _Encoding(4, "u1", cv2.COLOR_BGRA2RGB),
    "mono8": _Encoding(1, "u1", cv2.COLOR_GRAY2RGB),
    "rgb16": _Encoding(3, "u2", None),
    "bgr16": _Encoding(3, "u2", cv2.COLOR_BGR2RGB),
    "rgba16": _Encoding(4, "u2", cv2.COLOR_RGBA2RGB),
    "bgra16": _Encoding(4, "u2", cv2.COLOR_BGRA2RGB),
    "mono16": _Encoding(1, "u2", cv2.COLOR_GRAY2RGB),
    "yuv422": _Encoding(2, "u1", cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": _Encoding(2, "u1", cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": _Encoding(2, "u1", cv2.COLOR_YUV2RGB_YUYV),
    "yuyv": _Encoding(2, "u1", cv2.COLOR_YUV2RGB_YUYV),
    **{f"bayer_{pattern}8": _Encoding(1, "u1", code) for pattern, code in _BAYER.items()},
    **{f"bayer_{pattern}16": _Encoding(1, "u2", code) for pattern, code in _BAYER.items()},
}

ENCODINGS = tuple(_ENCODINGS)
"""Encodings of sensor_msgs/Image that `to_rgb` reads."""

_DEPTH_ENCODINGS = {
    "16UC1": _Encoding(1, "u2", None),
    "mono16": _Encoding(1, "u2", None),
    "32FC1": _Encoding(1, "f4", None),
}

_LABEL_ENCODINGS = {
    "mono8": _Encoding(1, "u1", None),
    "mono16": _Encoding(1, "u2", None),
    "16UC1": _Encoding(1, "u2", None),
}

_ADVICE = {
    "8UC1": "it is one channel of numbers; publish it as mono8 if it is a picture",
    "8UC3": "it does not say in which order the colours come; publish it as rgb8 or bgr8",
    "16UC1": "it is usually depth; subscribe to the colour image",
    "32FC1": "it is usually depth; subscribe to the colour image",
}

_COMPRESSED_FORMATS = ("JPEG", "PNG")


def to_rgb(message: Image | CompressedImage) -> np.ndarray:
    """Reads an image message.

    An rgb8 image is not copied: the array is a view of the message's data, which it keeps alive. 16-bit values are
    scaled by 255 / 65535.

    Args:
        message: sensor_msgs/Image in one of `ENCODINGS`, or a sensor_msgs/CompressedImage that holds a JPEG or PNG.

    Returns:
        uint8 RGB `(H, W, 3)`; rows may be padded.

    Raises:
        ImageError: Unknown encoding, no pixel, sizes that contradict each other, or a picture that cannot be decoded.
    """
    if hasattr(message, "format"):
        return _decompress(message)
    encoding = _encoding(message.encoding)
    pixels = _pixels(message, encoding)
    bridge = cv_bridge()
    if bridge is not None and encoding.to_rgb is not None:
        return bridge.imgmsg_to_cv2(message, "rgb8")
    return _as_rgb(pixels, encoding)


def size_of(message: Image | CompressedImage) -> tuple[int, int] | None:
    """(height, width) that an image message announces, without decoding it; None where `to_rgb` would refuse it."""
    if not hasattr(message, "format"):
        return (message.height, message.width) if message.height and message.width else None
    try:
        with PIL.Image.open(io.BytesIO(message.data), formats=_COMPRESSED_FORMATS) as picture:
            return picture.height, picture.width
    except Exception:  # Pillow's parsers raise many types for broken files.
        return None


def to_depth(message: Image) -> np.ndarray:
    """Reads a depth image, without a copy where the machine's byte order allows.

    Args:
        message: sensor_msgs/Image in 16UC1 or mono16 (millimetres) or 32FC1 (metres).

    Returns:
        uint16 or float32 `(H, W)`; rows may be padded.

    Raises:
        ImageError: Another encoding, no pixel, or sizes that contradict each other.
    """
    encoding = _DEPTH_ENCODINGS.get(message.encoding)
    if encoding is None:
        raise ImageError(
            f"depth in the encoding {message.encoding[:40]!r} is not supported; expected 16UC1 (millimetres) or 32FC1 "
            "(metres)"
        )
    return _native(_pixels(message, encoding))


def to_labels(message: Image) -> np.ndarray:
    """Reads a label image, such as ~/panoptic or ~/semantic, without a copy where the machine's byte order allows.

    Args:
        message: sensor_msgs/Image in mono8, mono16 or 16UC1.

    Returns:
        uint8 or uint16 `(H, W)`; rows may be padded.

    Raises:
        ImageError: Another encoding, no pixel, or sizes that contradict each other.
    """
    encoding = _LABEL_ENCODINGS.get(message.encoding)
    if encoding is None:
        raise ImageError(f"labels in the encoding {message.encoding[:40]!r}; expected mono8, mono16 or 16UC1")
    return _native(_pixels(message, encoding))


@functools.cache
def cv_bridge() -> Any | None:
    """A cv_bridge.CvBridge, or None where it is not installed or does not work.

    Distributions build it against numpy 1, and beside numpy 2 it may raise or kill the process. It is therefore tried
    once in another process.
    """
    if importlib.util.find_spec("cv_bridge") is None:
        return None
    trial = (
        "import numpy, cv_bridge; bridge = cv_bridge.CvBridge();"
        "message = bridge.cv2_to_imgmsg(numpy.full((2, 2, 3), 7, numpy.uint8), 'bgr8');"
        "assert (bridge.imgmsg_to_cv2(message, 'rgb8') == 7).all()"
    )
    try:
        subprocess.run([sys.executable, "-c", trial], check=True, timeout=30, capture_output=True)
    except (OSError, subprocess.SubprocessError):
        return None
    from cv_bridge import CvBridge

    return CvBridge()


def _encoding(name: str) -> _Encoding:
    if name not in _ENCODINGS:
        advice = f" ({_ADVICE[name]})" if name in _ADVICE else ""
        raise ImageError(f"encoding {name[:40]!r} is not supported{advice}; supported are {', '.join(ENCODINGS)}")
    return _ENCODINGS[name]


def _pixels(message: Image, encoding: _Encoding) -> np.ndarray:
    """The message's data as `(H, W)` or `(H, W, C)`, without a copy."""
    height, width, step = message.height, message.width, message.step
    if height == 0 or width == 0:
        raise ImageError(f"the image is {width} x {height}, which holds no pixel")
    if message.encoding.startswith("yuv") and width % 2:
        raise ImageError(f"the image is {width} pixels wide; {message.encoding} has them in pairs, so it must be even")
    if message.encoding.startswith("bayer") and (height < 2 or width < 2):
        raise ImageError(f"the image is {width} x {height}; {message.encoding} needs at least 2 x 2 pixels")
    dtype = np.dtype(encoding.depth).newbyteorder(">" if message.is_bigendian else "<")
    row = width * encoding.channels * dtype.itemsize
    if step < row:
        raise ImageError(f"step is {step} bytes, but a row of {width} pixels in {message.encoding} takes {row}")
    data = np.frombuffer(message.data, np.uint8)
    needed = step * (height - 1) + row
    if len(data) < needed:
        raise ImageError(
            f"the image has {len(data)} bytes of data, but {height} rows with a step of {step} take {needed}"
        )
    shape, strides = (height, width, encoding.channels), (step, encoding.channels * dtype.itemsize, dtype.itemsize)
    pixels: np.ndarray = np.ndarray(shape, dtype, data, strides=strides)
    return pixels[:, :, 0] if encoding.channels == 1 else pixels


def _native(pixels: np.ndarray) -> np.ndarray:
    """The same numbers in the machine's byte order."""
    return pixels if pixels.dtype.isnative else pixels.astype(pixels.dtype.newbyteorder("="))


def _as_rgb(pixels: np.ndarray, encoding: _Encoding) -> np.ndarray:
    if encoding.depth == "u2":
        # Also gives OpenCV what it needs: the machine's own byte order, every number at an even address.
        pixels = np.array(pixels, np.uint16)
    rgb = pixels if encoding.to_rgb is None else cv2.cvtColor(pixels, encoding.to_rgb)
    return cv2.convertScaleAbs(rgb, alpha=255.0 / 65535.0) if encoding.depth == "u2" else rgb


def _decompress(message: CompressedImage) -> np.ndarray:
    """Decodes a JPEG or PNG with Pillow, which refuses a truncated one; OpenCV would fill up with grey."""
    if len(message.data) == 0:
        raise ImageError("the compressed image holds no data")
    if "compressedDepth" in message.format:
        raise ImageError("the image is a compressed depth image; subscribe to the colour camera's compressed topic")
    try:
        picture = PIL.Image.open(io.BytesIO(message.data), formats=_COMPRESSED_FORMATS)
        picture.load()
    except PIL.UnidentifiedImageError:
        raise ImageError(
            f"the compressed image (format {message.format[:40]!r}, {len(message.data)} bytes) is neither JPEG nor PNG"
        ) from None
    except Exception as error:  # Pillow's decoders raise many types for broken files.
        raise ImageError(
            f"the compressed image ({len(message.data)} bytes) cannot be decoded, it is probably cut short: {error}"
        ) from error
    return _picture_to_rgb(picture, message.format.partition(";")[0].strip())


def _picture_to_rgb(picture: PIL.Image.Image, source_encoding: str) -> np.ndarray:
    # Mode "I" is what Pillow before 10.3 makes of a 16-bit PNG.
    deep = picture.mode in ("I", "I;16", "I;16B")
    depth = "16" if deep else "8"
    mosaic = source_encoding.rstrip("0123456789") + depth
    if mosaic.startswith("bayer_") and mosaic in _ENCODINGS and (deep or picture.mode == "L"):
        # image_transport compresses a Bayer image as the grey mosaic that it is.
        return _as_rgb(np.asarray(picture), _ENCODINGS[mosaic])
    if deep:
        return _as_rgb(np.asarray(picture), _ENCODINGS["mono16"])
    return np.asarray(picture.convert("RGB"))
