"""Training a model with a k-means mask decoder: what is saved and resumed, whose statistics count, which recipe."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from pathlib import Path

import pytest
import torch
import training_case
from safetensors.torch import load_file

from fcclip_core import distributed
from fcclip_core.errors import TrainingError
from fcclip_core.model.config import CONVNEXT_LARGE, CONVNEXT_LARGE_KMAX, TINY, TINY_KMAX_DEFORMABLE
from fcclip_core.training.config import KMeansLossConfig, PolySchedule, TrainingConfig
from fcclip_core.training.demo_model.recipe import world_config
from fcclip_core.training.initialization import fresh_weights
from fcclip_core.training.journal import LOG_FILE
from fcclip_core.training.optimization import learning_rate
from fcclip_core.training.recipes import recipe_for, trained_as_kmax
from fcclip_core.training.trainer import MODEL_FILE, STATE_FILE, Trainer
from fcclip_core.weights.checkpoints import Checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = trained_as_kmax(training_case.CONFIG, KMeansLossConfig(sampled_pixels=32))


@functools.cache
def start() -> Checkpoint:
    """The tiny model's CLIP with fresh decoders."""
    tiny = training_case.start()
    clip = {key: tensor for key, tensor in tiny.state.items() if key not in fresh_weights(TINY, 0)}
    config = TINY_KMAX_DEFORMABLE
    return dataclasses.replace(tiny, config=config, state={**clip, **fresh_weights(config, 0)})


def trainer(folder: Path, **changes: object) -> Trainer:
    rows = torch.nn.functional.normalize(torch.randn(3, 64, generator=torch.Generator().manual_seed(0)), dim=-1)
    config = dataclasses.replace(CONFIG, **changes)
    return Trainer(config, start(), training_case.Rectangles(), folder, text_rows=rows)


def is_statistic(key: str) -> bool:
    return key.endswith(("running_mean", "running_var", "num_batches_tracked"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps in one go."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("whole")
    trainer(folder, steps=4, save_every=100).run()
    return folder


def test_a_resumed_run_continues_exactly(whole: Path, tmp_path: Path) -> None:
    """Weights, running statistics and every loss term; the schedule is that of the whole run."""
    first = trainer(tmp_path, steps=4, save_every=2)
    first.save = lambda: (Trainer.save(first), _stop(first))[0]  # type: ignore[method-assign]
    with pytest.raises(_StoppedError):
        first.run()
    resumed = trainer(tmp_path, steps=4, save_every=100)
    assert resumed.step == 2
    resumed.run()
    assert (tmp_path / LOG_FILE).read_text() == (whole / LOG_FILE).read_text()
    expected = load_file(whole / MODEL_FILE)
    found = load_file(tmp_path / MODEL_FILE)
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in found.items())
    statistics = [tensor for key, tensor in start().state.items() if is_statistic(key)]
    assert all(tensor.unique().tolist() in ([0], [1]) for tensor in statistics), "the first weights changed"


class _StoppedError(Exception):
    """Where the first half ends."""


def _stop(run: Trainer) -> None:
    if run.step == 2:
        raise _StoppedError


def test_what_a_run_writes_down(whole: Path) -> None:
    entries = [json.loads(line) for line in (whole / LOG_FILE).read_text().splitlines()]
    assert set(entries[0]) == {"step", "loss", "class", "mask", "dice", "pixel", "gradient", "rate"}
    assert all(math.isfinite(value) for entry in entries for value in entry.values())
    assert entries[0]["rate"] == pytest.approx(1e-3)  # a thirtieth of four steps is none


def test_running_statistics_are_trained_saved_and_exported(whole: Path) -> None:
    before, after = start().state, load_file(whole / MODEL_FILE)
    statistics = [key for key in before if is_statistic(key)]
    assert len(statistics) > 30
    assert not any(torch.equal(before[key], after[key]) for key in statistics)
    counters = [after[key] for key in statistics if key.endswith("num_batches_tracked")]
    assert all(counter.dtype == torch.int64 and counter.item() == 4 for counter in counters)


def test_statistics_can_be_frozen(tmp_path: Path) -> None:
    """From step 1 on they stay as step 0 left them; weights are still trained."""
    run = trainer(tmp_path, steps=3, save_every=100, export_every=1, freeze_statistics=1)
    run.run()
    first, last = (load_file(tmp_path / name) for name in ("step_000001.safetensors", MODEL_FILE))
    assert all(torch.equal(tensor, last[key]) for key, tensor in first.items() if is_statistic(key))
    assert any(not torch.equal(tensor, last[key]) for key, tensor in first.items() if "class_embed" in key)


def test_workers_without_gpus_cannot_share_statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    with pytest.raises(TrainingError, match="share on GPUs only"):
        trainer(tmp_path)
    trainer(tmp_path, freeze_statistics=0)


def test_states_of_older_versions_fit(tmp_path: Path) -> None:
    """A state says nothing of settings that version 0.1 did not know, as long as they have their defaults."""
    training_case.trainer(tmp_path, steps=1).run()
    identity = torch.load(tmp_path / STATE_FILE, weights_only=True)["identity"]
    assert not {"poly", "decay_vectors", "freeze_statistics"} & identity.keys()
    with pytest.raises(TrainingError, match="poly was None and is"):
        training_case.trainer(tmp_path, steps=1, poly=PolySchedule())


def test_the_rate_rises_and_falls_as_kmax_deeplabs() -> None:
    """Their numbers for 150,000 steps: 5,000 steps of warm-up from a thousandth, the fall counted from step 0."""
    recipe = recipe_for(CONVNEXT_LARGE_KMAX)
    assert learning_rate(0, recipe) == pytest.approx(5e-7)
    assert learning_rate(2_500, recipe) == pytest.approx(5e-4 * 0.5005 * (1 - 2_500 / 150_000) ** 0.9)
    assert learning_rate(5_000, recipe) == pytest.approx(5e-4 * (1 - 5_000 / 150_000) ** 0.9)
    assert learning_rate(149_999, recipe) == pytest.approx(5e-4 * (1 / 150_000) ** 0.9)
    assert learning_rate(3, dataclasses.replace(recipe, steps=10)) == pytest.approx(5e-4 * 0.7**0.9)


def test_the_mask_decoder_decides_on_the_recipe() -> None:
    assert recipe_for(CONVNEXT_LARGE) == TrainingConfig()
    assert isinstance(recipe_for(CONVNEXT_LARGE_KMAX).loss, KMeansLossConfig)
    assert world_config().poly is None
    assert isinstance(world_config(model=TINY_KMAX_DEFORMABLE).loss, KMeansLossConfig)


def test_what_a_loss_of_another_decoder_says(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="k-means"):
        trainer(tmp_path, loss=training_case.CONFIG.loss)
    with pytest.raises(TrainingError, match="k-means"):
        training_case.trainer(tmp_path, loss=KMeansLossConfig())
