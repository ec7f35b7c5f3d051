"""Files of every kind of pixel become the RGB that they show, or say why not; pictures are written whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from fcclip_core.errors import ImageError
from fcclip_core.images import image_files
from fcclip_core.images.image_files import encode_image, read_image, read_photograph, write_image
from fcclip_core.images.image_modes import to_rgb

RAMP = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
BYTES = np.arange(256).reshape(16, 16)


def gray(picture: np.ndarray) -> np.ndarray:
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    assert (picture == picture[..., :1]).all()
    return picture[..., 0].astype(int)


@pytest.mark.parametrize(
    ("values", "tolerance"),
    [
        (RAMP, 0),
        (RAMP * 0.5 + 0.5, None),
        (RAMP * 255, 0),
        (RAMP * 65535, 0),
        (RAMP * 7.5 - 3, 0),
        (RAMP * 1e-3, 0),
        (RAMP.astype(float) * 6e38 - 3e38, 1),
        (np.where(BYTES == 17, np.nan, RAMP), None),
        (np.where(BYTES == 17, np.inf, RAMP), None),
    ],
)
def test_tiffs_of_fractions_are_never_black(tmp_path: Path, values: np.ndarray, tolerance: int | None) -> None:
    Image.fromarray(values.astype(np.float32)).save(tmp_path / "f.tif")
    shown = gray(read_image(tmp_path / "f.tif"))
    assert shown.max() == 255
    if tolerance is not None:
        assert abs(shown - BYTES).max() <= tolerance


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (BYTES.astype(np.int32), BYTES),
        ((BYTES * 257).astype(np.int32), BYTES),
        ((BYTES * 257).astype(np.uint16), BYTES),
        ((BYTES * 16).astype(np.uint16), BYTES),
        ((BYTES * 4).astype(np.uint16), BYTES),
        ((BYTES << 20).astype(np.int32), BYTES),
        ((BYTES - 128).astype(np.int32), np.maximum(BYTES - 128, 0)),
        (np.zeros((16, 16), np.uint16), np.zeros((16, 16))),
    ],
)
def test_tiffs_of_wide_integers_are_never_black(tmp_path: Path, values: np.ndarray, expected: np.ndarray) -> None:
    """Scaled by the bits in use: a camera's 10, 12 or 14 bits in a file of 16 or 32."""
    Image.fromarray(values).save(tmp_path / "i.tif")
    assert gray(read_image(tmp_path / "i.tif")).tolist() == expected.tolist()


def test_big_endian_tiffs_and_16_bit_pngs_are_read_alike(tmp_path: Path) -> None:
    values = (BYTES * 257).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "i.png")
    Image.frombytes("I;16B", (16, 16), values.astype(">u2").tobytes()).save(tmp_path / "i.tif")
    assert (
        gray(read_image(tmp_path / "i.png")).tolist() == gray(read_image(tmp_path / "i.tif")).tolist() == BYTES.tolist()
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((4, 4), np.nan, np.float32), "none is finite"),
        (np.full((4, 4), -5, np.int32), "integers from -5 to -5; expected some above 0"),
    ],
)
def test_tiffs_without_a_picture_are_refused(tmp_path: Path, values: np.ndarray, message: str) -> None:
    Image.fromarray(values).save(tmp_path / "n.tif")
    with pytest.raises(ImageError, match=message):
        read_image(tmp_path / "n.tif")


