"""Which of a training's exported checkpoints is the best on a dataset; what was evaluated is not evaluated again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcclip_core.distributed import is_first, wait_for_all
from fcclip_core.errors import DatasetError, FcclipError
from fcclip_core.files.atomic_write import atomic_write
from fcclip_core.files.json_files import write_json
from fcclip_core.weights.checkpoints import load_checkpoint

RECORD_FILE, BEST_FILE = "selection.json", "best.safetensors"
KEPT = ("pq.all", "sq.all", "rq.all", "pq.seen", "pq.unseen", "miou.all", "ap.all")
"""Scores that the record keeps of each checkpoint, by their names in an evaluation."""

Scores = Mapping[str, float | None]


@dataclass(frozen=True)
class Candidate:
    """An exported checkpoint and its scores, in per cent."""

    path: Path
    scores: Scores


@dataclass(frozen=True)
class Selection:
    """The evaluated checkpoints in order, and the best of them; of equal ones the first."""

    candidates: tuple[Candidate, ...]
    best: Candidate


def exported(folder: Path) -> list[Path]:
    """The checkpoints that a training wrote into `folder`: step by step, then the finished one."""
    finished = folder / "model.safetensors"
    return [*sorted(folder.glob("step_*.safetensors")), *([finished] if finished.exists() else [])]


def select(
    folder: Path,
    about: Mapping[str, Any],
    evaluate: Callable[[Path], Scores | None],
    measure: str = "pq.all",
) -> Selection:
    """Evaluates all exported checkpoints in `folder` and keeps the best one as `BEST_FILE`.

    Each result is in `RECORD_FILE` as soon as it is there, so an interrupted selection continues where it was. Results
    that were made otherwise (`about` differs), or of other weights, are made again.

    Args:
        folder: A training's output folder.
        about: How checkpoints are evaluated: dataset, settings and so on, as JSON.
        evaluate: Gives a checkpoint's scores in the first process, in the others anything.
        measure: The score that decides.

    Raises:
        FcclipError: There is no checkpoint, none has the measure, or the folder cannot be written.
    """
    paths = exported(folder)
    if not paths:
        raise FcclipError(f"{folder} has no exported checkpoint to select from; train first")
    # Two files of the same weights may differ in their headers, so the files' own hashes do not tell.
    weights = {path: load_checkpoint(path).weights_id for path in paths}
    known = _known(folder / RECORD_FILE, about)
    wait_for_all()  # all processes read the record before one writes it
    for path in paths:
        if weights[path] not in known:
            scores = evaluate(path) or {}
            known[weights[path]] = {name: scores[name] for name in KEPT if name in scores}
            _write(folder, about, known, weights)
    candidates = tuple(Candidate(path, known[weights[path]]) for path in paths)
    if not is_first():
        return Selection(candidates, candidates[-1])
    rated = [item for item in candidates if item.scores.get(measure) is not None]
    if not rated:
        raise FcclipError(f"no checkpoint in {folder} has {measure}: the images have no ground truth for it")
    best = max(rated, key=lambda item: item.scores[measure] or 0.0)
    _keep(folder, best.path)
    return Selection(candidates, best)


def _known(path: Path, about: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """Results that were made in the same way, by `Checkpoint.weights_id`."""
    try:
        content = json.loads(path.read_text())
        if content["about"] != json.loads(json.dumps(about)):
            return {}
        return {
            str(row["weights"]): {name: row[name] for name in KEPT if name in row} for row in content["checkpoints"]
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} is not a record of a selection; remove it to evaluate anew") from error


def _write(folder: Path, about: Mapping[str, Any], known: Mapping[str, Scores], weights: Mapping[Path, str]) -> None:
    if not is_first():
        return
    rows = [{"file": path.name, "weights": key, **known[key]} for path, key in weights.items() if key in known]
    try:
        write_json(folder / RECORD_FILE, {"about": about, "units": "per cent", "checkpoints": rows})
    except OSError as error:
        raise _not_written(folder / RECORD_FILE, error) from error


def _keep(folder: Path, best: Path) -> None:
    """Links the best checkpoint under its own name, or copies it where the file system has no links."""
    kept = folder / BEST_FILE
    if kept.exists() and kept.samefile(best):
        return
    try:
        with atomic_write(kept) as part:
            part.unlink(missing_ok=True)
            try:
                os.link(best, part)
            except OSError:
                shutil.copyfile(best, part)
    except OSError as error:
        raise _not_written(kept, error) from error


def _not_written(path: Path, error: OSError) -> FcclipError:
    return FcclipError(
        f"cannot write {path}: {error.strerror or error}; free disk space and run the same command again"
    )


SHOWN = {"PQ": "pq.all", "SQ": "sq.all", "RQ": "rq.all", "AP": "ap.all", "mIoU": "miou.all"}
"""Columns of the printed table."""


def rows(selection: Selection) -> Sequence[Sequence[str]]:
    """Table cells: the file's stem, then each of `SHOWN` with one decimal; the best is marked."""
    return [
        [
            item.path.stem + " (best)" * (item is selection.best),
            *(_cell(item.scores.get(key)) for key in SHOWN.values()),
        ]
        for item in selection.candidates
    ]


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
