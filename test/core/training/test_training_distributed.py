"""Two workers make the step that one makes with all images: `torchrun` on gloo."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import training_case

from fcclip_core import distributed
from fcclip_core.errors import TrainingError
from fcclip_core.training.journal import LOG_FILE
from fcclip_core.training.trainer import STATE_FILE


def gradients(folder: Path) -> list[torch.Tensor]:
    """AdamW's first moment after one step is a tenth of the clipped gradient."""
    state = torch.load(folder / STATE_FILE, weights_only=True)
    return [entry["exp_avg"] for entry in state["optimizer"]["state"].values()]


@pytest.mark.slow
def test_two_workers_make_the_same_gradients_as_one(tmp_path: Path) -> None:
    training_case.trainer(tmp_path / "one", steps=1).run()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    result = subprocess.run(
        [*command, training_case.__file__, str(tmp_path / "two"), "1"], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-2000:]
    one, two = ([json.loads(line) for line in (tmp_path / name / LOG_FILE).open()] for name in ("one", "two"))
    assert two == [pytest.approx(entry, rel=1e-5) for entry in one]
    for expected, found in zip(gradients(tmp_path / "one"), gradients(tmp_path / "two"), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.norm()) + 1e-10)


def test_a_batch_that_does_not_divide_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    with pytest.raises(TrainingError, match="batch_size 2 is not divisible by the number of workers, 3"):
        training_case.trainer(tmp_path)


def test_workers_that_see_different_states_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training_case.trainer(tmp_path, steps=3).run()
    trainer = training_case.trainer(tmp_path, steps=6)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    # The other worker found no state: it adds 0.
    monkeypatch.setattr(distributed, "sum_over_workers", lambda values: values)
    with pytest.raises(TrainingError, match="do not see the same saved state"):
        trainer.run()
