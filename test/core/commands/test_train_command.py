"""`fcclip train coco` on a directory in COCO's format, written here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import training_case
from PIL import Image
from safetensors.torch import save_file

from fcclip_core.cli import main
from fcclip_core.commands import train
from fcclip_core.training.config import TrainingConfig
from fcclip_core.weights.checkpoints import load_checkpoint
from fcclip_core.weights.published_layout import layout_of

ARGUMENTS = ("--batch-size", "2", "--crop", "64", "--loader-processes", "0", "--log-every", "1", "--device", "cpu")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCCLIP_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The rectangles of `training_case` in COCO's layout."""
    rectangles, root = training_case.Rectangles(3), tmp_path / "coco"
    for folder in ("annotations", "panoptic_train2017", "train2017"):
        (root / folder).mkdir(parents=True)
    annotations = []
    for index in range(3):
        sample = rectangles[index]
        Image.fromarray(sample.image).save(root / "train2017" / f"{index}.jpg")
        colors = np.stack((sample.segment_map, sample.segment_map * 0, sample.segment_map * 0), -1).astype(np.uint8)
        Image.fromarray(colors).save(root / "panoptic_train2017" / f"{index}.png")
        segments = [{"id": item.id, "category_id": item.class_index + 1, "iscrowd": 0} for item in sample.segments]
        annotations.append({"image_id": index, "file_name": f"{index}.png", "segments_info": segments})
    classes = zip(rectangles.classes.names, rectangles.classes.things, strict=True)
    document = {
        "images": [{"id": index, "file_name": f"{index}.jpg"} for index in range(3)],
        "categories": [
            {"id": number, "name": name, "isthing": int(thing)} for number, (name, thing) in enumerate(classes, 1)
        ],
        "annotations": annotations,
    }
    (root / "annotations" / "panoptic_train2017.json").write_text(json.dumps(document))
    return root


def command(data: Path, out: Path, *more: str) -> int:
    return main(["train", "coco", "--data", str(data), "--out", str(out), *ARGUMENTS, *more])


def test_trains_then_continues(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert command(data, out, "--checkpoint", "recipe:tiny", "--steps", "2", "--milestones", "9") == 0
    assert "tiny on 3 images, 2 a step, cpu: a new run" in capsys.readouterr().err
    assert command(data, out, "--checkpoint", "recipe:tiny", "--steps", "3", "--milestones", "9") == 0
    assert "resuming at step 2" in capsys.readouterr().err
    assert [json.loads(line)["step"] for line in (out / "log.jsonl").open()] == [0, 1, 2]
    trained = load_checkpoint(out / "model.safetensors")
    assert trained.train_vocabulary.names == training_case.Rectangles.classes.names
    assert trained.train_vocabulary.things == training_case.Rectangles.classes.things
    assert "trained for 3 of 3 steps on coco" in trained.provenance.note


def test_starts_from_clip_alone(data: Path, tmp_path: Path) -> None:
    seeded = load_checkpoint("recipe:tiny")
    layout, clip = layout_of(seeded.config), tmp_path / "clip.safetensors"
    tensors = {**seeded.state, **seeded.text_state()}
    save_file({key.removeprefix("backbone.clip_model."): tensors[key].contiguous() for key in layout.clip}, clip)
    out = tmp_path / "run"
    assert command(data, out, "--preset", "tiny", "--clip", str(clip), "--steps", "1") == 0
    trained = load_checkpoint(out / "model.safetensors")
    assert not trained.provenance.seeded
    assert [source.name for source in trained.provenance.sources] == ["clip.safetensors"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--checkpoint", "recipe:tiny", "--crop", "100"), "crop is 100; it must be a multiple of 32"),
        (("--checkpoint", "recipe:tiny", "--vocabulary", "cat; dog"), "has 2 classes, but the dataset has 3"),
        (("--preset", "huge"), "there is no preset 'huge'"),
        (("--checkpoint", "recipe:tiny", "--device", "tpu"), "device is 'tpu'"),
        (("--checkpoint", "recipe:tiny", "--split", "val2017"), "panoptic_val2017.json"),
    ],
)
def test_what_cannot_be_is_said(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], said: str
) -> None:
    assert command(data, tmp_path / "run", *more) == 2
    assert said in capsys.readouterr().err


def test_a_broken_image_is_named(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "train2017" / "1.jpg").write_bytes(b"no image")
    more = ("--checkpoint", "recipe:tiny", "--steps", "2", "--loader-processes", "1")
    assert command(data, tmp_path / "run", *more) == 2
    error = capsys.readouterr().err
    assert "1.jpg" in error and "Traceback" not in error


def test_without_arguments_the_recipe_is_the_papers(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(train, "run", lambda args: asked.append(train.config_from(args)) or 0)
    assert main(["train", "coco", "--data", "x", "--out", "y"]) == 0
    assert main(["train", "coco", "--data", "x", "--out", "y", "--steps", "36875"]) == 0
    assert asked[0] == TrainingConfig()
    assert asked[1].drops == (32_778, 35_509)
