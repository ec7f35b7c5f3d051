"""JPEG and PNG that claim more than they hold, and those that hold what they claim."""

from __future__ import annotations

import io
import resource
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from fcclip_core.errors import ImageError
from fcclip_core.images.encoded_images import announced_size, check_size, decode, decode_jpeg
from fcclip_core.images.image_limits import MAX_PIXELS

PICTURE = np.kron(np.random.default_rng(3).integers(0, 256, (12, 16, 3)), np.ones((8, 8, 1))).astype(np.uint8)
END = b"\xff\xd9"


def jpeg(pixels: np.ndarray = PICTURE, mode: str = "RGB", **options: int | bool | str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def claiming(data: bytes, height: int, width: int) -> bytes:
    """The same JPEG with another size in its header."""
    place = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    return data[: place + 5] + struct.pack(">HH", height, width) + data[place + 9 :]


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, data: bytes, color: int = 2, bits: int = 8, interlaced: int = 0) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, interlaced))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def png_rows(pixels: np.ndarray) -> bytes:
    return b"".join(b"\0" + row.tobytes() for row in pixels)


def by_pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize(
    "data",
    [
        jpeg(),
        jpeg(progressive=True),
        jpeg(subsampling=0),
        jpeg(subsampling=1),
        jpeg(subsampling="4:1:1"),
        jpeg(restart_marker_rows=1),
        jpeg(keep_rgb=True),
        jpeg(mode="CMYK"),
        jpeg(PICTURE[:91, :77]),
    ],
    ids=["baseline", "progressive", "444", "422", "411", "restarts", "rgb", "cmyk", "odd"],
)
def test_jpegs_are_decoded_as_pillow_does(data: bytes) -> None:
    assert np.array_equal(decode(memoryview(data), MAX_PIXELS), by_pillow(data))


