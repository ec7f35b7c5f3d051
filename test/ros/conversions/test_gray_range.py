"""16-bit gray images of thermal cameras: the range that becomes black to white, and texts that say it."""

from __future__ import annotations

import io
from array import array

import numpy as np
import PIL.Image
import pytest
from sensor_msgs.msg import CompressedImage, Image

from fcclip_core.errors import ImageError, SettingsError
from fcclip_ros.conversions.gray_range import FULL_RANGE, GrayRange
from fcclip_ros.conversions.images import to_rgb

# A scene of about 22 degrees, as a Boson or Lepton writes it: hundredths of a kelvin.
SCENE = np.array([[29_000, 29_500, 30_000], [29_250, 29_750, 60_000]], np.uint16)


def thermal(encoding: str = "mono16", pixels: np.ndarray = SCENE, big_endian: bool = False) -> Image:
    data = array("B", pixels.astype(">u2" if big_endian else "<u2").tobytes())
    height, width = pixels.shape
    return Image(height=height, width=width, step=2 * width, encoding=encoding, is_bigendian=int(big_endian), data=data)


def gray(message: Image | CompressedImage, text: str) -> list[list[int]]:
    rgb = to_rgb(message, gray_range=GrayRange.parse("gray16_range", text))
    assert (rgb == rgb[:, :, :1]).all() and rgb.dtype == np.uint8
    return rgb[:, :, 0].tolist()


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("encoding", ["mono16", "16UC1"])
def test_a_fixed_range_goes_from_black_to_white(encoding: str, big_endian: bool) -> None:
    expected = [[0, 128, 255], [64, 191, 255]]
    for text in ("29000 30000", "29000,30000", " 29000 , 30000 "):
        assert gray(thermal(encoding, big_endian=big_endian), text) == expected


def test_percentiles_are_those_of_each_image() -> None:
    ramp = np.arange(20_000, 20_100, dtype=np.uint16).reshape(10, 10)
    ramp[0, 0], ramp[9, 9] = 0, 65_535  # a dead pixel and the sun
    # Of 100 values the 2nd and the 98th: 20001 and 20097.
    levels = np.clip((ramp.astype(float) - 20_001) * 255 / 96, 0, 255).round()
    for offset in (0, 5_000):
        moved = np.where((ramp > 0) & (ramp < 65_535), ramp + offset, ramp).astype(np.uint16)
        assert gray(thermal(pixels=moved), "2% 98%") == levels.tolist()
    assert gray(thermal(pixels=SCENE), "0% 100%")[0][0] == 0 and gray(thermal(pixels=SCENE), "0% 100%")[1][2] == 255


def test_an_image_of_one_value_is_black_and_no_error() -> None:
    assert gray(thermal(pixels=np.full((2, 2), 30_000, np.uint16)), "1% 99%") == [[0, 0], [0, 0]]


def test_the_full_range_is_that_of_before_and_takes_no_16uc1() -> None:
    assert gray(thermal(), "full") == np.round(SCENE / 257.0).astype(int).tolist()
    with pytest.raises(ImageError, match="it is usually depth; subscribe to the color image, or set gray16_range"):
        to_rgb(thermal("16UC1"))
    assert GrayRange.parse("gray16_range", "0 65535").is_full


def test_a_png_has_the_range_too() -> None:
    buffer = io.BytesIO()
    PIL.Image.fromarray(SCENE).save(buffer, "PNG")
    message = CompressedImage(format="mono16; png compressed ", data=array("B", buffer.getvalue()))
    assert gray(message, "29000 30000") == [[0, 128, 255], [64, 191, 255]]


def test_other_images_keep_their_values() -> None:
    color = np.full((2, 2, 3), 257 * 100, np.uint16)
    message = Image(height=2, width=2, step=12, encoding="rgb16", data=array("B", color.tobytes()))
    assert (to_rgb(message, gray_range=GrayRange(0, 100)) == 100).all()


@pytest.mark.parametrize(
    "text",
    ["", "auto", "1 2 3", "300 200", "5 5", "0 65536", "-1 5", "1% 99", "1 99%", "10% 101%", "nan% 5%", "1e3 2e3"],
)
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"gray16_range is '.*'; it must be full, two values of 0 to 65535 such as"):
        GrayRange.parse("gray16_range", text)


def test_what_is_a_range() -> None:
    assert GrayRange.parse("", "full") == FULL_RANGE
    assert GrayRange.parse("", "0.5% 99.5%") == GrayRange(0.5, 99.5, is_percentiles=True)
