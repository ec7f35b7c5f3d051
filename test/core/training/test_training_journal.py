"""What a run tells: TensorBoard scalars where it is installed, nothing in the other workers; and bfloat16."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest
import training_case

from fcclip_core import distributed
from fcclip_core.errors import TrainingError
from fcclip_core.training.journal import LOG_FILE, Journal


class Writer:
    """Stands for TensorBoard's."""

    made: list[Writer] = []

    def __init__(self, folder: str, purge_step: int) -> None:
        self.folder, self.purge_step, self.closed = folder, purge_step, False
        self.scalars: list[tuple[str, float, int]] = []
        self.made.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.append((name, value, step))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def tensorboard(monkeypatch: pytest.MonkeyPatch) -> type[Writer]:
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr(Writer, "made", [])
    return Writer


def test_scalars_continue_where_the_run_does(tmp_path: Path, tensorboard: type[Writer]) -> None:
    with Journal(tmp_path, 7, 10) as journal:
        journal.write({"step": 7, "loss": 2.0, "rate": 0.1})
    (writer,) = tensorboard.made
    assert writer.folder == str(tmp_path / "tensorboard") and writer.purge_step == 7 and writer.closed
    assert writer.scalars == [("loss", 2.0, 7), ("rate", 0.1, 7)]


def test_without_tensorboard_there_is_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with Journal(tmp_path, 0, 1) as journal:
        journal.write({"step": 0, "loss": 2.0})
    assert json.loads((tmp_path / LOG_FILE).read_text()) == {"step": 0, "loss": 2.0}


def test_other_workers_write_nothing(
    tmp_path: Path, tensorboard: type[Writer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "is_first", lambda: False)
    with Journal(tmp_path, 0, 1) as journal:
        journal.write({"step": 0, "loss": 2.0})
    assert not list(tmp_path.iterdir()) and not tensorboard.made


def test_a_log_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with Journal(tmp_path, 0, 1) as journal:
        (tmp_path / LOG_FILE).symlink_to("/dev/full")
        with pytest.raises(TrainingError, match=r"log\.jsonl cannot be written: No space left on device"):
            journal.write({"step": 0, "loss": 2.0})


def test_bfloat16_takes_the_same_step_roughly(tmp_path: Path) -> None:
    losses = {}
    for precision in ("float32", "bfloat16"):
        training_case.trainer(tmp_path / precision, steps=1, precision=precision).run()
        losses[precision] = json.loads((tmp_path / precision / LOG_FILE).read_text())
    exact, rough = losses["float32"], losses["bfloat16"]
    assert rough["loss"] != exact["loss"]
    assert rough["loss"] == pytest.approx(exact["loss"], rel=0.05)
