"""Progress of a training run: a JSON line per log entry, TensorBoard scalars and a progress bar."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fcclip_core import distributed
from fcclip_core.errors import TrainingError
from fcclip_core.files.atomic_write import atomic_write
from fcclip_core.terminal import Terminal

LOG_FILE = "log.jsonl"


class Journal:
    """Writes `log.jsonl`, `tensorboard/` if TensorBoard is installed, and a progress bar; only in the first worker."""

    def __init__(self, folder: Path, first_step: int, steps: int) -> None:
        """Continues the log in `folder`; entries from `first_step` on are dropped, because those steps are repeated."""
        self._silent = not distributed.is_first()
        self._path = folder / LOG_FILE
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Terminal(stderr=True),
            disable=self._silent,
        )
        self._task = self._progress.add_task("training", total=steps, completed=first_step, loss="")
        self._scalars = None if self._silent else _scalar_writer(folder / "tensorboard", first_step)
        if not self._silent:
            self._drop_from(first_step)

    def __enter__(self) -> Journal:
        """Shows the progress bar."""
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Removes the progress bar."""
        self._progress.stop()
        if self._scalars is not None:
            self._scalars.close()

    def write(self, entry: dict[str, float]) -> None:
        """Adds an entry with at least `step` and `loss`.

        Raises:
            TrainingError: The log cannot be written.
        """
        if self._silent:
            return
        try:
            with self._path.open("a") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise TrainingError(
                f"the log {self._path} cannot be written: {error.strerror or error}; the last saved state is intact. "
                "Free disk space and run the same command again"
            ) from error
        self._progress.update(self._task, loss=f"loss {entry['loss']:.3f}")
        if self._scalars is not None:
            for name, value in entry.items():
                if name != "step":
                    self._scalars.add_scalar(name, value, int(entry["step"]))

    def advance(self, done: int) -> None:
        """Updates the number of completed steps."""
        self._progress.update(self._task, completed=done)

    def _drop_from(self, step: int) -> None:
        if not self._path.exists():
            return
        kept = [line for line in self._path.read_text().splitlines() if _step_of(line) < step]
        with atomic_write(self._path) as part:
            part.write_text("".join(line + "\n" for line in kept))


def _step_of(line: str) -> float:
    """The entry's step; infinite for a line truncated when the run was killed."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _scalar_writer(folder: Path, first_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=first_step)