@pytest.mark.parametrize("mode", ["1", "P", "PA", "LA", "La", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"])
def test_every_mode_of_colors_shows_what_it_says(mode: str) -> None:
    color = (255, 255, 255) if mode in ("1", "La", "LA") else (204, 51, 102)
    picture = Image.new("RGB", (5, 4), color)
    if mode == "LAB":
        picture = ImageCms.profileToProfile(
            picture, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
        )
    for step in {"La": ("LA", "La"), "RGBa": ("RGBA", "RGBa"), "PA": ("P", "PA"), "LAB": ()}.get(mode, (mode,)):
        picture = picture.convert(step)
    assert picture.mode == mode
    assert abs(to_rgb(picture)[2, 2].astype(int) - color).max() <= 4


def test_premultiplied_and_palette_transparency_keep_their_colors(tmp_path: Path) -> None:
    half = Image.new("RGBA", (4, 4), (200, 100, 50, 128))
    assert abs(to_rgb(half.convert("RGBa"))[0, 0].astype(int) - (200, 100, 50)).max() <= 1
    Image.new("P", (4, 4)).save(tmp_path / "p.png", transparency=0)
    assert read_image(tmp_path / "p.png").shape == (4, 4, 3)


def test_a_mode_that_pillow_cannot_convert_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Image.Image, mode: str) -> Image.Image:
        raise ValueError("conversion not supported")

    monkeypatch.setattr(Image.Image, "convert", refuse)
    with pytest.raises(ImageError, match="mode CMYK cannot be converted to RGB"):
        to_rgb(Image.new("CMYK", (2, 2)))


@pytest.mark.parametrize("name", ["turned.jpg", "turned.png", "turned.tif", "turned.webp"])
def test_orientation_is_applied_in_every_format(tmp_path: Path, name: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(tmp_path / name, exif=exif)
    assert read_image(tmp_path / name).shape == (60, 40, 3)


def test_damaged_exif_data_is_no_damaged_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(image: Image.Image) -> None:
        raise TypeError("unsupported operand")

    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    monkeypatch.setattr(image_files.ImageOps, "exif_transpose", fail)
    assert read_image(tmp_path / "a.png").shape == (40, 60, 3)


@pytest.mark.parametrize(
    "error", [IndexError("x"), NotImplementedError("pixel format"), KeyError("f"), RuntimeError("y")]
)
def test_whatever_a_decoder_raises_is_an_image_error(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    Image.new("RGB", (6, 4)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image.Image, "load", fail)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    with pytest.raises(ImageError, match=f"it cannot be decoded: {type(error).__name__}"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.avif", "a.dds", "a.webp", "a.jp2", "a.tif", "a.gif", "a.psd", "a.ico", "a.qoi"])
def test_cut_files_are_image_errors(tmp_path: Path, name: str) -> None:
    magic = {
        "a.dds": b"DDS \x7c\0\0\0" + b"\1" * 120,
        "a.psd": b"8BPS\0\1" + bytes(40),
        "a.qoi": b"qoif\0\0\0\4\0\0\0\4\4\1",
    }.get(name)
    if magic is None:
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        magic = whole[: len(whole) // 2]
    (tmp_path / name).write_bytes(magic)
    with pytest.raises(ImageError):
        read_image(tmp_path / name)


def test_a_photograph_in_heic_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(ImageError, match="HEIC cannot be read, convert it to JPEG or PNG"):
        read_image(tmp_path / "IMG_1.HEIC")


def test_a_picture_inside_a_picture_is_no_second_one(tmp_path: Path) -> None:
    """Phones keep a preview or a map of brightness behind the photograph."""
    photo = Image.new("RGB", (60, 40))
    photo.save(tmp_path / "phone.mpo", save_all=True, append_images=[Image.new("RGB", (6, 4))])
    assert not read_photograph(tmp_path / "phone.mpo").first_of_several


def test_a_picture_without_room_is_not_left_cut(tmp_path: Path) -> None:
    """Pillow writes to files past Python, and takes no notice of what the disk says."""
    write_image(tmp_path / "a.png", np.zeros((4, 4), np.uint16))
    assert Image.open(tmp_path / "a.png").mode == "I;16"
    (tmp_path / "full.png").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        write_image(tmp_path / "full.png", np.zeros((4, 4), np.uint8))


def test_a_size_that_a_format_cannot_hold_is_named() -> None:
    with pytest.raises(ImageError, match="65501 pixels are too large for a JPEG"):
        encode_image(np.zeros((1, 65501, 3), np.uint8), ".jpg")
