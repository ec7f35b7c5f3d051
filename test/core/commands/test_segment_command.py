"""`fcclip segment` with a stand-in for the model, so that files, errors and interruption are what is tested."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import resource
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_masks
from segment_case import FakeSegmenter, names_in, run, said, save_image, save_video

from fcclip_core import cli, devices
from fcclip_core.commands import segment
from fcclip_core.commands.inference_arguments import settings_from, vocabulary_from
from fcclip_core.errors import FcclipError, SettingsError, VocabularyError
from fcclip_core.files.atomic_write import atomic_write
from fcclip_core.images.image_files import read_image
from fcclip_core.images.video_files import VideoFile, VideoFrame
from fcclip_core.settings import InferenceSettings


@pytest.fixture(autouse=True)
def fake_segmenter(monkeypatch: pytest.MonkeyPatch) -> type[FakeSegmenter]:
    monkeypatch.setattr("fcclip_core.segmenter.Segmenter", FakeSegmenter)
    monkeypatch.setattr(FakeSegmenter, "on_frame", staticmethod(lambda index: None))
    return FakeSegmenter


def test_a_gpu_that_is_lost_ends_the_run_and_keeps_what_was_written(
    tmp_path: Path,
    fake_segmenter: type[FakeSegmenter],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(frame: int) -> None:
        if frame == 2:
            raise RuntimeError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(fake_segmenter, "on_frame", staticmethod(fail))
    monkeypatch.setattr(devices, "fault", lambda device: "CUDA error: unspecified launch failure")
    photos = [save_image(tmp_path / f"{name}.png") for name in ("first", "second", "third")]
    out = tmp_path / "out"
    command = ["segment", *photos, "--out", out, "--vocab", "cup", "--checkpoint", "weights", "--overlay", "none"]
    assert cli.main([str(part) for part in command]) == cli.EXIT_ERROR
    assert "fcclip: cpu is lost to this process, which must be started again: CUDA" in capsys.readouterr().err
    assert names_in(out) == ["first.json", "first_labels.png", "first_semantic.png"]


def test_image_gives_labels_semantic_overlay_and_json(tmp_path: Path) -> None:
    photo, out = save_image(tmp_path / "cup.png"), tmp_path / "deep" / "out"
    assert run(photo, "--out", out, "--stuff", "table", "--alpha", "0.3", "--shorter-side", "256") == 0
    assert names_in(out) == ["cup.json", "cup_labels.png", "cup_overlay.jpg", "cup_semantic.png"]

    labels, semantic = (np.asarray(Image.open(out / f"cup_{kind}.png")) for kind in ("labels", "semantic"))
    assert Image.open(out / "cup_labels.png").mode == "I;16"
    assert labels[:, :30].min() == labels.max() == 1 and labels[:, 30:].max() == 0
    assert semantic.min() == semantic.max() == 300, "class ids above 255 must survive"
    assert Image.open(out / "cup_overlay.jpg").size == (60, 40)

    about = json.loads((out / "cup.json").read_text())
    assert (about["image"], about["height"], about["width"]) == (str(photo), 40, 60)
    assert about["checkpoint"] == "weights.safetensors"
    assert about["settings"]["alpha"] == 0.3 and about["settings"]["shorter_side"] == 256
    assert about["vocabulary"]["version"] == about["vocabulary_version"] == 1
    assert [(c["id"], c["name"], c["synonyms"], c["is_thing"]) for c in about["vocabulary"]["classes"]] == [
        (300, "cup", ["cup", "mug"], True),
        (301, "table", ["table"], False),
    ]
    assert about["segments"] == [
        {"id": 1, "class_id": 300, "name": "cup", "is_thing": True, "score": 0.75, "area": 1200, "box": [0, 0, 30, 40]}
    ]
    assert about["timings"] == {"preprocess": 0.001, "model": 0.5}
    assert set(about["files"].values()) == set(names_in(out)) - {"cup.json"}


def save_mask(path: Path, height: int, width: int) -> Path:
    """Ignores the ten columns on the left."""
    mask = np.zeros((height, width), np.uint8)
    mask[:, :10] = 255
    Image.fromarray(mask).save(path)
    return path


def test_ignored_pixels_are_in_no_file(tmp_path: Path) -> None:
    photo, out = save_image(tmp_path / "cup.png"), tmp_path / "out"
    mask = save_mask(tmp_path / "arm.png", 40, 60)
    assert run(photo, "--out", out, "--ignore-mask", mask, "--overlay", "png") == 0
    labels, semantic = (np.asarray(Image.open(out / f"cup_{kind}.png")) for kind in ("labels", "semantic"))
    assert not labels[:, :10].any() and (labels[:, 10:30] == 1).all()
    assert not semantic[:, :10].any() and (semantic[:, 10:] == 300).all()
    # Below the label, which is wider than the segment.
    assert (np.asarray(Image.open(out / "cup_overlay.png"))[32:, :9] == 90).all(), "as in the photograph"
    about = json.loads((out / "cup.json").read_text())
    assert (about["segments"][0]["area"], about["segments"][0]["box"]) == (800, [10, 0, 30, 40])
    assert about["ignore_mask"] == str(mask)


def test_ignored_pixels_are_in_no_line_of_a_video(tmp_path: Path) -> None:
    video, out = save_video(tmp_path / "clip.mp4", frames=2), tmp_path / "out"
    assert run(video, "--out", out, "--ignore-mask", save_mask(tmp_path / "arm.png", 48, 64)) == 0
    lines = [json.loads(line) for line in (out / "clip_frames.jsonl").read_text().splitlines()]
    assert [line["segments"][0]["box"] for line in lines] == [[10, 0, 32, 48]] * 2


@pytest.mark.parametrize("stride", [2, 4])
def test_labels_overlay_and_boxes_are_as_small_as_the_stride_says(tmp_path: Path, stride: int) -> None:
    inputs = save_image(tmp_path / "cup.png", 41, 60), save_video(tmp_path / "run.mp4", frames=2)
    mask, out = save_mask(tmp_path / "arm.png", 41, 60), tmp_path / "out"
    options = ("--output-stride", stride, "--overlay", "png")
    assert run(inputs[0], "--out", out, "--ignore-mask", mask, *options) == 0
    size = (60 // stride, -(-41 // stride))
    for name in ("cup_labels.png", "cup_semantic.png", "cup_overlay.png"):
        assert Image.open(out / name).size == size, name
    labels = np.asarray(Image.open(out / "cup_labels.png"))
    ignored = -(-10 // stride)
    assert not labels[:, : ignored - 1].any() and labels[:, ignored : size[0] // 2].all()
    about = json.loads((out / "cup.json").read_text())
    assert about["segments"][0]["box"][2:] == [size[0] // 2, size[1]]
    assert (about["height"], about["width"], about["settings"]["output_stride"]) == (41, 60, stride)
    assert run(inputs[1], "--out", out, "--output-stride", stride) == 0
    overlay = cv2.VideoCapture(str(out / "run_overlay.mp4"))
    assert overlay.read()[1].shape == (48 // stride, 64 // stride, 3)


def test_an_ignore_mask_that_does_not_fit_costs_that_input_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = save_mask(tmp_path / "arm.png", 40, 60)
    photos = save_image(tmp_path / "fits.png", 80, 120), save_image(tmp_path / "other.png", 40, 40)
    assert run(*photos, "--out", tmp_path / "out", "--ignore-mask", mask) == 1
    assert "has 60 x 40 pixels, but the image has 40 x 40, a different aspect ratio" in said(capsys)
    assert not (tmp_path / "out" / "other.json").exists()
    about = json.loads((tmp_path / "out" / "fits.json").read_text())
    assert about["segments"][0]["box"] == [20, 0, 60, 80]


@pytest.mark.parametrize("name", ["gone.png", "cup.png"])
def test_an_ignore_mask_that_will_not_do_is_explained_before_anything_is_written(tmp_path: Path, name: str) -> None:
    photo = save_image(tmp_path / "cup.png")
    with pytest.raises(FcclipError, match="there is no such file|has no black pixel"):
        run(photo, "--out", tmp_path / "out", "--ignore-mask", tmp_path / name)
    assert names_in(tmp_path) == ["cup.png"]


def test_contours_are_in_the_json_as_coco_has_them(tmp_path: Path) -> None:
    photo, video = save_image(tmp_path / "cup.png"), save_video(tmp_path / "clip.mp4", frames=1)
    for form in ("polygons", "rle"):
        assert run(photo, video, "--out", tmp_path / form, "--contours", form) == 0
        described = json.loads((tmp_path / form / "cup.json").read_text())
        line = json.loads((tmp_path / form / "clip_frames.jsonl").read_text())
        for about in (described, line):
            shape = about["height"], about["width"]
            expected = np.zeros(shape, np.uint8)
            expected[:, : shape[1] // 2] = 1
            found = about["segments"][0]["segmentation"]
            coded = coco_masks.merge(coco_masks.frPyObjects(found, *shape)) if form == "polygons" else found
            np.testing.assert_array_equal(coco_masks.decode(coded), expected)
    assert run(photo, "--out", tmp_path / "none") == 0
    assert "segmentation" not in json.loads((tmp_path / "none" / "cup.json").read_text())["segments"][0]


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    photo = save_image(tmp_path / "phone.jpg", height=40, width=60, exif=exif)
    run(photo, "--out", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "phone.json").read_text())["height"] == 60
    assert Image.open(tmp_path / "out" / "phone_labels.png").size == (40, 60)


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (np.full((4, 5), 51200, np.uint16), [200, 200, 200]),
        (np.full((4, 5), 77, np.uint8), [77, 77, 77]),
        (np.full((4, 5, 4), (10, 20, 30, 0), np.uint8), [10, 20, 30]),
    ],
)
def test_gray_16_bit_and_transparent_images_become_rgb(tmp_path: Path, pixels: np.ndarray, expected: list[int]) -> None:
    Image.fromarray(pixels).save(tmp_path / "image.png")
    image = read_image(tmp_path / "image.png")
    assert image.shape == (4, 5, 3) and image.dtype == np.uint8
    assert image[0, 0].tolist() == expected


def test_unreadable_files_are_named_and_the_others_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    save_image(photos / "good.png")
    (photos / "text.jpg").write_text("not an image")
    whole = save_image(tmp_path / "big.jpg", 200, 200).read_bytes()
    (photos / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "broken.mp4").write_bytes(b"not a video")
    (photos / "notes.txt").write_text("ignored")
    out = tmp_path / "out"
    assert run(photos, tmp_path / "gone.png", "--out", out) == 1
    said = " ".join(capsys.readouterr().err.split())
    for name, reason in [
        ("text.jpg", "not an image"),
        ("cut.jpg", "truncated"),
        ("broken.mp4", "no frame can be read"),
        ("gone.png", "no such file"),
    ]:
        assert name in said and reason in said
    assert "notes.txt" not in said
    assert "1 of 5 inputs" in said
    assert names_in(out) == ["good.json", "good_labels.png", "good_overlay.jpg", "good_semantic.png"]


def test_a_jpeg_beyond_the_limit_is_labeled_at_a_reduced_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = save_image(tmp_path / "phone.jpg", 41, 60, exif=_turned())
    assert run(photo, "--out", tmp_path / "out", "--max-image-pixels", 700) == 0
    about = json.loads((tmp_path / "out" / "phone.json").read_text())
    # Turned upright, and sides rounded up.
    assert (about["height"], about["width"], about["reduced_by"]) == (30, 21, 2)
    for name in about["files"].values():
        with Image.open(tmp_path / "out" / name) as picture:
            assert picture.size == (21, 30)
    assert "labeled at 1/2 of its size, because it has more than 0.0007 million pixels" in said(capsys)
    assert run(photo, "--out", tmp_path / "whole") == 0
    assert json.loads((tmp_path / "whole" / "phone.json").read_text())["reduced_by"] == 1
    assert "of its size" not in said(capsys)
    assert run(photo, "--out", tmp_path / "none", "--max-image-pixels", 10) == 1
    assert "8 x 6 pixels" in said(capsys)


def test_what_is_too_large_lies_or_lacks_data_is_named_without_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(buffer, "JPEG")
    jpeg = buffer.getvalue()
    sizes = jpeg.find(b"\xff\xc0") + 5
    tiff = io.BytesIO()
    Image.new("RGB", (64, 64)).save(tiff, "TIFF", compression="tiff_deflate")
    files = {
        "large.png": (_png(8_000, 8_000, bytes(100)), "8000 x 8000 pixels, 64.0 million; at most 40 million"),
        "bomb.png": (_png(30_000, 30_000, bytes(100)), "more than 40 million pixels"),
        "line.png": (_png(1, 400_000, bytes(800_000)), "a side may have 65500 at most"),
        "few_rows.png": (_png(10, 10, bytes(155)), "rows are missing"),
        "lies.jpg": (jpeg[:sizes] + struct.pack(">HH", 13_000, 13_000) + jpeg[sizes + 4 :], "too little data"),
        "cut.tif": (tiff.getvalue()[:-30], "not an image"),
        "ends.jpg": (jpeg[: len(jpeg) // 2] + b"\xff\xd9", "its data are truncated"),
        "large.bmp": (
            b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0),
            "more than 40",
        ),
    }
    for name, (data, _) in files.items():
        (tmp_path / name).write_bytes(data)
    good = save_image(tmp_path / "good.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run(*(tmp_path / name for name in files), good, "--out", tmp_path / "out") == 1
    printed = said(capsys)
    for name, (_, reason) in files.items():
        assert reason in printed.split(f"{name}: ")[1].split("skipped")[0], name
    assert f"1 of {len(files) + 1} inputs segmented" in printed
    assert Image.MAX_IMAGE_PIXELS == 89_478_485


def test_a_video_beyond_the_limit_is_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = save_video(tmp_path / "clip.mp4")
    assert run(video, "--out", tmp_path / "out", "--max-image-pixels", 48 * 64 - 1) == 1
    assert "64 x 48 pixels" in said(capsys)
    assert names_in(tmp_path / "out") == []


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def _png(width: int, height: int, rows: bytes) -> bytes:
    """A gray or colored PNG with these bytes as rows, whatever it claims."""
    gray = len(rows) == 2 * width * height

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0 if gray else 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_video_gives_overlay_video_and_a_line_a_frame(tmp_path: Path) -> None:
    video, out = save_video(tmp_path / "drive.mp4"), tmp_path / "out"
    assert run(video, "--out", out) == 0
    assert names_in(out) == ["drive.json", "drive_frames.jsonl", "drive_overlay.mp4"]
    lines = [json.loads(line) for line in (out / "drive_frames.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(range(7))
    assert lines[3]["time"] == pytest.approx(0.3)
    assert lines[6]["segments"][0]["name"] == "cup"
    about = json.loads((out / "drive.json").read_text())
    assert (about["frames"], about["fps"], about["width"], about["height"]) == (7, 10.0, 64, 48)
    overlay = cv2.VideoCapture(str(out / "drive_overlay.mp4"))
    assert overlay.get(cv2.CAP_PROP_FRAME_COUNT) == 7
    assert overlay.get(cv2.CAP_PROP_FRAME_WIDTH) == 64


def test_video_without_overlay(tmp_path: Path) -> None:
    run(save_video(tmp_path / "drive.avi"), "--out", tmp_path / "out", "--overlay", "none")
    assert names_in(tmp_path / "out") == ["drive.json", "drive_frames.jsonl"]


def test_equal_names_do_not_overwrite_each_other(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    inputs = [
        save_image(tmp_path / name, height=20 + i)
        for i, name in enumerate(("a/1.png", "a/1.bmp", "b/1.png", "b/1.bmp"))
    ]
    assert run(*inputs, "--out", tmp_path / "out", "--overlay", "none") == 0
    found = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json")]
    assert {(about["image"], about["height"]) for about in found} == {(str(p), 20 + i) for i, p in enumerate(inputs)}
    assert len(names_in(tmp_path / "out")) == 4 * 3


@pytest.mark.parametrize("video", [False, True])
def test_interruption_leaves_only_whole_files(tmp_path: Path, fake_segmenter: type[FakeSegmenter], video: bool) -> None:
    """Ctrl-C while the third frame is computed."""

    def interrupt(index: int) -> None:
        if index == 3:
            raise KeyboardInterrupt

    fake_segmenter.on_frame = staticmethod(interrupt)
    inputs = [save_video(tmp_path / "v.mp4")] if video else [save_image(tmp_path / f"{i}.png") for i in range(4)]
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(*inputs, "--out", out, "--overlay", "jpg" if video else "none")
    done = [] if video else ["0.json", "0_labels.png", "0_semantic.png", "1.json", "1_labels.png", "1_semantic.png"]
    assert names_in(out) == done


def test_interruption_while_writing_keeps_the_earlier_file(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    target.write_text("earlier")
    with pytest.raises(KeyboardInterrupt), atomic_write(target) as part:
        part.write_text("hal")
        raise KeyboardInterrupt
    assert names_in(tmp_path) == ["result.json"]
    assert target.read_text() == "earlier"


def test_folder_as_input_and_output_is_refused(tmp_path: Path) -> None:
    save_image(tmp_path / "1.png")
    with pytest.raises(FcclipError, match="both input and --out"):
        run(tmp_path, "--out", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--vocab", " ; "], VocabularyError, "--vocab names no class"),
        (["--vocab", "cup; cup"], VocabularyError, "cup"),
        (["--vocab", "missing.yaml"], VocabularyError, "missing.yaml"),
        (["--stuff", "sky"], VocabularyError, "sky"),
        (["--alpha", "2"], SettingsError, "alpha is 2.0"),
        (["--opacity", "7"], FcclipError, "--opacity is 7.0"),
    ],
)
def test_wrong_arguments_are_explained_before_anything_is_written(
    tmp_path: Path, arguments: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(save_image(tmp_path / "1.png"), "--out", tmp_path / "out", *arguments)
    assert names_in(tmp_path) == ["1.png"]


def test_empty_folder_is_explained(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FcclipError, match="empty holds no image and no video"):
        run(tmp_path / "empty", "--out", tmp_path / "out")


def test_unusable_output_folder_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo = save_image(tmp_path / "1.png")
    with pytest.raises(FcclipError, match="cannot make --out .*1.png"):
        run(photo, "--out", photo)
    # Tests may run as root, whom no permission stops.
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(FcclipError, match="cannot write to --out"):
        run(photo, "--out", tmp_path / "out")


def test_vocabulary_arguments(tmp_path: Path) -> None:
    inline = vocabulary_from(" person ;pallet, wooden pallet; floor;", stuff="floor; ")
    assert inline.names == ("person", "pallet", "floor")
    assert inline.classes[1].synonyms == ("pallet", "wooden pallet")
    assert inline.things == (True, True, False)

    listed = tmp_path / "list.txt"
    listed.write_text("0:person,human\n1:floor\n")
    assert vocabulary_from(str(listed)).things == (True, True)
    assert vocabulary_from(str(listed), stuff="floor").things == (True, False)
    with pytest.raises(VocabularyError, match="'ceiling', which is no class of"):
        vocabulary_from(str(listed), stuff="ceiling")
    assert len(vocabulary_from("coco_panoptic")) == 133


def test_every_setting_is_an_option(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    segment.add_parser(parser.add_subparsers())
    base = ["segment", "x", "--out", "o", "--vocab", "a", "--checkpoint", "c"]
    assert settings_from(parser.parse_args(base)) == InferenceSettings(shorter_side=0)
    given = "--beta 0.1 --max-size 900 --ensemble arithmetic --object-mask-threshold 0.4 --overlap-threshold 0.1 "
    given += "--no-valid-mask-only --top-k-instances 5 --num-threads 2 --shorter-side 640 --alpha 0.2"
    assert settings_from(parser.parse_args([*base, *given.split()])) == InferenceSettings(
        shorter_side=640,
        max_size=900,
        alpha=0.2,
        beta=0.1,
        ensemble="arithmetic",
        object_mask_threshold=0.4,
        overlap_threshold=0.1,
        valid_mask_only=False,
        top_k_instances=5,
        num_threads=2,
    )
    large = settings_from(parser.parse_args([*base, "--shorter-side", "2000"]))
    assert (large.shorter_side, large.max_size) == (2000, 2000)


# --- one bad input, one bad output ------------------------------------------------------------------------------


@contextmanager
def full_disk(limit: int = 100_000) -> Iterator[None]:
    """Files end at `limit` bytes, as on a disk that is full then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture that no format makes small."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def save_noise_video(path: Path, frames: int = 12, sizes: tuple[tuple[int, int], ...] = ((240, 320),)) -> Path:
    height, width = sizes[0]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (width, height))
    for index in range(frames):
        writer.write(noise(height, width, index))
    writer.release()
    return path


