"""`fcclip bench paper`: parameters as the paper counts them, and Table 4's rule of what a frame's time is."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcclip_core.commands import bench
from fcclip_core.errors import DatasetError, FcclipError, ImageError, SettingsError
from fcclip_core.evaluation import timing
from fcclip_core.evaluation.model_size import model_size
from fcclip_core.evaluation.timing import TABLE_4, TIME_RULES
from fcclip_core.model.config import CONVNEXT_LARGE, PRESETS, RN50
from fcclip_core.model.fcclip import FCCLIP
from fcclip_core.model.text_tower import TextTower


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    bench.add_parser(parser.add_subparsers())
    args = parser.parse_args(["bench", "paper", *map(str, arguments)])
    return int(args.run(args))


QUICK = ("--preset", "tiny", "--device", "cpu", "--backend", "eager", "--shorter-side", 64)


def test_the_main_models_counts_are_the_papers() -> None:
    """Table 1 says 200 and 21 millions; 6.3 and 5.9 times fewer than ODISE's 1494 and 1522 are 238 and 258."""
    size = model_size(CONVNEXT_LARGE)
    assert round(size.image_tower / 1e6) == 200 and round(size.trained / 1e6) == 21
    assert size.paper_frozen - size.image_tower == 49408 * 768 + 77 * 768
    assert round(1494e6 / size.paper_frozen, 1) == 6.3
    assert round(1522e6 / (size.paper_frozen + size.trained), 1) == 5.9


@pytest.mark.parametrize("config", [PRESETS["tiny"], RN50], ids=lambda config: config.name)
def test_the_parts_are_those_of_the_modules(config) -> None:
    """Batch normalization's running statistics are no parameters."""
    model, text, size = FCCLIP(config), TextTower(config), model_size(config)

    def count(module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    assert size.image_tower == count(model.backbone)
    assert size.text_tower == count(text) + 1, "and CLIP's logit scale"
    assert size.trained == count(model) - count(model.backbone) - 1
    assert size.total == count(model) + count(text)


def test_each_frame_counts_by_the_rule_of_table_4(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three images in turn; the first five frames, and resizing, do not count."""
    (tmp_path / "more").mkdir()
    for number, name in enumerate(("a.png", "b.jpg", "more/c.png")):
        Image.fromarray(np.full((40 + number, 60, 3), 99, np.uint8)).save(tmp_path / name)
    seen, counted = [], []
    rule = TIME_RULES[TABLE_4]
    count = timing.ImageTimes.add

    def note(times, result, is_panoptic: bool) -> None:
        seen.append(result.segment_map.shape[0])
        before = times.timed
        count(times, result, is_panoptic)
        counted.append(times.timed > before)
        assert is_panoptic and times.rule == rule

    monkeypatch.setattr(timing.ImageTimes, "add", note)
    out = tmp_path / "bench.json"
    assert run(*QUICK, "--images", tmp_path, "--frames", 2, "--json", out) == 0
    assert seen == [40, 41, 42, 40, 41, 42, 40] and counted == [False] * 5 + [True] * 2
    document = json.loads(out.read_text())
    assert (document["model"], document["seeded"], document["timed"]) == ("tiny", True, 2)
    assert document["images_per_second"] > 0 and document["paper_images_per_second"] is None
    assert document["parameters"]["trained"] == model_size(PRESETS["tiny"]).trained
    printed = " ".join(capsys.readouterr().out.split())
    assert "images/s: 2 images" in printed and "seeded weights" in printed and "V100" not in printed


def test_a_stand_in_is_segmented_without_images(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    assert run(*QUICK, "--frames", 1, "--dataset", "coco", "--json", out) == 0
    document = json.loads(out.read_text())
    assert document["dataset"] == "coco" and document["images"] == "a stand-in of 640 x 480 pixels"


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (("--preset", "tiny", "--checkpoint", "demo"), SettingsError, "both say which model"),
        (("--preset", "tiny", "--frames", 0), SettingsError, "--frames is 0"),
        (("--preset", "huge"), FcclipError, "there is no recipe 'huge'"),
        (("--preset", "tiny", "--json", "/nowhere/at/all.json"), FcclipError, "there is no such folder"),
    ],
)
def test_what_will_not_do_is_said(options: tuple[object, ...], error: type[FcclipError], words: str) -> None:
    with pytest.raises(error, match=words):
        run(*options)


def test_images_that_will_not_do_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds no images"):
        run(*QUICK, "--images", tmp_path)
    (tmp_path / "bad.png").write_bytes(b"nothing")
    with pytest.raises(ImageError, match=r"bad.png: not an image"):
        run(*QUICK, "--images", tmp_path, "--frames", 1)
