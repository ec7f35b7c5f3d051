"""Images in planes, one of brightness and one or two of color, as cameras and video decoders write them -> RGB.

The layouts are those of V4L2. Colors are BT.601 in video range, as OpenCV and cv_bridge read all YUV of ROS messages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from fcclip_core.errors import ImageError

if TYPE_CHECKING:
    from sensor_msgs.msg import Image


@dataclass(frozen=True)
class _Layout:
    """How the colors lie behind the plane of brightness.

    Attributes:
        shrink: Factor by which colors have fewer rows and columns: 2 for 4:2:0, 1 for 4:4:4.
        is_paired: Whether both color values of a pixel stand side by side; otherwise in two planes.
        v_first: Whether V comes before U.
    """

    shrink: int
    is_paired: bool
    v_first: bool = False

    @property
    def rows_in_all(self) -> int:
        """Rows of brightness that take as many bytes as two rows of the image with its colors."""
        return 3 if self.shrink == 2 else 6


_I420 = _Layout(2, is_paired=False)

_LAYOUTS = {
    "nv12": _Layout(2, is_paired=True),
    "nv21": _Layout(2, is_paired=True, v_first=True),
    "nv24": _Layout(1, is_paired=True),
    "i420": _I420,
    "yuv420": _I420,
    "YUV420": _I420,  # depthai-ros
}

PLANAR_ENCODINGS = tuple(_LAYOUTS)
"""Encodings of sensor_msgs/Image that `planes_to_rgb` supports."""

_TO_RGB = np.array(
    [[1.164, 0.0, 1.596], [1.164, -0.391, -0.813], [1.164, 2.018, 0.0]],
)
_OFFSET = _TO_RGB @ [16.0, 128.0, 128.0]
_AFFINE = np.column_stack([_TO_RGB, -_OFFSET])


def planes_to_rgb(message: Image) -> np.ndarray:
    """Converts an image in planes.

    Its step is that of the plane of brightness. A step that counts the bytes of all planes, which some drivers give,
    is understood where the amount of data tells so.

    Args:
        message: sensor_msgs/Image in one of `PLANAR_ENCODINGS`, of at least one pixel.

    Returns:
        uint8 RGB `(H, W, 3)`.

    Raises:
        ImageError: The sides are odd where colors are shared by 2 x 2 pixels, or its numbers contradict each other.
    """
    brightness, colors = _planes(message, _LAYOUTS[message.encoding])
    if colors.shape[:2] == brightness.shape:
        return cv2.transform(cv2.merge([brightness, colors]), _AFFINE)
    return cv2.cvtColorTwoPlane(brightness, colors, cv2.COLOR_YUV2RGB_NV12)


def _planes(message: Image, layout: _Layout) -> tuple[np.ndarray, np.ndarray]:
    """Brightness `(H, W)` and U and V `(h, w, 2)`; brightness without a copy."""
    height, width, name = message.height, message.width, message.encoding
    if height % layout.shrink or width % layout.shrink:
        raise ImageError(f"the image is {width} x {height} pixels; {name} needs an even width and height")
    data = np.frombuffer(message.data, np.uint8)
    step = _step_of_brightness(message, layout, len(data))
    rows, columns = height // layout.shrink, width // layout.shrink
    # Bytes from row to row, and in a row, of the plane or each of the two planes of color.
    stride, row = (2 * step // layout.shrink, 2 * columns) if layout.is_paired else (step // 2, columns)
    second = step * height + (0 if layout.is_paired else stride * rows)
    needed = second + stride * (rows - 1) + row
    if len(data) < needed:
        raise ImageError(
            f"the image has {len(data)} bytes of data, but {height} rows of {name} with a step of {step} take {needed}"
        )
    brightness: np.ndarray = np.ndarray((height, width), np.uint8, data, strides=(step, 1))
    if layout.is_paired:
        pairs: np.ndarray = np.ndarray((rows, columns, 2), np.uint8, data, step * height, (stride, 2, 1))
        # OpenCV takes no reversed view.
        return brightness, np.ascontiguousarray(pairs[:, :, ::-1]) if layout.v_first else pairs
    planes = [np.ndarray((rows, columns), np.uint8, data, start, (stride, 1)) for start in (step * height, second)]
    return brightness, cv2.merge(planes)


def _step_of_brightness(message: Image, layout: _Layout, size: int) -> int:
    width, height, step = message.width, message.height, message.step
    shared, rest = divmod(2 * step, layout.rows_in_all)
    if size == step * height and rest == 0 and shared >= width:
        return shared
    if step < width:
        raise ImageError(
            f"step is {step} bytes, but a row of {width} pixels in {message.encoding} takes {width} for brightness"
        )
    if not layout.is_paired and step % 2:
        raise ImageError(f"step is {step} bytes; {message.encoding} needs an even step, half of it for colors")
    return step