@pytest.mark.parametrize("overlay", ["jpg", "png"])
def test_an_overlay_that_the_disk_has_no_room_for_is_not_left_cut(
    tmp_path: Path, overlay: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(noise(500, 600)).save(tmp_path / "a.png")
    small = save_image(tmp_path / "b.png")
    out = tmp_path / "out"
    with full_disk():
        assert run(tmp_path / "a.png", small, "--out", out, "--overlay", overlay) == 1
    assert "a.png: a_overlay" in (told := said(capsys)) and "File too large" in told
    assert "1 of 2 inputs" in told and f"failed: {tmp_path / 'a.png'}" in told
    whole = ["b.json", "b_labels.png", f"b_overlay.{overlay}", "b_semantic.png"]
    assert names_in(out) == ["a_labels.png", "a_semantic.png", *whole]


def test_an_overlay_video_that_the_disk_has_no_room_for_is_not_left_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video, out = save_noise_video(tmp_path / "noise.avi"), tmp_path / "out"
    with full_disk():
        assert run(video, "--out", out) == 1
    assert "frames can be read back from noise_overlay.mp4; is the disk full?" in said(capsys)
    assert names_in(out) == ["noise_frames.jsonl"], "what was computed stays"


@pytest.mark.parametrize("limit", [1000, 1500, 1501, 4096])
def test_lines_that_the_disk_has_no_room_for_are_not_left_cut(
    tmp_path: Path, limit: int, capsys: pytest.CaptureFixture[str]
) -> None:
    video = save_video(tmp_path / "drive.mp4", frames=40)
    with full_disk(limit):
        assert run(video, "--out", tmp_path / "out", "--overlay", "none") == 1
    assert "drive.mp4: File too large" in said(capsys)
    assert not names_in(tmp_path / "out")


def test_a_failed_run_takes_an_earlier_description_away(tmp_path: Path) -> None:
    """Where the JSON is the other files are, and are those that it describes."""
    photo, out = tmp_path / "a.png", tmp_path / "out"
    save_image(photo)
    assert run(photo, "--out", out) == 0
    Image.fromarray(noise(500, 600)).save(photo)
    with full_disk():
        assert run(photo, "--out", out) == 1
    assert "a.json" not in names_in(out) and Image.open(out / "a_overlay.jpg").size == (60, 40)


def test_an_unexpected_error_of_one_input_does_not_end_the_run(
    tmp_path: Path, fake_segmenter: type[FakeSegmenter], capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(frame: int) -> None:
        if frame == 1:
            raise ZeroDivisionError("nobody knows")

    fake_segmenter.on_frame = staticmethod(fail)
    assert run(*(save_image(tmp_path / f"{i}.png") for i in range(3)), "--out", tmp_path / "out") == 1
    told = said(capsys)
    assert "0.png: ZeroDivisionError: nobody knows" in told and "2 of 3 inputs" in told and "Traceback" not in told


@pytest.mark.parametrize(
    ("source", "other"),
    [
        ("x.jpg", "x_overlay.jpg"),
        ("x.jpg", "x_labels.png"),
        ("./x.jpg", "../{folder}/x_overlay.jpg"),
        ("x.mp4", "x_overlay.mp4"),
    ],
)
def test_an_output_that_is_an_input_is_refused(
    tmp_path: Path, source: str, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [source, other.format(folder=tmp_path.name)]
    for path in map(Path, given):
        save_video(path) if path.suffix == ".mp4" else save_image(path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(FcclipError, match="would replace an input of this call"):
        run(*given, "--out", ".")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("hard", [False, True])
def test_an_output_that_is_an_input_by_a_link_is_refused(tmp_path: Path, hard: bool) -> None:
    out = tmp_path / "out"
    out.mkdir()
    photo, precious = save_image(tmp_path / "x.jpg"), save_image(tmp_path / "precious.jpg")
    (out / "x_overlay.jpg").hardlink_to(precious) if hard else (out / "x_overlay.jpg").symlink_to(precious)
    with pytest.raises(FcclipError, match="would replace an input"):
        run(photo, precious, "--out", out)


def test_a_folder_as_input_and_output_by_a_link_is_refused(tmp_path: Path) -> None:
    save_image(tmp_path / "real.png")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(FcclipError, match="both input and --out"):
        run(tmp_path, "--out", tmp_path / "link")


def test_names_that_a_usb_stick_takes_for_one_do_not_overwrite_each_other(tmp_path: Path) -> None:
    for folder in ("1", "2"):
        (tmp_path / folder).mkdir()
    inputs = [save_image(tmp_path / name) for name in ("1/a.JPG", "1/a.png", "1/A.bmp", "2/a.JPG")]
    assert run(tmp_path / "1", tmp_path / "2", "--out", tmp_path / "out", "--overlay", "none") == 0
    found = [path.stem.lower() for path in (tmp_path / "out").glob("*.json")]
    assert len(set(found)) == len(found) == len(inputs)


def test_names_of_any_bytes_and_length_are_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    names = [
        b"caf\xe9.png",
        b"n" * 230 + b".png",
        b"m" * 251 + b".png",
        "ü".encode() * 125 + b".png",
        b"[red]x[bold]\x1b[31m.png",
    ]
    picture = save_image(tmp_path / "p.png").read_bytes()
    for name in names:
        (photos / os.fsdecode(name)).write_bytes(picture)
    assert run(photos, "--out", tmp_path / "out") == 0
    about = [json.loads(path.read_bytes()) for path in (tmp_path / "out").glob("*.json")]
    assert {os.fsencode(Path(entry["image"]).name) for entry in about} == set(names), "the JSON gives the names back"
    for entry in about:
        assert all((tmp_path / "out" / name).is_file() for name in entry["files"].values())
    assert "\x1b[31m" not in capsys.readouterr().err


def test_failed_names_reach_the_terminal_as_escapes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (b"caf\xe9.png", b"\x1b]0;owned\x07.png", b"[red]x[bold].mp4"):
        (tmp_path / os.fsdecode(name)).write_text("no picture")
    assert run(tmp_path, "--out", tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert r"caf\udce9.png" in said and r"\x1b]0;owned" in said and "[red]x[bold].mp4" in said
    assert "\x1b" not in said and "\x07" not in said


def test_a_video_of_any_name_is_done(tmp_path: Path) -> None:
    for name in (b"caf\xe9.mp4", b"2024-01-01T12:30:00.mp4", b"100%d.mp4", b"\x1b[31m.mp4"):
        save_video(tmp_path / "plain.mp4").rename(tmp_path / os.fsdecode(name))
    assert run(tmp_path, "--out", tmp_path / "out") == 0
    assert len(list((tmp_path / "out").glob("*_overlay.mp4"))) == 4


def test_a_picture_too_wide_for_its_overlay_is_named_before_it_is_computed(
    tmp_path: Path, fake_segmenter: type[FakeSegmenter], capsys: pytest.CaptureFixture[str]
) -> None:
    wide, good = save_image(tmp_path / "wide.png", 2, 65_501), save_image(tmp_path / "z.png")
    assert run(wide, good, "--out", tmp_path / "out") == 1
    assert "wide.png: the image is 65501 x 2 pixels; a side may have 65500 at most" in said(capsys)
    assert len(names_in(tmp_path / "out")) == 4


def test_videos_and_photographs_that_a_folder_run_leaves_out_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_image(tmp_path / "good.png")
    for name in ("IMG_1.HEIC", "clip.ts", "raw.CR2", "notes.txt", "drive.mcap"):
        (tmp_path / name).write_text("x")
    (tmp_path / "inner").mkdir()
    assert run(tmp_path, "--out", tmp_path.parent / "out") == 0
    told = said(capsys)
    assert "IMG_1.HEIC, clip.ts, raw.CR2 (convert them" in told
    assert "drive.mcap (bags are read where they are named)" in told and "inner (folders are read one level" in told
    assert "notes.txt" not in told
    (tmp_path / "good.png").unlink()
    with pytest.raises(FcclipError, match=r"no image and no video that can be read; left out of .*IMG_1\.HEIC"):
        run(tmp_path, "--out", tmp_path.parent / "out")


def test_an_animation_says_that_one_picture_was_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pages = [Image.fromarray(noise(20, 30, seed)) for seed in range(3)]
    for name in ("pages.tif", "film.gif", "film.webp"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
    save_image(tmp_path / "one.gif")
    assert run(tmp_path, "--out", tmp_path / "out") == 0
    told = said(capsys)
    for name in ("pages.tif", "film.gif", "film.webp"):
        assert f"{name}: the file holds several pictures" in told
    assert "one.gif" not in told


def test_what_is_no_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert run(tmp_path / "pipe.png", "/dev/zero", save_image(tmp_path / "z.png"), "--out", tmp_path / "out") == 1
    assert said(capsys).count("it is no file") == 2


def test_frames_of_another_size_stay_in_the_overlay_video(tmp_path: Path) -> None:
    from fcclip_core.images.video_files import movie

    with movie(tmp_path / "m.mp4", 10.0, (48, 64)) as show:
        for height, width in ((48, 64), (20, 60), (480, 640), (48, 64), (90, 20)):
            show(np.full((height, width, 3), 200, np.uint8))
    shown = [frame.image for frame in VideoFile.open(tmp_path / "m.mp4").frames()]
    assert len(shown) == 5 and all(frame.shape == (48, 64, 3) for frame in shown)
    assert all(frame[24, 32].min() > 150 for frame in shown)


def test_times_of_a_variable_rate_are_the_containers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The announced number of frames, 241 for such a file, is no count of lost ones either."""
    times = [0.0, 0.033, 0.066, 1.133, 8.0]
    video = save_video(tmp_path / "v.mp4", frames=5)
    monkeypatch.setattr(VideoFile, "frames", lambda self: map(VideoFrame, [noise(48, 64)] * 5, times))
    assert run(video, "--out", tmp_path / "out") == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "v_frames.jsonl").read_text().splitlines()]
    assert [line["time"] for line in lines] == times
    assert [(line["height"], line["width"]) for line in lines] == [(48, 64)] * 5


def test_frames_that_cannot_be_read_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = save_noise_video(tmp_path / "cut.avi")
    content = bytearray(video.read_bytes())
    starts = [match.start() for match in re.finditer(b"\xff\xd8\xff", content)]
    content[starts[4] : starts[5] - 8] = bytes(starts[5] - 8 - starts[4])
    video.write_bytes(content)
    assert run(video, "--out", tmp_path / "out") == 0
    assert "cut.avi: 1 of 12 frames could not be read" in said(capsys)


def test_words_with_which_a_source_was_meant_are_asked_about() -> None:
    for text, meant in (
        ("coco", "coco_panoptic"),
        ("words.json", "rename it"),
        ("coco_panoptic; forklift", "stand alone"),
    ):
        with pytest.raises(VocabularyError, match=meant):
            vocabulary_from(text)
    with pytest.raises(VocabularyError, match="--stuff names 'flor'.*did you mean 'floor'"):
        vocabulary_from("cup; floor", stuff="flor")


def test_what_is_questionable_in_words_is_said_before_anything_is_segmented(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = save_image(tmp_path / "a.png")
    assert run(photo, "--out", tmp_path / "out", "--vocab", "cup; \u0441up") == 0
    assert "look alike but are different words to CLIP" in said(capsys)
