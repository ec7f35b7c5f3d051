"""`auto`: the best published model that was imported on this machine, else the demo, and what is said of it."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from fcclip_core import Segmenter
from fcclip_core.cli import main
from fcclip_core.commands import weights
from fcclip_core.commands.inference_arguments import add_model_arguments
from fcclip_core.weights import model_zoo
from fcclip_core.weights.checkpoints import Checkpoint, Provenance, load_checkpoint, save_checkpoint
from fcclip_core.weights.model_zoo import imported_models, models_folder, remember_import


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    found = models_folder()
    assert found == tmp_path / "data" / "fcclip_ros" / "models"
    return found


@pytest.fixture
def tiny_is_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """The preset tiny counts as a published model, the worst of all, and seeded weights as real."""
    worst = replace(model_zoo.PUBLISHED_MODELS[1], key="tiny", preset="tiny", ade20k=model_zoo.Scores(miou=0.1, pq=0.1))
    monkeypatch.setattr(model_zoo, "PUBLISHED_MODELS", (*model_zoo.PUBLISHED_MODELS, worst))
    monkeypatch.setattr(weights, "_published_model", lambda checkpoint: worst)


def test_without_an_import_auto_is_the_demo_and_one_line_says_how_to_get_better(
    caplog: pytest.LogCaptureFixture,
) -> None:
    checkpoint = load_checkpoint("auto")
    assert checkpoint.config.name == "convnext_small"
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "\n" not in record.getMessage()
    assert "bundled demo is used" in record.getMessage()
    assert f"{len(checkpoint.train_vocabulary)} classes" in record.getMessage()
    assert record.getMessage().endswith("run: fcclip weights install convnext_large")


@pytest.mark.usefixtures("tiny_is_published")
def test_an_import_without_a_place_is_what_auto_takes(
    folder: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["weights", "import", "recipe:tiny"]) == 0
    assert "checkpoint auto, the default everywhere, finds it now" in capsys.readouterr().err
    assert imported_models() == {"tiny": folder / "tiny.safetensors"}
    assert load_checkpoint("auto").config.name == "tiny"
    assert "demo" not in caplog.text


@pytest.mark.usefixtures("tiny_is_published")
def test_an_import_to_a_place_of_the_users_is_found_too(tmp_path: Path, folder: Path) -> None:
    assert main(["weights", "import", "recipe:tiny", "-o", str(tmp_path / "mine.safetensors")]) == 0
    assert [path.resolve() for path in imported_models().values()] == [tmp_path / "mine.safetensors"]
    assert load_checkpoint("auto").config.name == "tiny"
    (tmp_path / "mine.safetensors").unlink()
    assert imported_models() == {}


@pytest.mark.usefixtures("tiny_is_published")
def test_a_damaged_import_is_said_and_the_next_best_taken(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main(["weights", "import", "recipe:tiny"]) == 0
    (folder / "convnext_large.safetensors").write_bytes(b"damaged")
    assert load_checkpoint("auto").config.name == "tiny"
    assert "checkpoint auto: " in caplog.text
    assert "convnext_large.safetensors" in caplog.text


def test_the_most_accurate_import_comes_first(folder: Path) -> None:
    folder.mkdir(parents=True)
    for preset in ("rn50", "convnext_large", "rn50x64", "tiny"):
        (folder / f"{preset}.safetensors").touch()
    assert list(imported_models()) == ["convnext_large", "rn50x64", "rn50"]


def test_seeded_and_own_models_do_not_count_as_published() -> None:
    def key_of(checkpoint: Checkpoint) -> str:
        model = weights._published_model(checkpoint)
        return model.key if model else ""

    seeded = load_checkpoint("recipe:tiny")
    assert key_of(seeded) == ""
    large = replace(seeded, config=replace(seeded.config, name="rn50"))
    assert key_of(large) == ""
    assert key_of(replace(large, provenance=Provenance())) == "rn50"
    assert key_of(replace(large, provenance=Provenance(note="trained for 10 of 10 steps on coco"))) == ""


def test_what_is_not_published_is_not_put_where_auto_looks(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "import", "recipe:tiny"]) == 2
    assert "recipe:tiny is not a published model, so name the file: -o OUT.safetensors" in capsys.readouterr().err
    assert not folder.exists()


@pytest.mark.parametrize("home", ["~", "relative"])
def test_a_user_without_a_home_is_told_to_name_the_file(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", home)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    assert models_folder() is None
    assert imported_models() == {}
    assert main(["weights", "import", "recipe:tiny"]) != 0
    assert "-o OUT.safetensors" in capsys.readouterr().err
    save_checkpoint(tmp_path / "m.safetensors", load_checkpoint("recipe:tiny"))
    assert "set XDG_DATA_HOME" in remember_import(tmp_path / "m.safetensors", "tiny")


def test_auto_is_the_default_of_commands_and_python() -> None:
    import argparse

    parser = argparse.ArgumentParser()
    add_model_arguments(parser)
    assert parser.parse_args([]).checkpoint == "auto"
    assert len(Segmenter.from_checkpoint("auto", device="cpu", backend="eager").train_vocabulary) == 80
