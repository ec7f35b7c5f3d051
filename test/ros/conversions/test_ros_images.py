"""Image messages: every encoding right or refused by name, and every way in which sizes can lie."""

from __future__ import annotations

import io
import sys
import textwrap
from array import array
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest
from rosbags.image import message_to_cvimage
from sensor_msgs.msg import CompressedImage, Image

from fcclip_core.errors import ImageError
from fcclip_ros.conversions import images
from fcclip_ros.conversions.images import ENCODINGS, cv_bridge, size_of, to_depth, to_labels, to_rgb

RGB = np.random.default_rng(5).integers(0, 256, (6, 8, 3), np.uint8)
RED, GREEN, BLUE = 200, 100, 30


def make_image(pixels: np.ndarray, encoding: str, padding: int = 0, big_endian: bool = False) -> Image:
    if pixels.dtype == np.uint16:
        pixels = pixels.astype(">u2" if big_endian else "<u2")
    rows = np.frombuffer(pixels.tobytes(), np.uint8).reshape(pixels.shape[0], -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=99)
    return Image(
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        step=rows.shape[1],
        is_bigendian=int(big_endian),
        data=array("B", rows.tobytes()),
    )


def mosaic(pattern: str, height: int = 6, width: int = 8) -> np.ndarray:
    """A sensor that looks at one flat color: the pattern's first two letters are the first row's first two pixels."""
    value = {"r": RED, "g": GREEN, "b": BLUE}
    cell = np.array([[value[pattern[0]], value[pattern[1]]], [value[pattern[2]], value[pattern[3]]]], np.uint8)
    return np.tile(cell, (height // 2, width // 2))


def compressed(pixels: np.ndarray, name: str, source: str = "rgb8") -> CompressedImage:
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, name)
    return CompressedImage(format=f"{source}; {name} compressed", data=array("B", buffer.getvalue()))


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize(
    ("encoding", "pixels"),
    [
        ("rgb8", RGB),
        ("bgr8", RGB[:, :, ::-1]),
        ("rgba8", np.dstack([RGB, np.full(RGB.shape[:2], 7, np.uint8)])),
        ("bgra8", np.dstack([RGB[:, :, ::-1], np.full(RGB.shape[:2], 7, np.uint8)])),
        ("rgb16", RGB.astype(np.uint16) * 257),
        ("bgr16", RGB[:, :, ::-1].astype(np.uint16) * 257),
        ("rgba16", np.dstack([RGB, RGB[:, :, 0]]).astype(np.uint16) * 257),
        ("bgra16", np.dstack([RGB[:, :, ::-1], RGB[:, :, 0]]).astype(np.uint16) * 257),
    ],
)
def test_colors_come_out_in_order_whatever_the_padding(encoding: str, pixels: np.ndarray, padding: int) -> None:
    assert np.array_equal(to_rgb(make_image(pixels, encoding, padding)), RGB)


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("padding", [0, 3])
def test_sixteen_bit_gray_is_scaled_in_either_byte_order(big_endian: bool, padding: int) -> None:
    pixels = np.array([[0, 257, 32_896, 65_535]], np.uint16)
    rgb = to_rgb(make_image(pixels, "mono16", padding, big_endian))
    assert rgb.tolist() == [[[0] * 3, [1] * 3, [128] * 3, [255] * 3]]


def test_gray_becomes_three_equal_channels() -> None:
    assert np.array_equal(to_rgb(make_image(RGB[:, :, 0], "mono8", 2)), np.repeat(RGB[:, :, :1], 3, axis=2))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_mosaics_of_a_flat_color_give_that_color(pattern: str, bits: int) -> None:
    pixels = mosaic(pattern) if bits == 8 else mosaic(pattern).astype(np.uint16) * 257
    rgb = to_rgb(make_image(pixels, f"bayer_{pattern}{bits}"))
    assert (rgb == (RED, GREEN, BLUE)).all()


@pytest.mark.parametrize(("encoding", "order"), [("yuv422", "uyvy"), ("uyvy", "uyvy"), ("yuv422_yuy2", "yuyv")])
def test_yuv_pairs_share_their_color(encoding: str, order: str) -> None:
    # Two pixels, dark and bright, of one reddish color: Y 80 and 180, U 90, V 200 (BT.601, video range).
    quad = {"u": 90, "v": 200, "y": [80, 180]}
    luma = iter(quad["y"])
    row = [next(luma) if sign == "y" else quad[sign] for sign in order]
    rgb = to_rgb(make_image(np.array([row], np.uint8).reshape(1, 2, 2), encoding)).astype(int)
    expected = [
        [1.164 * (y - 16) + 1.596 * 72, 1.164 * (y - 16) - 0.813 * 72 + 0.391 * 38, 1.164 * (y - 16) - 2.018 * 38]
        for y in (80, 180)
    ]
    assert np.abs(rgb - np.clip(expected, 0, 255)).max() <= 2


@pytest.mark.parametrize("encoding", images._ENCODINGS)
def test_agrees_with_rosbags_image(encoding: str) -> None:
    layout = images._ENCODINGS[encoding]
    shape = (6, 8) if layout.channels == 1 else (6, 8, layout.channels)
    largest = 65_535 if layout.depth == "u2" else 255
    pixels = np.random.default_rng(1).integers(0, largest, shape, np.uint16 if layout.depth == "u2" else np.uint8)
    message = make_image(pixels, encoding)
    # rosbags-image cuts fractions off where it scales 16 bits; this rounds.
    assert np.abs(to_rgb(message).astype(int) - message_to_cvimage(message, "rgb8").astype(int)).max() <= 1


@pytest.mark.skipif(cv_bridge() is None, reason="cv_bridge is not installed, or not for this numpy")
def test_agrees_with_and_without_cv_bridge(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding, layout in images._ENCODINGS.items():
        size = (6, 8 * layout.channels * (2 if layout.depth == "u2" else 1))
        message = make_image(np.random.default_rng(1).integers(0, 256, size).astype(np.uint8), encoding)
        message.width = 8
        with_bridge = to_rgb(message)
        with monkeypatch.context() as without:
            without.setattr(images, "cv_bridge", lambda: None)
            assert np.abs(with_bridge.astype(int) - to_rgb(message).astype(int)).max() <= 1, encoding


def test_rgb8_is_a_view_of_the_message() -> None:
    message = make_image(RGB, "rgb8", padding=4)
    pixels = to_rgb(message)
    message.data[0] = message.data[0] ^ 255
    assert pixels[0, 0, 0] == RGB[0, 0, 0] ^ 255


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"height": 0}, "8 x 0, so it has no pixels"),
        ({"width": 0}, "0 x 6, so it has no pixels"),
        ({"height": 0, "width": 0, "step": 0, "data": array("B")}, "0 x 0, so it has no pixels"),
        ({"step": 23}, "step is 23 bytes, but a row of 8 pixels in rgb8 takes 24"),
        ({"step": 0}, "step is 0 bytes"),
        ({"data": array("B", bytes(143))}, "143 bytes of data, but 6 rows with a step of 24 take 144"),
        ({"data": array("B")}, "0 bytes of data"),
        ({"height": 4_000_000_000}, "bytes of data, but 4000000000 rows"),
        *(
            ({"encoding": name, "width": 7}, f"7 pixels wide; {name} needs an even width")
            for name in ("yuv422", "uyvy", "yuyv", "yuv422_yuy2")
        ),
        ({"height": 2**32 - 1, "width": 2**32 - 1, "step": 2**32 - 1}, "step is 4294967295 bytes, but a row"),
        ({"height": 2**32 - 1, "width": 2**32 - 1, "encoding": "mono8", "step": 2**32 - 1}, "18446744065119617025"),
        ({"height": 2**32 - 1, "width": 0}, "0 x 4294967295, so it has no pixels"),
        ({"height": 1, "width": 400_000, "step": 3 * 400_000}, "144 bytes of data, but 1 rows"),
        ({"step": 2**32 - 1}, "144 bytes of data, but 6 rows with a step of 4294967295"),
        ({"encoding": "bayer_rggb8", "width": 1}, "needs at least 2 x 2"),
        ({"encoding": "16UC1"}, "encoding '16UC1' is not supported .it is usually depth"),
        ({"encoding": "8UC3"}, "publish it as rgb8 or bgr8"),
        ({"encoding": "nv16"}, "encoding 'nv16' is not supported; supported are rgb8, "),
        ({"encoding": ""}, "encoding '' is not supported"),
        ({"encoding": "x" * 1_000_000}, "encoding 'x{40}' is not"),
        ({"encoding": "rgb8\0"}, r"encoding 'rgb8.x00' is not supported"),
        ({"encoding": "rgb8 \n\x1b[31m"}, r"encoding 'rgb8 .n.x1b"),
    ],
)
def test_contradictions_are_refused_with_numbers(change: dict, complaint: str) -> None:
    message = make_image(RGB, "rgb8")
    for name, value in change.items():
        setattr(message, name, value)
    with pytest.raises(ImageError, match=complaint) as refusal:
        to_rgb(message)
    assert len(str(refusal.value)) < 500


