"""Open-vocabulary panoptic segmentation with FC-CLIP; needs no ROS."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fcclip_core.results import Instances, PanopticResult, Prediction, Segment
    from fcclip_core.segmenter import Segmenter
    from fcclip_core.settings import InferenceSettings
    from fcclip_core.vocabulary.classes import Vocabulary
    from fcclip_core.weights.checkpoints import load_checkpoint

__all__ = [
    "InferenceSettings",
    "Instances",
    "PanopticResult",
    "Prediction",
    "Segment",
    "Segmenter",
    "Vocabulary",
    "load_checkpoint",
]

_HOMES = {
    "InferenceSettings": "settings",
    "Instances": "results",
    "PanopticResult": "results",
    "Prediction": "results",
    "Segment": "results",
    "Segmenter": "segmenter",
    "Vocabulary": "vocabulary.classes",
    "load_checkpoint": "weights.checkpoints",
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first asked for: torch takes seconds, and `fcclip --help` does without."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
