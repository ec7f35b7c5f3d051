"""Images in planes: colors of every layout and step that drivers give, and contradictions by name.

Layouts: V4L2's (kernel.org, userspace-api/media/v4l/pixfmt-yuv-planar). Steps: camera_ros and the D-Robotics nodes
give that of the plane of brightness, which may be padded; depthai-ros gives data.size() / height, so 1.5 times the
width (depthai_bridge/src/ImageConverter.cpp).
"""

from __future__ import annotations

from array import array

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import Image

from fcclip_core.errors import ImageError
from fcclip_ros.conversions.images import size_of, to_rgb
from fcclip_ros.conversions.planar_yuv import PLANAR_ENCODINGS

HEIGHT, WIDTH = 8, 12
DICE = np.random.default_rng(6)
Y = DICE.integers(30, 220, (HEIGHT, WIDTH), np.uint8)
U, V = DICE.integers(90, 170, (2, HEIGHT // 2, WIDTH // 2), np.uint8)


def rows(plane: np.ndarray, stride: int) -> bytes:
    flat = plane.reshape(plane.shape[0], -1)
    return np.pad(flat, ((0, 0), (0, stride - flat.shape[1])), constant_values=99).tobytes()


def planar(encoding: str, padding: int = 0, *, step: int | None = None) -> Image:
    stride = WIDTH + padding
    if encoding == "nv24":
        u, v = (plane.repeat(2, axis=0).repeat(2, axis=1) for plane in (U, V))
        colors = rows(np.dstack([u, v]), 2 * stride)
    elif encoding in ("nv12", "nv21"):
        colors = rows(np.dstack([U, V] if encoding == "nv12" else [V, U]), stride)
    else:
        colors = rows(U, stride // 2) + rows(V, stride // 2)
    data = array("B", rows(Y, stride) + colors)
    return Image(height=HEIGHT, width=WIDTH, encoding=encoding, step=stride if step is None else step, data=data)


def expected() -> np.ndarray:
    """BT.601, video range."""
    y = 1.164 * (Y.astype(float) - 16)
    u, v = (plane.astype(float).repeat(2, axis=0).repeat(2, axis=1) - 128 for plane in (U, V))
    return np.clip(np.dstack([y + 1.596 * v, y - 0.391 * u - 0.813 * v, y + 2.018 * u]), 0, 255)


@pytest.mark.parametrize("padding", [0, 4, 20])
@pytest.mark.parametrize("encoding", PLANAR_ENCODINGS)
def test_colors_are_those_of_the_planes_whatever_the_padding(encoding: str, padding: int) -> None:
    message = planar(encoding, padding)
    rgb = to_rgb(message)
    assert rgb.shape == (HEIGHT, WIDTH, 3) and rgb.dtype == np.uint8
    assert np.abs(rgb - expected()).max() <= 2
    assert size_of(message) == (HEIGHT, WIDTH)


@pytest.mark.parametrize("encoding", ["nv12", "nv21", "YUV420"])
def test_unpadded_images_are_as_opencv_reads_them(encoding: str) -> None:
    code = {"nv12": cv2.COLOR_YUV2RGB_NV12, "nv21": cv2.COLOR_YUV2RGB_NV21, "YUV420": cv2.COLOR_YUV2RGB_I420}[encoding]
    message = planar(encoding)
    assert np.array_equal(to_rgb(message), cv2.cvtColor(np.frombuffer(message.data, np.uint8).reshape(-1, WIDTH), code))


@pytest.mark.parametrize(("encoding", "factor"), [("YUV420", 1.5), ("nv12", 1.5), ("nv24", 3)])
@pytest.mark.parametrize("padding", [0, 4])
def test_a_step_that_counts_all_planes_is_understood(encoding: str, factor: float, padding: int) -> None:
    message = planar(encoding, padding, step=int(factor * (WIDTH + padding)))
    assert np.array_equal(to_rgb(message), to_rgb(planar(encoding, padding)))


def test_a_last_row_without_padding_and_surplus_data_are_accepted() -> None:
    message = planar("nv21", 4)
    message.data = message.data[:-4]
    assert np.array_equal(to_rgb(message), to_rgb(planar("nv21")))
    message.data = message.data + array("B", bytes(1000))
    assert np.array_equal(to_rgb(message), to_rgb(planar("nv21")))


def test_nv24_may_have_odd_sides() -> None:
    y, colors = np.full((3, 5), 120, np.uint8), np.full((3, 5, 2), 128, np.uint8)
    message = Image(height=3, width=5, step=5, encoding="nv24", data=array("B", y.tobytes() + colors.tobytes()))
    assert (to_rgb(message) == round(1.164 * (120 - 16))).all()


@pytest.mark.parametrize(
    ("encoding", "change", "complaint"),
    [
        ("nv12", {"width": 11}, "11 x 8 pixels; nv12 needs an even width and height"),
        ("i420", {"height": 7}, "12 x 7 pixels; i420 needs an even width and height"),
        ("nv21", {"step": 11}, "step is 11 bytes, but a row of 12 pixels in nv21 takes 12"),
        ("nv12", {"data": array("B", bytes(143))}, "143 bytes of data, but 8 rows of nv12 with a step of 12 take 144"),
        ("yuv420", {"data": array("B", bytes(143))}, "143 bytes of data, but 8 rows of yuv420 with a step of 12 take"),
        ("nv24", {"data": array("B", bytes(144))}, "144 bytes of data, but 8 rows of nv24 with a step of 12 take 288"),
        ("nv12", {"data": array("B", bytes(96))}, "96 bytes of data, but 8 rows of nv12 with a step of 12 take 144"),
        ("i420", {"step": 13}, "step is 13 bytes; i420 needs an even step"),
        ("nv12", {"height": 0}, "12 x 0, so it has no pixels"),
        ("nv12", {"height": 2**31, "width": 2**31, "step": 2**31}, "a side may have 65500 at most"),
        ("nv12", {"step": 2**32 - 1}, "144 bytes of data, but 8 rows of nv12 with a step of 4294967295"),
    ],
)
def test_contradictions_are_refused_with_numbers(encoding: str, change: dict, complaint: str) -> None:
    message = planar(encoding)
    for name, value in change.items():
        setattr(message, name, value)
    with pytest.raises(ImageError, match=complaint):
        to_rgb(message)
