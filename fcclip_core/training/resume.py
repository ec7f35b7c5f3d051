"""The state of an unfinished run: one file, written atomically and read without running code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fcclip_core.errors import CheckpointError, TrainingError
from fcclip_core.files.atomic_write import atomic_write
from fcclip_core.quoting import short, short_name
from fcclip_core.training.config import TrainingConfig
from fcclip_core.training.optimization import learning_rate
from fcclip_core.weights.weight_files import read_archive

FORMAT = "fcclip training state 1"
FREE = ("steps", "milestones", "slow_down", "save_every", "export_every", "log_every", "loader_processes")
"""Settings that may change when a run is resumed, because they do not affect completed steps."""


@dataclass(frozen=True)
class TrainingState:
    """Everything that the next step depends on; random numbers depend only on seed and step.

    Attributes:
        step: Completed steps.
        identity: Settings, model, classes and data of the run. Only a state with the same identity is resumed.
        parameters: Trained parameters by name, and running statistics of batch normalizations.
        optimizer: The optimizer's own state.
        schedule: What was asked for: steps, and the milestones as they were given, None if they were not; empty for a
            state of version 0.1.
    """

    step: int
    identity: Mapping[str, Any]
    parameters: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    schedule: Mapping[str, Any] = field(default_factory=dict)


def schedule_of(config: TrainingConfig) -> dict[str, Any]:
    """`TrainingState.schedule` of a run with this configuration."""
    milestones = None if config.milestones is None else list(config.milestones)
    return {"steps": config.steps, "milestones": milestones, "slow_down": list(config.slow_down)}


def schedule_changes(state: TrainingState, config: TrainingConfig) -> str:
    """What another length or other milestones change in a resumed run, as one line; empty if nothing.

    What was given is compared, not what follows from it: milestones that nobody gave move with the steps. The line says
    whether the completed steps are those that a run started with `config` would have made.
    """
    if not state.schedule or state.schedule == schedule_of(config):
        return ""
    before = replace(
        config,
        steps=state.schedule["steps"],
        milestones=None if state.schedule["milestones"] is None else tuple(state.schedule["milestones"]),
        slow_down=tuple(state.schedule["slow_down"]),
    )
    parts = []
    if before.steps != config.steps:
        parts.append(f"steps were {before.steps:,} and are {config.steps:,}")
    if before.drops != config.drops:
        moved = "move along" if before.milestones is None and config.milestones is None else "were given"
        parts.append(f"milestones {moved}, from {_listed(before.drops)} to {_listed(config.drops)}")
    if not parts:  # the milestones that follow from the steps were given, or the other way round
        return ""
    other = [step for step in range(state.step) if learning_rate(step, before) != learning_rate(step, config)]
    if not other:
        parts.append(f"the {state.step:,} completed steps are those of a run started so")
    else:
        parts.append(
            f"of the {state.step:,} completed steps {len(other):,}, from step {other[0]:,} on, had another learning "
            "rate than in a run started so; they stay"
        )
    return "; ".join(parts)


def _listed(steps: Sequence[int]) -> str:
    return ", ".join(f"{step:,}" for step in steps) or "none"


def save_state(path: Path, state: TrainingState) -> None:
    """Writes the state atomically.

    Raises:
        TrainingError: The file cannot be written.
    """
    content = {
        "format": FORMAT,
        "step": state.step,
        "identity": dict(state.identity),
        "schedule": dict(state.schedule),
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
        TrainingError: The file is damaged, foreign, or belongs to another run; says in what they differ. Steps and
            milestones may differ: `schedule_changes` says what that means.
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
    ]
    if differences:
        raise TrainingError(
            f"{path} belongs to another run: {'; '.join(differences)}. To resume it, use the same settings; otherwise "
            f"{remedy}"
        )
    schedule = content.get("schedule", {})
    if schedule and not _is_schedule(schedule):
        raise TrainingError(f"{path} is damaged: its schedule is {short(schedule)}; {remedy}")
    return TrainingState(content["step"], content["identity"], content["parameters"], content["optimizer"], schedule)


def _is_schedule(value: Any) -> bool:
    if not isinstance(value, dict) or set(value) != {"steps", "milestones", "slow_down"}:
        return False
    numbers = [value["steps"], *(value["milestones"] or ()), *value["slow_down"]]
    return all(isinstance(number, int | float) and number >= 0 for number in numbers) and value["steps"] >= 1


def _cause(error: BaseException) -> str:
    """The system's error message, which torch wraps in its own exception."""
    while not isinstance(error, OSError) and (inner := error.__cause__ or error.__context__):
        error = inner
    return getattr(error, "strerror", None) or str(error)
