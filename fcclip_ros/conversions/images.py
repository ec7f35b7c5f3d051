"""ROS images -> RGB, depth and label arrays.

Colors are converted by OpenCV, through cv_bridge if it is installed and works. Common errors of camera drivers (steps,
sizes, truncated data) are checked first, so that they result in a clear message and never in a crash or a skewed image.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from fcclip_core.errors import ImageError
from fcclip_core.images.encoded_images import announced_size, check_size, decode, is_jpeg, is_png
from fcclip_core.images.image_limits import MAX_PIXELS
from fcclip_core.quoting import first_line
from fcclip_ros.conversions.compressed_depth import CompressedDepth, is_compressed_depth
from fcclip_ros.conversions.gray_range import FULL_RANGE, GrayRange
from fcclip_ros.conversions.planar_yuv import PLANAR_ENCODINGS, planes_to_rgb

if TYPE_CHECKING:
    from sensor_msgs.msg import CompressedImage, Image


@dataclass(frozen=True)
class _Encoding:
    """Memory layout of an encoding.

    Attributes:
        channels: Values per pixel.
        depth: NumPy type of the values.
        to_rgb: OpenCV's conversion code to RGB; None for RGB, depth and labels.
        block: (rows, columns) of the smallest block of pixels that has colors.
    """

    channels: int
    depth: str
    to_rgb: int | None
    block: tuple[int, int] = (1, 1)


_PAIR, _MOSAIC = (1, 2), (2, 2)


# ROS names a Bayer pattern after the first two pixels of row 1, OpenCV after pixels 2 and 3 of row 2.
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
    "yuv422": _Encoding(2, "u1", cv2.COLOR_YUV2RGB_UYVY, _PAIR),
    "uyvy": _Encoding(2, "u1", cv2.COLOR_YUV2RGB_UYVY, _PAIR),
    "yuv422_yuy2": _Encoding(2, "u1", cv2.COLOR_YUV2RGB_YUYV, _PAIR),
    "yuyv": _Encoding(2, "u1", cv2.COLOR_YUV2RGB_YUYV, _PAIR),
    **{f"bayer_{pattern}8": _Encoding(1, "u1", code, _MOSAIC) for pattern, code in _BAYER.items()},
    **{f"bayer_{pattern}16": _Encoding(1, "u2", code, _MOSAIC) for pattern, code in _BAYER.items()},
}

_GRAY_16 = _ENCODINGS["mono16"]

ENCODINGS = (*_ENCODINGS, *PLANAR_ENCODINGS)
"""Encodings of sensor_msgs/Image that `to_rgb` supports."""

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
    "8UC1": "one channel without a meaning; publish it as mono8 if it is a gray image",
    "8UC3": "the order of its channels is unknown; publish it as rgb8 or bgr8",
    "16UC1": "it is usually depth; subscribe to the color image, or set gray16_range if it is a thermal camera's",
    "32FC1": "it is usually depth; subscribe to the color image",
}


def to_rgb(
    message: Image | CompressedImage, max_pixels: int = MAX_PIXELS, gray_range: GrayRange = FULL_RANGE
) -> np.ndarray:
    """Converts an image message to RGB.

    An rgb8 image is not copied: the array is a view of the message's data, which it keeps alive. 16-bit values are
    scaled by 255 / 65535. The size is checked against the data before anything is allocated.

    Args:
        message: sensor_msgs/Image in one of `ENCODINGS`, or sensor_msgs/CompressedImage with a JPEG or PNG.
        max_pixels: Maximum number of pixels.
        gray_range: Which values of 16-bit gray images become black and white. With any but the full range, 16UC1 is
            such an image too.

    Returns:
        uint8 RGB `(H, W, 3)`; rows may be padded.

    Raises:
        ImageError: The encoding is unsupported, the image is empty or too large, its sizes are inconsistent, or it
            cannot be decoded or converted.
    """
    try:
        convert = _decompressed if hasattr(message, "format") else _converted
        return convert(message, max_pixels, gray_range)
    except ImageError:
        raise
    except Exception as error:  # of OpenCV, cv_bridge or the decoders; out of memory
        raise ImageError(f"the image cannot be converted ({type(error).__name__}): {first_line(error)}") from error


def size_of(message: Image | CompressedImage, max_pixels: int = MAX_PIXELS) -> tuple[int, int] | None:
    """(height, width) according to the header of an image, without decoding; None if `to_rgb` would reject it."""
    try:
        compressed = hasattr(message, "format")
        height, width = announced_size(memoryview(message.data)) if compressed else (message.height, message.width)
        check_size(height, width, max_pixels)
    except Exception:  # `to_rgb` reports the error.
        return None
    return (height, width) if height and width else None


def to_depth(message: Image | CompressedImage, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Converts a depth image to an array, without a copy if it is not compressed and its byte order is native.

    Args:
        message: sensor_msgs/Image in 16UC1 or mono16 (millimeters) or 32FC1 (meters), or sensor_msgs/CompressedImage
            of image_transport's compressedDepth.
        max_pixels: Maximum number of pixels of compressed depth.

    Returns:
        uint16 or float32 `(H, W)`; rows may be padded.

    Raises:
        ImageError: The encoding is unsupported, the image is empty, its sizes are inconsistent, or it is damaged.
    """
    if hasattr(message, "format"):
        return CompressedDepth.from_message(message, max_pixels).decode()
    return _native_pixels(message, _DEPTH_ENCODINGS, "depth", "16UC1 (millimeters) or 32FC1 (meters)")


