"""`fcclip teach`: what it writes, prints and refuses."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcclip_core.commands import teach
from fcclip_core.errors import FcclipError, VocabularyError
from fcclip_core.vocabulary.classes import Vocabulary

SMALL = ("--checkpoint", "recipe:tiny", "--device", "cpu", "--shorter-side", "64")


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    teach.add_parser(parser.add_subparsers())
    args = parser.parse_args(["teach", *map(str, arguments)])
    return args.run(args)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(3).integers(0, 256, (64, 96, 3), np.uint8)).save(path)
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    # Seeded masks are noise that fits no box.
    monkeypatch.setattr("fcclip_core.segments.teaching.MIN_OVERLAP", 0.0)


def test_a_class_is_taught_listed_and_forgotten(
    tmp_path: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, mask = tmp_path / "mine.yaml", tmp_path / "mask.png"
    path.write_text("classes:\n- {name: floor, stuff: true}\n")
    Image.fromarray(np.full((64, 96), 255, np.uint8)).save(mask)
    shown = ("--image", photo, "--box", "0,0,96,64", "--image", photo, "--mask", mask)
    assert run("red mug, cup", "--vocab", path, *shown, *SMALL) == 0
    said = capsys.readouterr().out
    assert f"red mug has 2 examples in {path}" in said
    assert "warning: only" in said
    found = Vocabulary.load(path)
    assert (found.names, found.example_counts) == (("floor", "red mug"), (0, 2))
    assert run("part 4711", "--vocab", path, *shown[:4], *SMALL, "--wordless") == 0
    capsys.readouterr()

    assert run("--list", "--vocab", path) == 0
    listed = capsys.readouterr().out.splitlines()
    assert listed[:2] == [
        "red mug: 2 examples, beside the words red mug, cup",
        "part 4711: 1 examples, examples alone",
    ]
    assert run("red mug", "--forget", "--vocab", path) == 0
    assert run("part 4711", "--forget", "--vocab", path) == 0
    assert Vocabulary.load(path).names == ("floor", "red mug")
    assert not path.with_name("mine.examples.safetensors").exists()


def test_each_image_needs_a_region(tmp_path: Path, photo: Path) -> None:
    with pytest.raises(FcclipError, match="there are 1 images and 0 boxes or masks"):
        run("mug", "--vocab", tmp_path / "a.yaml", "--image", photo, *SMALL)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--list",), "there is no vocabulary"),
        (("mug", "--forget"), "there is nothing to forget"),
        ((), "there is no name"),
    ],
)
def test_what_cannot_be_done(tmp_path: Path, arguments: tuple[str, ...], expected: str) -> None:
    with pytest.raises(VocabularyError, match=expected):
        run(*arguments, "--vocab", tmp_path / "none.yaml")


def test_a_box_is_four_numbers(tmp_path: Path, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("mug", "--vocab", tmp_path / "a.yaml", "--image", photo, "--box", "1,2,3")
    assert "is no box; expected left,top,right,bottom" in capsys.readouterr().err
