"""A run that is killed, a disk that is full, a state that belongs elsewhere, a loss that is no number."""

from __future__ import annotations

import dataclasses
import json
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import training_case
from safetensors.torch import load_file

from fcclip_core.errors import DatasetError, TrainingError
from fcclip_core.training.journal import LOG_FILE
from fcclip_core.training.trainer import MODEL_FILE, STATE_FILE, Trainer
from fcclip_core.weights.checkpoints import load_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = 14


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / LOG_FILE).read_text().splitlines()]


@pytest.mark.slow
def test_a_killed_run_continues_exactly(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    training_case.trainer(whole, steps=STEPS).run()

    lines = random.randint(4, STEPS - 2)
    process = subprocess.Popen(
        [sys.executable, training_case.__file__, str(killed), str(STEPS)], stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not (killed / LOG_FILE).exists() or (killed / LOG_FILE).read_bytes().count(b"\n") < lines:
        assert process.poll() is None and time.monotonic() < deadline, "the run ended before it was killed"
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / MODEL_FILE).exists()

    resumed = training_case.trainer(killed, steps=STEPS)
    assert 3 <= resumed.step < STEPS
    resumed.run()
    assert log_of(killed) == log_of(whole)
    expected = load_file(whole / MODEL_FILE)
    assert all(torch.equal(tensor, expected[key]) for key, tensor in load_file(killed / MODEL_FILE).items())


def test_a_resumed_run_continues_exactly(tmp_path: Path) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    training_case.trainer(whole, steps=8, save_every=100).run()
    training_case.trainer(halves, steps=5, save_every=100).run()
    with (halves / LOG_FILE).open("a") as file:  # what a run writes between its last state and its end
        file.write('{"step": 5, "loss": 1.0}\n{"step": 6, "lo')
    training_case.trainer(halves, steps=8, save_every=100).run()
    assert log_of(halves) == log_of(whole)
    expected = load_file(whole / MODEL_FILE)
    assert all(torch.equal(tensor, expected[key]) for key, tensor in load_file(halves / MODEL_FILE).items())


def test_steps_can_be_raised_though_milestones_move_along(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What was made stays; where the rate had fallen already, it is said that it rises again."""
    whole, raised = tmp_path / "whole", tmp_path / "raised"
    training_case.trainer(whole, steps=8, milestones=(6,)).run()
    training_case.trainer(raised, steps=4, milestones=(4,)).run()
    training_case.trainer(raised, steps=8, milestones=(6,)).run()
    assert log_of(raised) == log_of(whole)
    assert not caplog.records

    training_case.trainer(raised, steps=12, milestones=(10,))
    (record,) = caplog.records
    assert "had dropped to 0.0001 by step 8; with 12 steps it is 0.001 again, until step 10" in record.getMessage()


def test_steps_are_raised_and_what_was_given_is_compared(tmp_path: Path) -> None:
    """Nobody gave milestones, so they move along; up to step 3 a run of 8 steps is one of 4."""
    whole, raised, half = tmp_path / "whole", tmp_path / "raised", {"milestones": None, "slow_down": (0.5,)}
    training_case.trainer(whole, steps=8, **half).run()
    training_case.trainer(raised, steps=4, **{**half, "slow_down": (0.75,)}).run()
    assert training_case.trainer(raised, steps=4, **{**half, "slow_down": (0.75,)}).changes == ""

    trainer = training_case.trainer(raised, steps=8, **half)
    assert trainer.changes == (
        "steps were 4 and are 8; milestones move along, from 3 to 4; of the 4 completed steps 1, from step 3 on, had "
        "another learning rate than in a run started so; they stay"
    )
    trainer = training_case.trainer(raised, steps=8, milestones=(3, 5))
    assert trainer.changes == (
        "steps were 4 and are 8; milestones were given, from 3 to 3, 5; the 4 completed steps are those of a run "
        "started so"
    )


def test_a_raised_run_equals_a_whole_one_before_its_milestones(tmp_path: Path) -> None:
    whole, raised, late = tmp_path / "whole", tmp_path / "raised", {"milestones": None, "slow_down": (1.0,)}
    training_case.trainer(whole, steps=6, **late).run()
    training_case.trainer(raised, steps=3, **late).run()
    trainer = training_case.trainer(raised, steps=6, **late)
    assert trainer.changes.endswith("the 3 completed steps are those of a run started so")
    trainer.run()
    assert log_of(raised) == log_of(whole)
    expected = load_file(whole / MODEL_FILE)
    assert all(torch.equal(tensor, expected[key]) for key, tensor in load_file(raised / MODEL_FILE).items())


def test_a_state_without_a_schedule_resumes(tmp_path: Path) -> None:
    training_case.trainer(tmp_path, steps=3).run()
    content = torch.load(tmp_path / STATE_FILE, weights_only=True)
    del content["schedule"]
    torch.save(content, tmp_path / STATE_FILE)
    trainer = training_case.trainer(tmp_path, steps=6)
    assert (trainer.step, trainer.changes) == (3, "")


def test_a_damaged_schedule_is_said(tmp_path: Path) -> None:
    training_case.trainer(tmp_path, steps=3).run()
    content = torch.load(tmp_path / STATE_FILE, weights_only=True)
    content["schedule"]["steps"] = "many"
    torch.save(content, tmp_path / STATE_FILE)
    with pytest.raises(TrainingError, match="damaged: its schedule is"):
        training_case.trainer(tmp_path)


def test_loader_processes_change_nothing(tmp_path: Path) -> None:
    training_case.trainer(tmp_path / "none", steps=2).run()
    training_case.trainer(tmp_path / "two", steps=2, loader_processes=2).run()
    assert log_of(tmp_path / "two") == log_of(tmp_path / "none")


def test_training_moves_all_but_clip(tmp_path: Path) -> None:
    before = training_case.start().state
    after = load_checkpoint(training_case.trainer(tmp_path, steps=1).run()).state
    unmoved = {key for key in before if torch.equal(before[key], after[key])}
    clip = {key for key in before if key.startswith("backbone.clip_model.")}
    # exp(4.7) is above CLIP's limit of 100: the seeded temperature has no gradient, and decay alone moves it.
    assert unmoved == clip


def test_a_trained_backbone_moves_too(tmp_path: Path) -> None:
    before = training_case.start().state
    after = load_checkpoint(training_case.trainer(tmp_path, steps=1, train_backbone=True).run()).state
    unmoved = {key for key in before if torch.equal(before[key], after[key])}
    assert unmoved and all(".head." in key or key.endswith("clip_model.logit_scale") for key in unmoved)


def test_a_step_is_clipped_and_the_backbone_goes_slower(tmp_path: Path) -> None:
    training_case.trainer(tmp_path, steps=1, train_backbone=True).run()
    optimizer = torch.load(tmp_path / STATE_FILE, weights_only=True)["optimizer"]
    # After one step AdamW's first moment is a tenth of the gradient, whose norm was in the hundreds.
    moments = torch.cat([entry["exp_avg"].flatten() for entry in optimizer["state"].values()])
    assert moments.norm().item() == pytest.approx(0.1 * training_case.CONFIG.gradient_clip, rel=1e-3)
    assert {group["lr"] for group in optimizer["param_groups"]} == {1e-3, 1e-4}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"learning_rate": 5e-4}, "learning_rate was 0.001 and is 0.0005"),
        ({"batch_size": 4}, "batch_size was 2 and is 4"),
    ],
)
def test_another_recipe_does_not_resume(tmp_path: Path, change: dict[str, object], said: str) -> None:
    training_case.trainer(tmp_path, steps=3).run()
    with pytest.raises(TrainingError, match=said):
        training_case.trainer(tmp_path, **change)


def test_another_preset_does_not_resume(tmp_path: Path) -> None:
    training_case.trainer(tmp_path, steps=3).run()
    state = (tmp_path / STATE_FILE).read_bytes()
    start = training_case.start()
    other = dataclasses.replace(start, config=dataclasses.replace(start.config, name="convnext_small"))
    with pytest.raises(TrainingError, match="preset was tiny and is convnext_small"):
        Trainer(training_case.CONFIG, other, training_case.Rectangles(), tmp_path, text_rows=torch.ones(3, 64))
    assert (tmp_path / STATE_FILE).read_bytes() == state


def test_other_start_weights_do_not_resume(tmp_path: Path) -> None:
    training_case.trainer(tmp_path, steps=3).run()
    start = training_case.start()
    frozen = "backbone.clip_model.visual.trunk.stem.0.weight"
    other = dataclasses.replace(start, state={**start.state, frozen: start.state[frozen] + 1})
    with pytest.raises(TrainingError, match="CLIP's weights"):
        Trainer(training_case.CONFIG, other, training_case.Rectangles(), tmp_path, text_rows=torch.ones(3, 64))


@pytest.mark.parametrize("content", [b"", b"not a state", b"PK\x03\x04 cut off"])
def test_a_damaged_state_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / STATE_FILE).write_bytes(content)
    with pytest.raises(TrainingError, match=r"resume\.pt"):
        training_case.trainer(tmp_path)


def test_a_state_with_code_inside_is_not_run(tmp_path: Path) -> None:
    torch.save({"format": print}, tmp_path / STATE_FILE)
    with pytest.raises(TrainingError, match="not a training state|not a readable training state"):
        training_case.trainer(tmp_path)


def test_a_full_disk_keeps_the_last_state(tmp_path: Path) -> None:
    training_case.trainer(tmp_path, steps=3).run()
    state = (tmp_path / STATE_FILE).read_bytes()
    trainer = training_case.trainer(tmp_path, steps=6)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limit[1]))
        with pytest.raises(TrainingError, match=r"step 6 cannot be written .*: File too large; the previous state"):
            trainer.run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert (tmp_path / STATE_FILE).read_bytes() == state
    assert not list(tmp_path.glob(".*"))
    assert training_case.trainer(tmp_path, steps=6).step == 3


def test_a_diverged_run_stops_and_names_the_step(tmp_path: Path) -> None:
    training_case.trainer(tmp_path, steps=3).run()
    trainer = training_case.trainer(tmp_path, steps=6)
    with torch.no_grad():
        trainer._parameters["mask_decoder.mask_embed.layers.2.bias"].fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"diverged in step 3: .*resume\.pt is the last saved state"):
        trainer.run()
    assert training_case.trainer(tmp_path, steps=6).step == 3


def test_a_damaged_sample_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(self: object, index: int) -> None:
        raise DatasetError(f"sample{index}.png is damaged")

    monkeypatch.setattr(training_case.Rectangles, "__getitem__", damaged)
    with pytest.raises(DatasetError, match=r"^sample\d\.png is damaged$"):
        training_case.trainer(tmp_path, loader_processes=1).run()


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="cannot create the output folder .*file/run: Not a directory"):
        training_case.trainer(tmp_path / "file" / "run")


def test_an_empty_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="empty"):
        Trainer(training_case.CONFIG, training_case.start(), training_case.Rectangles(0), tmp_path)


def test_other_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="3 classes and the training vocabulary 133"):
        Trainer(training_case.CONFIG, load_checkpoint("recipe:tiny"), training_case.Rectangles(), tmp_path)
