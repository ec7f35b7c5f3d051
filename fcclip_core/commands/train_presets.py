"""The model that a training command names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fcclip_core.errors import TrainingError

if TYPE_CHECKING:
    from fcclip_core.model.config import ModelConfig


def preset(name: str) -> ModelConfig:
    """The preset of a name.

    Raises:
        TrainingError: There is none.
    """
    from fcclip_core.model.config import PRESETS

    if name not in PRESETS:
        raise TrainingError(f"there is no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]
