"""Videos: the frames' own times, any name, and labeled ones that are whole or not there."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from fcclip_core.errors import ImageError
from fcclip_core.images.video_files import FALLBACK_RATE, VideoFile, movie, plainly_named, storable_rate

# Matroska, written by hand: EBML needs no more than ids, lengths and contents.


def element(number: int, content: bytes) -> bytes:
    return (
        number.to_bytes((number.bit_length() + 7) // 8, "big") + (len(content) | 1 << 56).to_bytes(8, "big") + content
    )


def whole_number(value: int) -> bytes:
    return value.to_bytes(max(1, (value.bit_length() + 7) // 8), "big")


def save_mkv(path: Path, milliseconds: list[int], height: int = 48, width: int = 64) -> Path:
    """Frames of motion JPEG at these times."""
    header = element(0x1A45DFA3, element(0x4282, b"matroska") + element(0x4287, b"\4") + element(0x4285, b"\2"))
    info = element(0x1549A966, element(0x2AD7B1, whole_number(1_000_000)))
    video = element(0xE0, element(0xB0, whole_number(width)) + element(0xBA, whole_number(height)))
    track = element(0xD7, b"\1") + element(0x73C5, b"\1") + element(0x83, b"\1") + element(0x86, b"V_MJPEG") + video
    blocks = b""
    for index, time in enumerate(milliseconds):
        good, jpeg = cv2.imencode(".jpg", np.full((height, width, 3), 20 * index, np.uint8))
        block = b"\x81" + (0).to_bytes(2, "big") + b"\x80" + jpeg.tobytes()
        blocks += element(0x1F43B675, element(0xE7, whole_number(time)) + element(0xA3, block))
    path.write_bytes(header + element(0x18538067, info + element(0x1654AE6B, element(0xAE, track)) + blocks))
    return path


def save_mp4(path: Path, frames: int = 7, rate: float = 10.0) -> Path:
    with movie(path, rate, (48, 64)) as show:
        for index in range(frames):
            show(np.full((48, 64, 3), 30 * index, np.uint8))
    return path


def test_times_of_a_variable_rate_are_the_files_own(tmp_path: Path) -> None:
    milliseconds = [0, 33, 66, 100, 133, 1133, 2133, 3133, 3166, 3200, 3233, 8000]
    video = VideoFile.open(save_mkv(tmp_path / "vfr.mkv", milliseconds))
    assert [frame.time for frame in video.frames()] == pytest.approx([time / 1000 for time in milliseconds])
    assert video.packets == 12 and video.rate == pytest.approx(11 / 8)


def test_times_begin_at_the_first_frame(tmp_path: Path) -> None:
    video = VideoFile.open(save_mkv(tmp_path / "late.mkv", [5000, 5100, 5250]))
    assert [frame.time for frame in video.frames()] == pytest.approx([0, 0.1, 0.25])


def test_frames_without_times_of_their_own_follow_by_the_rate(tmp_path: Path) -> None:
    video = VideoFile.open(save_mkv(tmp_path / "still.mkv", [0, 0, 0]))
    assert [frame.time for frame in video.frames()] == pytest.approx([0, 1 / video.rate, 2 / video.rate])


def test_the_stated_rate_stands_where_the_times_agree(tmp_path: Path) -> None:
    assert VideoFile.open(save_mp4(tmp_path / "a.mp4")).rate == 10.0
    assert [frame.time for frame in VideoFile.open(tmp_path / "a.mp4").frames()] == pytest.approx(
        [i / 10 for i in range(7)]
    )


def test_the_announced_number_of_frames_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCV makes it from length and rate: 241 for 12 frames."""
    capture = cv2.VideoCapture(str(save_mkv(tmp_path / "vfr.mkv", [0, 33, 66, 8000])))
    assert VideoFile.open(tmp_path / "vfr.mkv").packets == 4 != capture.get(cv2.CAP_PROP_FRAME_COUNT)


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        (211.222, 211.22),
        (29.97002997, 29.97),
        (10.0, 10.0),
        (59.9401, 59.94),
        (7000.5, 1000.0),
        (90000, 1000.0),
        (1e-6, 0.01),
        (0.0, FALLBACK_RATE),
        (-1.0, FALLBACK_RATE),
        (float("nan"), FALLBACK_RATE),
        (float("inf"), FALLBACK_RATE),
    ],
)
def test_rates_that_mpeg4_cannot_store_are_rounded(tmp_path: Path, rate: float, expected: float) -> None:
    assert storable_rate(rate) == pytest.approx(expected)
    save_mp4(tmp_path / "a.mp4", rate=rate)
    assert VideoFile.open(tmp_path / "a.mp4").rate == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("size", [(1, 1), (48, 8200)])
def test_sizes_that_mpeg4_cannot_store_are_named_before_the_first_frame(tmp_path: Path, size: tuple[int, int]) -> None:
    with (
        pytest.raises(ImageError, match="MPEG-4 supports sides of 2 to 8191.*--overlay none"),
        movie(tmp_path / "a.mp4", 10.0, size),
    ):
        raise AssertionError("there is no such video")
    assert not list(tmp_path.iterdir())


def test_odd_sizes_are_written(tmp_path: Path) -> None:
    with movie(tmp_path / "a.mp4", 10.0, (47, 63)) as show:
        show(np.zeros((47, 63, 3), np.uint8))
    assert len(list(VideoFile.open(tmp_path / "a.mp4").frames())) == 1


@pytest.mark.parametrize(
    "name",
    [b"caf\xe9.mp4", b"12:30.mp4", b"file:a.mp4", b"a%03d.mp4", b"\x1b[31m.mp4", "\u00fc.mp4".encode(), b"a\nb.mp4"],
)
def test_names_that_opencv_would_not_take_are_read_and_written(
    tmp_path: Path, name: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = save_mp4(Path(os.fsdecode(name)))
    assert len(list(VideoFile.open(path).frames())) == 7
    with plainly_named(path) as plain:
        assert plain.isascii() and plain.isprintable() and Path(plain).samefile(path)


def test_what_is_no_video_is_said(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="there is no such file"):
        VideoFile.open(tmp_path / "none.mp4")
    (tmp_path / "text.mp4").write_text("text")
    with pytest.raises(ImageError, match="no frame can be read"):
        VideoFile.open(tmp_path / "text.mp4")


def test_a_damaged_frame_does_not_end_the_video(tmp_path: Path) -> None:
    """OpenCV answers as at the end of the file, and goes on if it is asked again."""
    path = save_mkv(tmp_path / "a.mkv", [100 * i for i in range(8)])
    content = path.read_bytes()
    starts = [i for i in range(len(content)) if content.startswith(b"\xff\xd8\xff", i)]
    path.write_bytes(content[: starts[3]] + bytes(300) + content[starts[3] + 300 :])
    video = VideoFile.open(path)
    assert [round(frame.time, 3) for frame in video.frames()] == [0, 0.1, 0.2, 0.4, 0.5, 0.6, 0.7]
    assert video.packets == 8
