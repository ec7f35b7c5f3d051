"""Inference settings: what may change between two frames without touching the weights."""

from __future__ import annotations

import operator
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any, SupportsIndex

from fcclip_core.errors import SettingsError
from fcclip_core.quoting import short

AUTO = "auto"
"""The choice that is made by what there is: the checkpoint, the device, its backend."""

ENSEMBLES = ("geometric", "arithmetic", "in_vocabulary", "out_of_vocabulary")


@dataclass(frozen=True)
class InferenceSettings:
    """Test-time settings; the defaults are the published ones.

    Attributes:
        shorter_side: Length in pixels to which the shorter image side is resized; 0 follows the model's preset.
        max_size: Upper limit in pixels of the longer side after resizing.
        alpha: Weight of the out-of-vocabulary classifier for seen classes (equation 7), 0..1.
        beta: Weight of the out-of-vocabulary classifier for unseen classes (equation 7), 0..1.
        ensemble: One of `ENSEMBLES`; the paper's Table 8 compares the first two.
        object_mask_threshold: Queries whose best class scores this or less are dropped, 0..1.
        overlap_threshold: A mask keeps its segment if it owns at least this share of its own pixels, 0..1.
        valid_mask_only: Ensemble only where a mask survives at stride 32; None follows the model's preset, and is False
            where the network was built to pool other masks over their best cell.
        top_k_instances: Instances returned by `PanopticResult.instances`.
        num_threads: CPU threads used by torch; 0 leaves torch's own choice.
    """

    shorter_side: int = 800
    max_size: int = 1333
    alpha: float = 0.4
    beta: float = 0.8
    ensemble: str = "geometric"
    object_mask_threshold: float = 0.0
    overlap_threshold: float = 0.8
    valid_mask_only: bool | None = None
    top_k_instances: int = 100
    num_threads: int = 0

    def __post_init__(self) -> None:
        """Checks every type and range.

        Raises:
            SettingsError: Naming the setting, its value and what it must be.
        """
        for setting in fields(self):
            self._require_type(setting.name, setting.default)
        for name in ("alpha", "beta", "object_mask_threshold", "overlap_threshold"):
            self._require(name, 0.0 <= getattr(self, name) <= 1.0, "between 0 and 1")
        self._require(
            "shorter_side",
            self.shorter_side == 0 or 32 <= self.shorter_side <= 4096,
            "between 32 and 4096 pixels, or 0 for the model's own",
        )
        self._require("max_size", self.shorter_side <= self.max_size <= 8192, "between shorter_side and 8192 pixels")
        self._require("ensemble", self.ensemble in ENSEMBLES, f"one of {', '.join(ENSEMBLES)}")
        self._require("top_k_instances", 1 <= self.top_k_instances <= 10_000, "between 1 and 10000")
        self._require("num_threads", 0 <= self.num_threads <= 1024, "between 0 (torch's choice) and 1024")

    def _require_type(self, name: str, default: Any) -> None:
        """Numbers of other libraries, such as numpy's, become Python's own."""
        value = getattr(self, name)
        if default is None:
            self._require(name, value is None or isinstance(value, bool), "true, false or None")
        elif isinstance(default, str):
            self._require(name, isinstance(value, str), "text")
        elif isinstance(default, float):
            self._require(name, isinstance(value, Real) and not isinstance(value, bool), "a number")
            object.__setattr__(self, name, float(value))
        else:
            whole = isinstance(value, SupportsIndex) and not isinstance(value, bool)
            self._require(name, whole, "a whole number")
            object.__setattr__(self, name, operator.index(value))

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise SettingsError(f"{name} is {short(getattr(self, name))}; it must be {expected}")

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of all settings, in order of declaration."""
        return tuple(field.name for field in fields(cls))
