"""Every setting of the model, once: default, range, unit and help. Command line, ROS parameters and docs follow."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, field, fields
from numbers import Real
from typing import Any, SupportsIndex

from fcclip_core.errors import SettingsError
from fcclip_core.quoting import short

AUTO = "auto"
"""The choice that depends on what there is: the checkpoint, the device, the backend."""

ENSEMBLES = ("geometric", "arithmetic", "in_vocabulary", "out_of_vocabulary")

OUTPUT_STRIDES = (1, 2, 4)
"""Image pixels per pixel of the labels along each side."""

FCCLIP_MERGING, KMAX_MERGING = MERGINGS = ("fcclip", "kmax")
"""How masks become segments: as FC-CLIP and Mask2Former do it, or as kMaX-DeepLab does."""

PUBLISHED, BEST_CELL = VANISHED_MASKS = ("published", "best_cell")
"""What masks that vanish at stride 32 are pooled over: nothing, as in the published code, or one cell each."""


@dataclass(frozen=True)
class About:
    """What is known of a setting beside its name, its type and its default.

    Attributes:
        help: A sentence without its full stop.
        limits: Smallest and largest value of a number.
        unit: Of a number, such as "pixels".
        zero: What 0 means, if it means something else than a small number; then it need not lie within the limits.
        none: What None means, where it is allowed.
        choices: The texts or numbers that it may be.
    """

    help: str
    limits: tuple[float, float] | None = None
    unit: str = ""
    zero: str = ""
    none: str = ""
    choices: tuple[str, ...] | tuple[int, ...] = ()

    @property
    def sentence(self) -> str:
        """The help, and what special values mean."""
        unit = f", in {self.unit}" if self.unit else ""
        special = f"; 0: {self.zero}" if self.zero else f"; {AUTO}: {self.none}" if self.none else ""
        return f"{self.help}{unit}{special}"

    @property
    def span(self) -> tuple[float, float] | None:
        """The limits, widened to 0 where that has a meaning of its own."""
        return (min(self.limits[0], 0), self.limits[1]) if self.limits and self.zero else self.limits

    @property
    def expected(self) -> str:
        """What a value must be, for an error message."""
        if self.choices:
            return f"one of {listed(self.choices)}"
        if self.limits is None:
            return ""
        low, high = self.limits
        unit = f" {self.unit}" if self.unit else ""
        zero = f", or 0 for {self.zero}" if self.zero and low > 0 else f" (0: {self.zero})" if self.zero else ""
        return f"between {low:g} and {high:g}{unit}{zero}"

    def allows(self, value: Any) -> bool:
        """Whether a value of the right type may be taken."""
        if self.choices and value not in self.choices:
            return False
        return self.limits is None or self.limits[0] <= value <= self.limits[1] or bool(self.zero and value == 0)


def setting(default: Any, help: str, **about: Any) -> Any:
    """A dataclass field that is a setting; see `About`."""
    return field(default=default, metadata={"about": About(help, **about)})


def listed(choices: Iterable[str | int]) -> str:
    """Choices as messages and help texts name them."""
    return ", ".join(str(choice) or '""' for choice in choices)


def spanned(limits: tuple[float, float]) -> str:
    """A range as help texts name it: "0 to 1"."""
    return f"{limits[0]:.10g} to {limits[1]:.10g}"


def settings_of(kind: type) -> Mapping[str, tuple[Field[Any], About]]:
    """The settings of a dataclass in their order: name -> field, and what is known of it."""
    return {item.name: (item, item.metadata["about"]) for item in fields(kind) if "about" in item.metadata}


@dataclass(frozen=True)
class ModelSettings:
    """Which model runs, and where; fixed while it is loaded."""

    checkpoint: str = setting(
        AUTO,
        "Weights: a file, a bundled name, or recipe:NAME (deterministic random weights, whose labels mean nothing); "
        "auto: the best published model that was imported on this machine, else demo",
    )
    device: str = setting(AUTO, "Device that runs the model: auto, cpu, cuda or cuda:N")
    backend: str = setting(AUTO, "Backend that runs the model: auto, or one that `fcclip doctor` lists")
    precision: str = setting(
        AUTO,
        "Number format in which the backend computes; auto: the fastest that passes validation",
        choices=(AUTO, "fp32", "fp16", "bf16"),
    )
    vanished_masks: str = setting(
        PUBLISHED,
        "What masks that vanish at stride 32 are pooled over: nothing (published), or the one cell where the mask "
        "logit is largest (best_cell)",
        choices=VANISHED_MASKS,
    )


@dataclass(frozen=True)
class WordSettings:
    """Which classes there are, and which of them are published."""

    vocabulary: str = setting(
        AUTO,
        "Classes: a bundled vocabulary, a .yaml or .txt file, or names, with semicolons between classes and commas "
        'between synonyms ("person; pallet, wooden pallet")',
    )
    stuff: str = setting("", "Names of classes that are stuff, not countable things")
    background: str = setting(
        AUTO,
        "Hidden competitors, as far as they do not overlap with the classes: a bundled vocabulary, a file, or names; "
        "auto: those that suit the checkpoint; none: nothing",
    )


@dataclass(frozen=True)
class InferenceSettings:
    """Test-time settings, which may change between two frames; the defaults are the published ones."""

    shorter_side: int = setting(
        800,
        "Length to which the shorter image side is resized",
        unit="pixels",
        limits=(32, 4096),
        zero="the model's own",
    )
    max_size: int = setting(
        1333, "Upper limit of the longer image side after resizing", unit="pixels", limits=(32, 8192)
    )
    alpha: float = setting(
        0.4, "Weight of the out-of-vocabulary classifier for seen classes (equation 7)", limits=(0.0, 1.0)
    )
    beta: float = setting(
        0.8, "Weight of the out-of-vocabulary classifier for unseen classes (equation 7)", limits=(0.0, 1.0)
    )
    ensemble: str = setting("geometric", "How the two classifiers are joined (Table 8)", choices=ENSEMBLES)
    clip_trust: float = setting(
        0.0,
        "Share of CLIP's highest class probability by which no object becomes less likely (OVRCOAT's COAT, there 0.5)",
        limits=(0.0, 1.0),
    )
    merging: str = setting(
        FCCLIP_MERGING,
        "How masks become segments: each pixel belongs to its best mask (fcclip), or confident masks are laid down "
        "one after the other (kmax)",
        choices=MERGINGS,
    )
    pixel_confidence: float = setting(
        0.4,
        "With merging kmax: share of a pixel, among all masks, above which a mask claims it",
        limits=(0.05, 1.0),
    )
    thing_threshold: float = setting(
        0.7, "With merging kmax: class probability above which a mask becomes a thing", limits=(0.0, 1.0)
    )
    stuff_threshold: float = setting(
        0.5, "With merging kmax: class probability above which a mask becomes stuff", limits=(0.0, 1.0)
    )
    class_exponent: float = setting(
        1.0, "With merging kmax: weight of the class probability in the order of masks", limits=(0.0, 10.0)
    )
    mask_exponent: float = setting(
        1.0, "With merging kmax: weight of the mean share of its pixels in the order of masks", limits=(0.0, 10.0)
    )
    object_mask_threshold: float = setting(
        0.0,
        "Object queries whose best class scores this or less are dropped (not with merging kmax)",
        limits=(0.0, 1.0),
    )
    overlap_threshold: float = setting(
        0.8, "Share of its own pixels that a mask must win to become a segment", limits=(0.0, 1.0)
    )
    valid_mask_only: bool | None = setting(
        None,
        "Join the classifiers only for masks that survive at stride 32",
        none="as the model's preset says, but false with vanished_masks best_cell",
    )
    output_stride: int = setting(
        1,
        "Image pixels per pixel of the labels along each side: 2 and 4 give label images of half and a quarter of the "
        "image's size, at a quarter and a sixteenth of the cost",
        choices=OUTPUT_STRIDES,
    )
    top_k_instances: int = setting(100, "Instances kept per image", limits=(1, 10_000))
    num_threads: int = setting(0, "CPU threads of torch", limits=(0, 1024), zero="torch's choice")

    def __post_init__(self) -> None:
        """Checks every type and range.

        Raises:
            SettingsError: Naming the setting, its value and what it must be.
        """
        for name, (item, about) in settings_of(type(self)).items():
            self._require_type(name, item.default)
            value = getattr(self, name)
            self._require(name, value is None or about.allows(value), about.expected)
        self._require(
            "max_size",
            self.shorter_side <= self.max_size,
            f"between shorter_side, {self.shorter_side}, and 8192 pixels",
        )

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
        return tuple(settings_of(cls))
