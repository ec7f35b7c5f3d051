"""`fcclip segment` with a stand-in for the model, so that files, errors and interruption are what is tested."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from fcclip_core import cli, devices
from fcclip_core.commands import segment
from fcclip_core.commands.inference_arguments import settings_from, vocabulary_from
from fcclip_core.errors import FcclipError, SettingsError, VocabularyError
from fcclip_core.image_files import read_image
from fcclip_core.results import PanopticResult, Segment
from fcclip_core.settings import InferenceSettings


class FakeSegmenter:
    """Calls everything left of the middle segment 1 of the first class; the class map is 300 everywhere."""

    on_frame: Callable[[int], None] = staticmethod(lambda index: None)
    backend_description = "fake"
    device = torch.device("cpu")

    def __init__(self, settings: InferenceSettings) -> None:
        self.settings = settings
        self.frames = 0

    @classmethod
    def from_checkpoint(cls, source: str, **options: object) -> FakeSegmenter:
        assert options["device"] == "auto" and options["backend"] == "auto"
        return cls(options["settings"])

    def set_vocabulary(self, vocabulary: object, progress: object) -> SimpleNamespace:
        self.names = vocabulary.names
        ids = tuple(range(300, 300 + len(vocabulary)))
        return SimpleNamespace(version=1, vocabulary=vocabulary, class_ids=ids, colors=vocabulary.colors)

    def __call__(self, image: np.ndarray) -> PanopticResult:
        self.frames += 1
        type(self).on_frame(self.frames)
        height, width = image.shape[:2]
        segment_map = np.zeros((height, width), np.int32)
        segment_map[:, : width // 2] = 1
        found = Segment(
            1, 300, self.names[0], 0.75, True, height * (width // 2), (0, 0, width // 2, height), np.zeros(4)
        )
        timings = {"preprocess": 0.001, "model": 0.5}
        evidence: Any = SimpleNamespace(semantic_map=lambda: np.full((height, width), 300, np.int32))
        return PanopticResult(segment_map, [found], 1, timings, evidence)


@pytest.fixture(autouse=True)
def fake_segmenter(monkeypatch: pytest.MonkeyPatch) -> type[FakeSegmenter]:
    monkeypatch.setattr("fcclip_core.segmenter.Segmenter", FakeSegmenter)
    monkeypatch.setattr(FakeSegmenter, "on_frame", staticmethod(lambda index: None))
    return FakeSegmenter


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    segment.add_parser(parser.add_subparsers())
    given = ["segment", *map(str, arguments)]
    for option, value in (("--vocab", "cup, mug; table"), ("--checkpoint", "weights.safetensors")):
        if option not in given:
            given += [option, value]
    args = parser.parse_args(given)
    return args.run(args)


def save_image(path: Path, height: int = 40, width: int = 60, **options: object) -> Path:
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(path, **options)
    return path


def save_video(path: Path, frames: int = 7, height: int = 48, width: int = 64) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (width, height))
    for index in range(frames):
        writer.write(np.full((height, width, 3), 20 * index, np.uint8))
    writer.release()
    return path


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


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
def test_grey_16_bit_and_transparent_images_become_rgb(tmp_path: Path, pixels: np.ndarray, expected: list[int]) -> None:
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
    with pytest.raises(KeyboardInterrupt), segment.whole_file(target) as part:
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