@pytest.mark.parametrize("shape", [(1, 400_000), (400_000, 1), (6400, 6400)])
@pytest.mark.parametrize("encoding", ["mono8", "rgb8"])
def test_images_with_too_long_a_side_or_too_many_pixels_are_refused(shape: tuple[int, int], encoding: str) -> None:
    message = make_image(np.zeros((*shape, 3) if encoding == "rgb8" else shape, np.uint8), encoding)
    with pytest.raises(ImageError, match="a side may have 65500 at most|at most 40 million are allowed"):
        to_rgb(message)
    assert size_of(message) is None


def test_what_a_converter_raises_is_a_bad_image(monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (cv2.error("assertion failed"), MemoryError(), OverflowError("too large"), RuntimeError("x" * 10_000)):

        def fail(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(images, "_as_rgb", fail)
        monkeypatch.setattr(images, "decode", fail)
        for message in (make_image(RGB, "bgr8"), compressed(RGB, "png")):
            with pytest.raises(ImageError, match=f"cannot be converted .{type(error).__name__}.: ") as refusal:
                to_rgb(message)
            assert len(str(refusal.value)) < 500


def test_random_messages_are_images_or_image_errors() -> None:
    random = np.random.default_rng(2)
    encodings = [*ENCODINGS, "16UC1", "32FC1", "8UC1", "nv21", "nv24", "", "RGB8", "bayer_rggb", "yuv422_yuy2 "]
    sizes = [0, 1, 2, 3, 4, 5, 7, 8, 65_536, 2**31, 2**32 - 1]
    read = 0
    for _ in range(4_000):
        message = Image(
            height=int(random.choice(sizes)),
            width=int(random.choice(sizes)),
            encoding=str(random.choice(encodings)),
            step=int(random.choice([0, 1, 7, 16, 24, 33, 64, 2**32 - 1])),
            is_bigendian=int(random.choice([0, 1, 255])),
            data=array("B", random.integers(0, 256, int(random.choice([0, 1, 63, 144, 400])), np.uint8).tobytes()),
        )
        for convert in (to_rgb, to_depth, to_labels):
            try:
                assert convert(message).shape[:2] == (message.height, message.width)
                read += 1
            except ImageError as error:
                assert len(str(error)) < 500
        size_of(message)
    assert read > 150


def test_odd_formats_of_compressed_images_do_no_harm() -> None:
    for odd in (
        "",
        ";",
        "jpeg\0",
        "x" * 1_000_000,
        "bayer_rggb8; jpeg",
        "bayer_; png",
        "bayer_rggb16; jpeg compressed ",
    ):
        message = compressed(RGB, "png")
        message.format = odd
        assert np.array_equal(to_rgb(message), RGB)
        message.data = array("B", b"neither")
        with pytest.raises(ImageError, match="neither JPEG nor PNG") as refusal:
            to_rgb(message)
        assert len(str(refusal.value)) < 200
    with pytest.raises(ImageError, match="1 x 1; bayer_rggb8 needs at least 2 x 2"):
        to_rgb(compressed(RGB[:1, :1, 0], "png", "bayer_rggb8"))


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_the_announced_size_is_that_of_the_picture_or_none(kind: str) -> None:
    whole = compressed(RGB, kind)
    assert size_of(whole) == (6, 8)
    assert size_of(whole, 47) is None
    assert size_of(CompressedImage(format=kind, data=array("B", bytes(whole.data)[:20]))) is None
    with pytest.raises(ImageError, match="8 x 6 pixels"):
        to_rgb(whole, 47)


def test_a_jpeg_whose_data_end_early_is_a_bad_frame() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    whole = compressed(noise, "jpeg")
    whole.data = array("B", bytes(whole.data)[: len(whole.data) // 2] + b"\xff\xd9")
    with pytest.raises(ImageError, match="cut short: its data are truncated"):
        to_rgb(whole)


def test_a_last_row_without_padding_and_surplus_data_are_accepted() -> None:
    message = make_image(RGB, "rgb8", padding=4)
    message.data = message.data[:-4]
    assert np.array_equal(to_rgb(message), RGB)
    message.data = message.data + array("B", bytes(1000))
    assert np.array_equal(to_rgb(message), RGB)


@pytest.mark.parametrize(
    "encoding", [name for name in images._ENCODINGS if not name.startswith(("yuv", "bayer", "uyvy", "yuyv"))]
)
def test_one_pixel_is_an_image(encoding: str) -> None:
    layout = images._ENCODINGS[encoding]
    pixels = np.full((1, 1, layout.channels), 65_535 if layout.depth == "u2" else 255)
    rgb = to_rgb(make_image(pixels.astype(np.uint16 if layout.depth == "u2" else np.uint8), encoding))
    assert rgb.tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("height", "width"), [(2, 2), (2, 9), (7, 2), (3, 3), (5, 6)])
def test_small_and_odd_mosaics_have_their_colors(height: int, width: int, bits: int) -> None:
    # Of two rows or columns OpenCV makes black.
    pixels = mosaic("grbg", 10, 10)[:height, :width]
    message = make_image(pixels if bits == 8 else pixels.astype(np.uint16) * 257, f"bayer_grbg{bits}")
    assert to_rgb(message).shape == (height, width, 3)
    assert (to_rgb(message) == (RED, GREEN, BLUE)).all()


def test_forty_eight_megapixels_pass_where_the_limit_is_raised() -> None:
    pixels = np.zeros((6000, 8000, 3), np.uint8)
    pixels[-1, -1] = (1, 2, 3)
    message = make_image(pixels, "bgr8")
    assert to_rgb(message, 48_000_000)[-1, -1].tolist() == [3, 2, 1]
    assert size_of(message, 48_000_000) == (6000, 8000)
    with pytest.raises(ImageError, match=r"8000 x 6000 pixels, 48\.0 million; at most 40 million .* max_image_pixels"):
        to_rgb(message)
    assert size_of(message) is None


def test_png_is_exact_and_jpeg_is_close() -> None:
    gradient = np.dstack(np.meshgrid(np.arange(0, 160, 5), np.arange(0, 240, 10))).astype(np.uint8)
    pixels = np.dstack([gradient, np.full(gradient.shape[:2], 60, np.uint8)])
    assert np.array_equal(to_rgb(compressed(pixels, "png")), pixels)
    assert np.abs(to_rgb(compressed(pixels, "jpeg")).astype(int) - pixels).mean() < 6


def test_compressed_gray_sixteen_bit_alpha_and_mosaics() -> None:
    assert np.array_equal(to_rgb(compressed(RGB[:, :, 0], "png", "mono8"))[:, :, 2], RGB[:, :, 0])
    deep = compressed(RGB[:, :, 0].astype(np.uint16) * 257, "png", "mono16")
    assert np.array_equal(to_rgb(deep)[:, :, 1], RGB[:, :, 0])
    with_alpha = np.dstack([RGB, np.full(RGB.shape[:2], 3, np.uint8)])
    assert np.array_equal(to_rgb(compressed(with_alpha, "png", "rgba8")), RGB)
    assert (to_rgb(compressed(mosaic("gbrg"), "png", "bayer_gbrg8")) == (RED, GREEN, BLUE)).all()


@pytest.mark.parametrize("name", ["jpeg", "png"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_truncated_pictures_are_refused(name: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    whole = compressed(noise, name)
    whole.data = whole.data[: int(len(whole.data) * share)]
    with pytest.raises(ImageError, match="cannot be decoded, it is probably cut short|neither JPEG nor PNG"):
        to_rgb(whole)


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (CompressedImage(format="jpeg"), "has no data"),
        (CompressedImage(format="jpeg", data=array("B", b"hello, this is no picture")), "neither JPEG nor PNG"),
        (CompressedImage(format="16UC1; compressedDepth", data=array("B", bytes(99))), "compressed depth image"),
    ],
)
def test_what_is_no_picture_is_refused(message: CompressedImage, complaint: str) -> None:
    with pytest.raises(ImageError, match=complaint):
        to_rgb(message)


def _install_cv_bridge(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "cv_bridge.py").write_text(textwrap.dedent(body))
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.delitem(sys.modules, "cv_bridge", raising=False)
    cv_bridge.cache_clear()


@pytest.fixture
def forget_cv_bridge() -> object:
    yield
    sys.modules.pop("cv_bridge", None)
    cv_bridge.cache_clear()


@pytest.mark.parametrize("fault", ["raise AttributeError('_ARRAY_API not found')", "import os; os.abort()"])
def test_a_broken_cv_bridge_is_not_used(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forget_cv_bridge: object
) -> None:
    _install_cv_bridge(tmp_path, fault, monkeypatch)
    assert cv_bridge() is None
    assert np.array_equal(to_rgb(make_image(RGB[:, :, ::-1], "bgr8")), RGB)


def test_a_working_cv_bridge_is_used_after_the_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forget_cv_bridge: object
) -> None:
    body = """
        import numpy
        class CvBridge:
            def cv2_to_imgmsg(self, pixels, encoding):
                return pixels
            def imgmsg_to_cv2(self, message, encoding):
                return numpy.full((2, 2, 3), 7, numpy.uint8)
    """
    _install_cv_bridge(tmp_path, body, monkeypatch)
    assert (to_rgb(make_image(RGB, "bgr8")) == 7).all()
    with pytest.raises(ImageError, match="step is 1 bytes"):
        message = make_image(RGB, "bgr8")
        message.step = 1
        to_rgb(message)


def test_opencv_reads_padded_rows_without_a_copy() -> None:
    message = make_image(RGB, "rgb8", padding=5)
    assert np.array_equal(cv2.cvtColor(to_rgb(message), cv2.COLOR_RGB2BGR), RGB[:, :, ::-1])