def depth_size(message: Image | CompressedImage, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(height, width) of a depth image, checked as far as possible without decoding; arguments as for `to_depth`.

    Raises:
        ImageError: As for `to_depth`, except for damaged data.
    """
    if hasattr(message, "format"):
        return CompressedDepth.from_message(message, max_pixels).size
    height, width = to_depth(message).shape
    return height, width


def to_labels(message: Image) -> np.ndarray:
    """Converts a label image (~/panoptic, ~/semantic) to an array, without a copy if its byte order is native.

    Args:
        message: sensor_msgs/Image in mono8, mono16 or 16UC1.

    Returns:
        uint8 or uint16 `(H, W)`; rows may be padded.

    Raises:
        ImageError: The encoding is unsupported, the image is empty, or its sizes are inconsistent.
    """
    return _native_pixels(message, _LABEL_ENCODINGS, "labels", "mono8, mono16 or 16UC1")


@functools.cache
def cv_bridge() -> Any | None:
    """A cv_bridge.CvBridge, or None if it is not installed or does not work.

    ROS distributions build it against numpy 1 and the system's OpenCV. With numpy 2, or next to another OpenCV, it may
    raise or crash the process, which its metadata does not tell, so it is tested once in a subprocess.
    """
    if importlib.util.find_spec("cv_bridge") is None:
        return None
    test = (
        "import numpy, cv_bridge; bridge = cv_bridge.CvBridge();"
        "message = bridge.cv2_to_imgmsg(numpy.full((2, 2, 3), 7, numpy.uint8), 'bgr8');"
        "assert (bridge.imgmsg_to_cv2(message, 'rgb8') == 7).all()"
    )
    try:
        subprocess.run([sys.executable, "-c", test], check=True, timeout=30, capture_output=True)
    except (OSError, subprocess.SubprocessError):
        return None
    from cv_bridge import CvBridge

    return CvBridge()


def _encoding(name: str, gray_range: GrayRange) -> _Encoding:
    if name == "16UC1" and not gray_range.is_full:
        return _GRAY_16
    if name not in _ENCODINGS:
        advice = f" ({_ADVICE[name]})" if name in _ADVICE else ""
        raise ImageError(f"encoding {name[:40]!r} is not supported{advice}; supported are {', '.join(ENCODINGS)}")
    return _ENCODINGS[name]


def _pixels(message: Image, encoding: _Encoding) -> np.ndarray:
    """The data of a message as `(H, W)` or `(H, W, C)`, without a copy."""
    height, width, step = message.height, message.width, message.step
    _check_not_empty(message)
    if encoding.block == _PAIR and width % 2:
        raise ImageError(f"the image is {width} pixels wide; {message.encoding} needs an even width")
    _check_block(height, width, encoding, message.encoding)
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


def _check_not_empty(message: Image) -> None:
    if message.height == 0 or message.width == 0:
        raise ImageError(f"the image is {message.width} x {message.height}, so it has no pixels")


def _check_block(height: int, width: int, encoding: _Encoding, name: str) -> None:
    rows, columns = encoding.block
    if height < rows or width < columns:
        raise ImageError(f"the image is {width} x {height}; {name} needs at least {columns} x {rows} pixels")


def _native_pixels(message: Image, encodings: dict[str, _Encoding], what: str, expected: str) -> np.ndarray:
    """The pixels of a depth or label image in native byte order."""
    encoding = encodings.get(message.encoding)
    if encoding is None:
        raise ImageError(f"{what} in the encoding {message.encoding[:40]!r} is not supported; expected {expected}")
    pixels = _pixels(message, encoding)
    return pixels if pixels.dtype.isnative else pixels.astype(pixels.dtype.newbyteorder("="))


def _as_rgb(pixels: np.ndarray, encoding: _Encoding, gray_range: GrayRange) -> np.ndarray:
    if encoding.depth == "u2":
        # OpenCV needs native byte order and aligned values.
        pixels = np.array(pixels, np.uint16)
    if encoding is _GRAY_16 and not gray_range.is_full:
        return cv2.cvtColor(gray_range.to_8_bits(pixels), cv2.COLOR_GRAY2RGB)
    if encoding.to_rgb is None:
        rgb = pixels
    elif encoding.block == _MOSAIC and min(pixels.shape) < 3:
        # OpenCV returns black for such narrow mosaics; reflection continues the pattern at the borders.
        rgb = cv2.cvtColor(np.pad(pixels, 2, mode="reflect"), encoding.to_rgb)[2:-2, 2:-2]
    else:
        rgb = cv2.cvtColor(pixels, encoding.to_rgb)
    return cv2.convertScaleAbs(rgb, alpha=255.0 / 65535.0) if encoding.depth == "u2" else rgb


def _converted(message: Image, max_pixels: int, gray_range: GrayRange) -> np.ndarray:
    if message.encoding in PLANAR_ENCODINGS:
        _check_not_empty(message)
        check_size(message.height, message.width, max_pixels)
        return planes_to_rgb(message)
    encoding = _encoding(message.encoding, gray_range)
    pixels = _pixels(message, encoding)
    check_size(message.height, message.width, max_pixels)
    bridge = cv_bridge() if encoding is not _GRAY_16 or gray_range.is_full else None
    if bridge is not None and encoding.to_rgb is not None and min(pixels.shape[:2]) > 2:
        # Older versions do not support all encodings.
        with contextlib.suppress(Exception):
            return bridge.imgmsg_to_cv2(message, "rgb8")
    return _as_rgb(pixels, encoding, gray_range)


def _decompressed(message: CompressedImage, max_pixels: int, gray_range: GrayRange) -> np.ndarray:
    """Decodes a JPEG or PNG; a truncated one, which OpenCV would fill with gray, is rejected."""
    data, shown = memoryview(message.data), message.format[:40]
    if len(data) == 0:
        raise ImageError("the compressed image has no data")
    if is_compressed_depth(message.format):
        raise ImageError("the image is a compressed depth image; subscribe to the color camera's compressed topic")
    if not is_jpeg(data) and not is_png(data):
        raise ImageError(f"the compressed image (format {shown!r}, {len(data)} bytes) is neither JPEG nor PNG")
    image = decode(data, max_pixels)
    if image.ndim == 3:
        return image
    # image_transport compresses Bayer images without demosaicing, as gray images.
    bits = 8 * image.itemsize
    source = shown.partition(";")[0].strip().rstrip("0123456789") + str(bits)
    encoding = _ENCODINGS[source if source.startswith("bayer_") and source in _ENCODINGS else f"mono{bits}"]
    height, width = image.shape
    _check_block(height, width, encoding, source)
    return _as_rgb(image, encoding, gray_range)
