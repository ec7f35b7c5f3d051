"""Depth of image_transport's compressedDepth: the values that went in, or a sentence about what is broken."""

from __future__ import annotations

import struct
from array import array

import cv2
import numpy as np
import pytest
from packed_depth import DEPTH_MAX, QUANTIZATION, packed_depth
from sensor_msgs.msg import CompressedImage

from fcclip_core.errors import ImageError
from fcclip_ros.conversions.images import depth_size, to_depth, to_rgb

DICE = np.random.default_rng(4)
MILLIMETERS = np.where(DICE.random((37, 53)) < 0.3, 0, DICE.integers(1, 10_001, (37, 53))).astype(np.uint16)


def message(data: bytes, format_: str = "16UC1; compressedDepth png") -> CompressedImage:
    return CompressedImage(format=format_, data=array("B", data))


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


@pytest.mark.parametrize("codec", ["png", "rvl"])
def test_millimeters_are_exact(codec: str) -> None:
    packed = packed_depth(MILLIMETERS, "16UC1", codec)
    depth = to_depth(packed)
    assert depth.dtype == np.uint16 and np.array_equal(depth, MILLIMETERS)
    assert depth_size(packed) == MILLIMETERS.shape


@pytest.mark.parametrize("codec", ["png", "rvl"])
def test_meters_are_within_the_quantization_and_unknown_ones_stay_unknown(codec: str) -> None:
    meters = DICE.uniform(0.2, 12.0, (21, 30)).astype(np.float32)
    meters[3, 4] = np.nan
    depth = to_depth(packed_depth(meters, "32FC1", codec))
    known = meters < DEPTH_MAX
    assert depth.dtype == np.float32 and np.array_equal(np.isfinite(depth), known)
    # One step of the inverse depth: d(depth) = depth^2 / A.
    step = depth[known] ** 2 / (QUANTIZATION * (QUANTIZATION + 1))
    assert (np.abs(depth[known] - meters[known]) <= 1.01 * step).all()


def test_inverse_depth_by_hand() -> None:
    # A = 10100, B = 1 - A / 10 = -1009: 4041 stands for 10100 / 5050 = 2 m.
    data = struct.pack("<iff", 0, 10100, -1009) + png(np.array([[4041, 0]], np.uint16))
    assert to_depth(message(data, "32FC1; compressedDepth png")).tolist() == [[2.0, pytest.approx(np.nan, nan_ok=True)]]


def test_rvl_by_hand() -> None:
    # 0, 0, 5, 3: two zeros, two others, +5 (zigzag 10: nibbles 2 + "more", 1), -2 (zigzag 3); the word is 0x22a13000.
    data = bytes(12) + struct.pack("<II", 2, 2) + bytes.fromhex("0030a122")
    assert to_depth(message(data, "16UC1; compressedDepth rvl")).tolist() == [[0, 0], [5, 3]]


def test_rvl_of_zeros_alone_of_a_full_range_and_of_values_alone() -> None:
    for values in (np.zeros((480, 640)), np.full((3, 5), 10_000), np.array([[1, 9999, 1, 0, 9999]])):
        assert np.array_equal(to_depth(packed_depth(values, "16UC1", "rvl")), values)


@pytest.mark.parametrize(
    "format_", ["16UC1", "16UC1; compressedDepth", "16UC1;compressedDepth png", "mono16; compressedDepth png "]
)
def test_formats_of_older_releases_are_read(format_: str) -> None:
    packed = packed_depth(MILLIMETERS, "16UC1")
    packed.format = format_
    assert np.array_equal(to_depth(packed), MILLIMETERS)


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (message(b""), "has 0 bytes; expected a header of 12 bytes and a PNG"),
        (message(bytes(12), "16UC1; compressedDepth rvl"), "has 12 bytes; expected a header of 12 bytes and a RVL"),
        (message(png(MILLIMETERS)), "begins with a PNG; expected the header of 12 bytes"),
        (message(bytes(12) + b"no picture at all"), "17 bytes after its header. is no PNG, as its format says"),
        (message(bytes(12) + png(MILLIMETERS.astype(np.uint8))), "1 channel of 8 bits; expected one channel of 16"),
        (message(bytes(12) + png(np.zeros((4, 4, 3), np.uint8))), "3 channels of 8 bits; expected one channel of 16"),
        (message(bytes(12) + png(MILLIMETERS)[:-400]), "cannot be decoded, it is probably cut short"),
        (message(bytes(99), "8UC1; compressedDepth png"), "format of the compressed depth is '8UC1; compressedDepth"),
        (message(bytes(99), "16UC1; compressedDepth zstd"), "expected 16UC1 or 32FC1, then "),
        (message(bytes(99), "rgb8; jpeg compressed bgr8"), "expected 16UC1 or 32FC1, then "),
        (message(bytes(99), "x" * 1_000_000), "expected 16UC1 or 32FC1, then "),
        (message(struct.pack("<iff", 0, np.nan, 1) + png(MILLIMETERS), "32FC1; compressedDepth png"), "A = nan, B = 1"),
        (message(bytes(12) + png(MILLIMETERS), "32FC1; compressedDepth png"), "A = 0, B = 0; expected finite numbers"),
        (
            message(bytes(15), "16UC1; compressedDepth rvl"),
            "RVL image has 3 bytes; it begins with its width and height",
        ),
        (message(bytes(40), "16UC1; compressedDepth rvl"), "0 x 0, so it has no pixels"),
    ],
)
def test_what_is_broken_is_said(broken: CompressedImage, complaint: str) -> None:
    with pytest.raises(ImageError, match=complaint) as refusal:
        to_depth(broken)
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9])
def test_rvl_that_is_cut_short_is_said(part: float) -> None:
    packed = packed_depth(MILLIMETERS, "16UC1", "rvl")
    packed.data = packed.data[: 20 + int(part * (len(packed.data) - 20))]
    with pytest.raises(ImageError, match="damaged or cut short: it has 53 x 37 pixels"):
        to_depth(packed)


def test_rvl_whose_runs_are_empty_is_damaged() -> None:
    data = bytes(12) + struct.pack("<II", 20, 10) + bytes(400)
    with pytest.raises(ImageError, match="damaged or cut short: it has 20 x 10 pixels"):
        to_depth(message(data, "16UC1; compressedDepth rvl"))


def test_rvl_of_noise_is_an_error_and_never_a_crash() -> None:
    for _ in range(300):
        noise = DICE.integers(0, 256, int(DICE.integers(0, 400)), np.uint8).tobytes()
        data = bytes(12) + struct.pack("<II", 20, 10) + noise
        try:
            assert to_depth(message(data, "16UC1; compressedDepth rvl")).shape == (10, 20)
        except ImageError as error:
            assert "RVL image" in str(error)


@pytest.mark.parametrize("codec", ["png", "rvl"])
def test_more_pixels_than_allowed_are_refused_before_they_are_decoded(codec: str) -> None:
    packed = packed_depth(MILLIMETERS, "16UC1", codec)
    with pytest.raises(ImageError, match="53 x 37 pixels, 0.0 million; at most 0.001 million are allowed"):
        to_depth(packed, 1000)
    huge = bytes(12) + struct.pack("<II", 60_000, 60_000) + bytes(8)
    with pytest.raises(ImageError, match="3600.0 million; at most 40 million"):
        to_depth(message(huge, "16UC1; compressedDepth rvl"))


def test_it_is_no_color_image() -> None:
    with pytest.raises(ImageError, match="is a compressed depth image; subscribe to the color camera's"):
        to_rgb(packed_depth(MILLIMETERS, "16UC1"))
