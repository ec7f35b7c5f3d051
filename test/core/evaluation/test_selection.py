"""Which exported checkpoint is kept, and that an interrupted selection goes on where it was."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from fcclip_core.errors import FcclipError
from fcclip_core.evaluation import selection
from fcclip_core.evaluation.selection import BEST_FILE, RECORD_FILE, exported, rows, select

PQ = {"step_000100": 20.0, "step_000200": 30.0, "step_000300": 30.0, "model": 10.0}
ABOUT = {"dataset": "ade20k", "split": "validation", "limit": None}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with files that stand for checkpoints; their weights are their text."""
    for stem in PQ:
        (tmp_path / f"{stem}.safetensors").write_text(stem)
    monkeypatch.setattr(selection, "load_checkpoint", lambda path: SimpleNamespace(weights_id=path.read_text()))
    return tmp_path


class Evaluator:
    """Gives `PQ` and remembers what was asked; is interrupted before the evaluation number `stop`."""

    def __init__(self, stop: int = 99) -> None:
        self.asked: list[str] = []
        self._stop = stop

    def __call__(self, path: Path) -> dict[str, float | None]:
        if len(self.asked) == self._stop:
            raise KeyboardInterrupt
        self.asked.append(path.stem)
        return {"pq.all": PQ[path.stem], "fps": 3.0}


def test_the_first_of_the_best_is_kept(run: Path) -> None:
    found = select(run, ABOUT, Evaluator())
    assert [item.path.stem for item in found.candidates] == list(PQ)
    assert found.best.path.stem == "step_000200"
    assert (run / BEST_FILE).samefile(run / "step_000200.safetensors")
    assert [row[:2] for row in rows(found)] == [
        ["step_000100", "20.0"],
        ["step_000200 (best)", "30.0"],
        ["step_000300", "30.0"],
        ["model", "10.0"],
    ]


def test_an_interrupted_selection_goes_on(run: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        select(run, ABOUT, Evaluator(stop=2))
    assert [row["file"] for row in json.loads((run / RECORD_FILE).read_text())["checkpoints"]] == [
        "step_000100.safetensors",
        "step_000200.safetensors",
    ]
    assert not (run / BEST_FILE).exists()
    again = Evaluator()
    select(run, ABOUT, again)
    assert again.asked == ["step_000300", "model"]


def test_only_what_is_new_is_evaluated(run: Path) -> None:
    select(run, ABOUT, Evaluator())
    (run / "step_000300.safetensors").write_text("model")  # written again, with the weights of the finished one
    none = Evaluator()
    assert select(run, ABOUT, none).candidates[2].scores == {"pq.all": 10.0}
    assert none.asked == []
    other = Evaluator()
    select(run, ABOUT | {"limit": 10}, other)
    assert len(other.asked) == 3


def test_where_links_are_unknown_it_is_copied(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(*_: object) -> None:
        raise OSError("not here")

    monkeypatch.setattr(os, "link", no_link)
    select(run, ABOUT, Evaluator())
    assert (run / BEST_FILE).read_text() == "step_000200"
    assert not (run / BEST_FILE).samefile(run / "step_000200.safetensors")


def test_exported_checkpoints_are_in_order(run: Path) -> None:
    (run / "best.safetensors").write_text("old")
    (run / "resume.pt").write_text("state")
    assert [path.stem for path in exported(run)] == list(PQ)


def test_what_cannot_be_selected_is_said(run: Path, tmp_path: Path) -> None:
    with pytest.raises(FcclipError, match="has miou.all: the images have no ground truth for it"):
        select(run, ABOUT, Evaluator(), "miou.all")
    (run / RECORD_FILE).write_text("[1")
    with pytest.raises(FcclipError, match="is not a record of a selection; remove it to evaluate anew"):
        select(run, ABOUT, Evaluator())
    (tmp_path / "empty").mkdir()
    with pytest.raises(FcclipError, match="no exported checkpoint to select from; train first"):
        select(tmp_path / "empty", ABOUT, Evaluator())
