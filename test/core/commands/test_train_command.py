"""`fcclip train coco` on a directory in COCO's format, written here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import training_case
from PIL import Image
from safetensors.torch import save_file

from fcclip_core.cli import main
from fcclip_core.commands import train, train_selection
from fcclip_core.training.config import TrainingConfig
from fcclip_core.weights.checkpoints import load_checkpoint
from fcclip_core.weights.published_layout import MASK_TOWER_PREFIX, VISUAL_PREFIX, layout_of

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


def test_ade20k_has_a_schedule_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(train, "run", lambda args: asked.append(train.config_from(args)) or 0)
    assert main(["train", "ade20k", "--data", "x", "--out", "y"]) == 0
    (config,) = asked
    assert (config.steps, config.augmentation.crop, config.drops) == (160_000, 640, (142_222, 154_074))


def test_a_copy_of_the_tower_is_trained_and_resumed(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert command(data, out, "--checkpoint", "recipe:tiny", "--steps", "1", "--train-backbone", "copy") == 0
    assert command(data, out, "--checkpoint", "recipe:tiny", "--steps", "2", "--train-backbone", "copy") == 0
    trained = load_checkpoint(out / "model.safetensors")
    assert trained.config.mask_tower == "own"
    moved = [
        not torch.equal(trained.state[key], trained.state[VISUAL_PREFIX + key.removeprefix(MASK_TOWER_PREFIX)])
        for key in trained.state
        if key.startswith(MASK_TOWER_PREFIX)
    ]
    assert moved and all(moved)


SELECT = ("--select", "pq", "--select-on", "coco", "--select-split", "train2017")


def test_the_best_exported_checkpoint_is_kept(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """PQ of untrained networks is 0 and more by chance, so the scores are given; a second run evaluates nothing."""
    scores = iter([{"pq.all": 10.0}, {"pq.all": 30.0}, {"pq.all": 20.0}])
    monkeypatch.setattr(train_selection.SelectionPlan, "_scores", lambda self, path, device: next(scores))
    out, more = tmp_path / "run", ("--checkpoint", "recipe:tiny", "--steps", "3", "--export-every", "1")
    assert command(data, out, *more, *SELECT, "--select-data", str(data)) == 0
    assert "step_000002 (best)" in capsys.readouterr().out
    assert (out / "best.safetensors").samefile(out / "step_000002.safetensors")
    assert command(data, out, *more, *SELECT, "--select-data", str(data)) == 0


def test_a_selection_evaluates_as_the_command_does(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    more = ("--checkpoint", "recipe:tiny", "--steps", "1", *SELECT)
    assert command(data, out, *more, "--select-data", str(data), "--select-limit", "1") == 0
    (row,) = json.loads((out / "selection.json").read_text())["checkpoints"]
    checked, words = tmp_path / "checked.json", tmp_path / "words.yaml"
    words.write_text(load_checkpoint(out / "best.safetensors").train_vocabulary.to_yaml())
    evaluated = ["evaluate", "coco", "--data", str(data), "--split", "train2017", "--limit", "1", "--device", "cpu"]
    evaluated += ["--checkpoint", str(out / "best.safetensors"), "--vocabulary", str(words), "--json", str(checked)]
    assert main(evaluated) == 0
    expected = json.loads(checked.read_text())
    assert row["file"] == "model.safetensors"
    assert all(row[name] == pytest.approx(expected[name]) for name in ("pq.all", "miou.all"))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--select", "pq"), "--select needs the folder of ade20k; give it with --select-data"),
        (("--select", "pq", "--select-on", "ade20k_150"), "ade20k_150 has no segments to measure PQ on"),
        ((*SELECT, "--select-limit", "0"), "--select-limit is 0; expected 1 or more"),
        ((*SELECT, "--select-split", "val2017"), "panoptic_val2017.json"),
    ],
)
def test_what_cannot_be_selected_on_is_said_before_training(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], said: str
) -> None:
    assert command(data, tmp_path / "run", "--checkpoint", "recipe:tiny", *more) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_semantic_labels_train(tmp_path: Path) -> None:
    root, out = tmp_path / "voc", tmp_path / "run"
    for folder in ("ImageSets/Segmentation", "JPEGImages", "SegmentationClass"):
        (root / folder).mkdir(parents=True)
    (root / "ImageSets/Segmentation/train.txt").write_text("a\nb\n")
    for name in "ab":
        Image.new("RGB", (48, 32), (90, 90, 90)).save(root / "JPEGImages" / f"{name}.jpg")
        labels = np.full((32, 48), 255 if name == "b" else 0, np.uint8)  # b has no label at all
        labels[4:20, 4:20] = 255 if name == "b" else 12
        Image.fromarray(labels).save(root / "SegmentationClass" / f"{name}.png")
    arguments = ["train", "pascal_voc_20", "--data", str(root), "--out", str(out), *ARGUMENTS]
    assert main([*arguments, "--checkpoint", "recipe:tiny", "--steps", "2"]) == 0
    assert "dog" in load_checkpoint(out / "model.safetensors").train_vocabulary.names
