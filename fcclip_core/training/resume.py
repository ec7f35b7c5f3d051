"""The state of an unfinished run: one file, written atomically and read without running code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fcclip_core.errors import CheckpointError, TrainingError
from fcclip_core.files.atomic_write import atomic_write
from fcclip_core.quoting import short, short_name
from fcclip_core.weights.weight_files import read_archive

FORMAT = "fcclip training state 1"
FREE = ("steps", "milestones", "save_every", "export_every", "log_every", "loader_processes")
"""Settings that may change when a run is resumed, because they do not affect completed steps."""


@dataclass(frozen=True)
class TrainingState:
    """Everything that the next step depends on; random numbers depend only on seed and step.

    Attributes:
        step: Completed steps.
        identity: Settings, model, classes and data of the run. Only a state with the same identity is resumed.
        parameters: Trained parameters by name, and running statistics of batch normalizations.
        optimizer: The optimizer's own state.
    """

    step: int
    identity: Mapping[str, Any]
    parameters: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]


def save_state(path: Path, state: TrainingState) -> None:
    """Writes the state atomically.

    Raises:
        TrainingError: The file cannot be written.
    """
    content = {
        "format": FORMAT,
        "step": state.step,
        "identity": dict(state.identity),
        "parameters": dict(state.parameters),
        "optimizer": dict(state.optimizer),
    }
    try:
        with atomic_write(path) as part, part.open("wb") as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:
        kept = "the previous state is intact" if path.exists() else "there is no previous state"
        raise TrainingError(
            f"the training state of step {state.step} cannot be written to {path}: {_cause(error)}; {kept}. Free disk "
            "space and run the same command again"
        ) from error


def load_state(path: Path, identity: Mapping[str, Any]) -> TrainingState:
    """Loads the state of the run `identity`.

    Raises:
        TrainingError: The file is damaged, foreign, or belongs to another run; says in what they differ. Milestones may
            differ if they do not change the learning rate of completed steps.
    """
    remedy = f"choose another output folder, or remove {path} to start over"
    try:
        content = read_archive(path)
    except CheckpointError as error:
        raise TrainingError(f"{path} is not a readable training state ({error}); {remedy}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise TrainingError(f"{path} is not a training state of this program's version; {remedy}")
    for name, kind in (("step", int), ("identity", dict), ("parameters", dict), ("optimizer", dict)):
        if type(content.get(name)) is not kind:
            raise TrainingError(f"{path} is damaged: its {name} is {short(content.get(name))}; {remedy}")
    if content["step"] < 0 or not all(isinstance(value, Tensor) for value in content["parameters"].values()):
        raise TrainingError(f"{path} is damaged: its step or parameters are invalid; {remedy}")
    differences = [
        f"{name} was {short_name(content['identity'].get(name))} and is {short_name(value)}"
        for name, value in identity.items()
        if content["identity"].get(name) != value
        and not (name == "milestones" and _same_so_far(content["identity"].get(name), value, content["step"]))
    ]
    if differences:
        raise TrainingError(
            f"{path} belongs to another run: {'; '.join(differences)}. To resume it, use the same settings; otherwise "
            f"{remedy}"
        )
    return TrainingState(content["step"], content["identity"], content["parameters"], content["optimizer"])


def _same_so_far(before: Any, after: Any, step: int) -> bool:
    """Whether two lists of milestones give the same learning rate in all completed steps."""
    try:
        return [m for m in before if m < step] == [m for m in after if m < step]
    except TypeError:
        return False


def _cause(error: BaseException) -> str:
    """The system's error message, which torch wraps in its own exception."""
    while not isinstance(error, OSError) and (inner := error.__cause__ or error.__context__):
        error = inner
    return getattr(error, "strerror", None) or str(error)