def test_gray_pictures_stay_gray_and_sixteen_bits_stay_deep() -> None:
    assert decode(jpeg(mode="L"), MAX_PIXELS).shape == (96, 128)
    deep = (np.arange(12 * 8) * 600).reshape(12, 8).astype(">u2")
    found = decode(png(8, 12, zlib.compress(png_rows(deep)), color=0, bits=16), MAX_PIXELS)
    assert found.dtype == np.uint16
    assert np.array_equal(found, deep)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_premature_end_of_a_jpeg_is_no_gray_picture(share: float, options: dict) -> None:
    whole = jpeg(quality=95, **options)
    short = whole[: int(len(whole) * share)]
    assert by_pillow(short + END).shape == PICTURE.shape  # which is why this is checked
    for data in (short, short + END, whole[: len(whole) // 2] + whole[int(len(whole) * (0.5 + share / 2)) :]):
        with pytest.raises(ImageError, match="cannot be decoded, it is probably cut short"):
            decode(data, MAX_PIXELS)


def test_a_cmyk_jpeg_without_its_data_is_refused_too() -> None:
    whole = jpeg(mode="CMYK")
    with pytest.raises(ImageError, match="its data are truncated"):
        decode(whole[: len(whole) // 2] + END, MAX_PIXELS)


def test_surplus_bytes_that_cameras_write_are_no_damage() -> None:
    whole = jpeg()
    for data in (whole + bytes(1000), whole[:-2] + bytes(40) + END, whole[:-2] + b"\x12\x34" * 30 + END):
        assert np.array_equal(decode(data, MAX_PIXELS), by_pillow(whole))


def test_a_jpeg_that_claims_much_costs_nothing() -> None:
    tiny = jpeg(np.zeros((16, 16, 3), np.uint8))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImageError, match="13000 x 13000 pixels, 169.0 million; at most 40 million"):
        decode(claiming(tiny, 13_000, 13_000), MAX_PIXELS)
    # Within the limit it is its bytes that betray it.
    for options in ({}, {"progressive": True}):
        lie = claiming(jpeg(np.zeros((16, 16, 3), np.uint8), **options), 6_300, 6_300)
        assert announced_size(lie) == (6_300, 6_300)
        with pytest.raises(ImageError, match="claims 6300 x 6300 pixels, but has too little data"):
            decode(lie, MAX_PIXELS)
        with pytest.raises(ImageError, match="too little"):
            decode_jpeg(lie, 8)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kilobytes


def test_a_jpeg_of_a_thousand_scans_is_refused() -> None:
    whole = jpeg(progressive=True)
    scan = whole[whole.rfind(b"\xff\xda") : -2]
    with pytest.raises(ImageError, match="more than 64 scans"):
        decode(whole[:-2] + scan * 1_000 + END, MAX_PIXELS)


def test_what_looks_like_scans_behind_the_picture_or_in_a_comment_does_not_count() -> None:
    whole = jpeg(progressive=True)
    comment = b"\xff\xfe" + struct.pack(">H", 602) + b"\xff\xda\x00\x02" * 150
    data = whole[:2] + comment + whole[2:] + b"\xff\xda\x00\x02" * 500
    assert np.array_equal(decode(data, MAX_PIXELS), by_pillow(whole))


@pytest.mark.parametrize("shrink", [1, 2, 4, 8])
def test_jpegs_are_decoded_smaller(shrink: int) -> None:
    found = decode_jpeg(jpeg(PICTURE[:91, :77]), shrink)
    assert found.shape == (-(-91 // shrink), -(-77 // shrink), 3)


@pytest.mark.parametrize(("color", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
@pytest.mark.parametrize("bottom", ["black", "not black"])
def test_pngs_without_some_of_their_rows_are_refused(color: int, channels: int, bottom: str) -> None:
    pixels = np.random.default_rng(0).integers(1, 256, (20, 10, channels)).astype(np.uint8)
    if bottom == "black":
        pixels[10:] = 0
    rows = png_rows(pixels)
    assert decode(png(10, 20, zlib.compress(rows), color), MAX_PIXELS).shape[:2] == (20, 10)
    # Ends of the data that Pillow notices and such that it does not: a compressed stream that is whole, but short.
    for data in (zlib.compress(rows)[:-12], zlib.compress(rows[: len(rows) // 2]), b""):
        with pytest.raises(ImageError, match="cannot be decoded, it is probably cut short"):
            decode(png(10, 20, data, color), MAX_PIXELS)


def test_interlaced_pngs_are_read_and_counted() -> None:
    # Pillow writes none: columns and rows of the seven passes over a picture of 4 x 7 pixels.
    passes = [(1, 1), (0, 1), (1, 1), (1, 2), (2, 2), (2, 4), (4, 3)]
    rows = b"".join(b"\0" + b"\x05" * (3 * columns) for columns, count in passes if columns for _ in range(count))
    assert (decode(png(4, 7, zlib.compress(rows), interlaced=1), MAX_PIXELS) == 5).all()
    with pytest.raises(ImageError, match="cut short"):
        decode(png(4, 7, zlib.compress(rows[:-13]), interlaced=1), MAX_PIXELS)


def test_a_png_that_claims_much_costs_nothing() -> None:
    data = zlib.compress(bytes(1000))
    with pytest.raises(ImageError, match="a side may have 65500"):
        decode(png(1, 400_000, data, color=0), MAX_PIXELS)
    with pytest.raises(ImageError, match="100.0 million; at most 40 million"):
        decode(png(10_000, 10_000, data), MAX_PIXELS)
    with pytest.raises(ImageError, match="claims 6000 x 6000 pixels, but has too little data"):
        decode(png(6_000, 6_000, data), MAX_PIXELS)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xe0" + b"\xff" * 50,
        jpeg()[:300],
        b"\x89PNG\r\n\x1a\n",
        png(0, 5, b""),
        png(5, 5, b"", color=7),
        png(5, 5, b"", bits=3),
        png(5, 5, zlib.compress(bytes(80)), color=3, bits=16),
        png(2**32 - 1, 2**32 - 1, b""),
        b"GIF89a" + bytes(50),
    ],
)
def test_whatever_is_broken_is_an_image_error(data: bytes) -> None:
    with pytest.raises(ImageError):
        decode(data, MAX_PIXELS)


def test_every_damage_to_a_picture_ends_in_a_picture_or_an_image_error() -> None:
    random = np.random.default_rng(7)
    wholes = [jpeg(), jpeg(progressive=True), png(16, 16, zlib.compress(png_rows(PICTURE[:16, :16])))]
    for number in range(300):
        data = bytearray(wholes[number % len(wholes)])
        for _ in range(random.integers(1, 6)):
            place, count = random.integers(0, len(data)), random.integers(1, 9)
            data[place : place + count] = random.integers(0, 256, random.integers(0, 9), np.uint8).tobytes()
        try:
            found = decode(bytes(data), 1_000_000)
        except ImageError:
            continue
        assert found.size <= 3_000_000


def test_the_size_is_checked_by_pixels_and_by_side() -> None:
    check_size(8_000, 5_000, MAX_PIXELS)
    check_size(65_500, 610, MAX_PIXELS)
    for height, width in ((8_000, 5_001), (1, 65_501), (65_501, 1), (2**32 - 1, 2**32 - 1), (2**32 - 1, 0)):
        with pytest.raises(ImageError, match="at most"):
            check_size(height, width, MAX_PIXELS)
