"""Every constant of the object memory, once: default, range, unit and why."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real

from fcclip_core.errors import SettingsError
from fcclip_core.quoting import short
from fcclip_core.settings import setting, settings_of


@dataclass(frozen=True)
class MemorySettings:
    """How objects are measured, matched, believed in and kept."""

    max_range: float = setting(
        8.0, "Largest distance at which a segment is remembered, or its absence noticed", unit="m", limits=(0.2, 100.0)
    )
    min_score: float = setting(0.1, "Segments of a lower score are not remembered", limits=(0.0, 1.0))
    min_area: int = setting(
        100,
        "Segments with fewer pixels are not remembered; CLIP says little of them",
        unit="pixels",
        limits=(1, 1_000_000),
    )
    remember_stuff: bool = setting(False, "Whether stuff is remembered too, as regions")
    depth_noise: float = setting(
        0.004,
        "Standard deviation of depth at 1 m, which grows with the square of the distance as for stereo cameras",
        unit="m",
        limits=(0.0, 0.2),
    )
    position_floor: float = setting(
        0.02, "Systematic error of a position that no number of looks removes", unit="m", limits=(0.0, 1.0)
    )
    max_mahalanobis: float = setting(
        4.0, "Largest distance between a segment and an object, in standard deviations", limits=(1.0, 20.0)
    )
    min_cosine: float = setting(
        0.5, "Smallest embedding similarity of a segment and an object of another name", limits=(-1.0, 1.0)
    )
    min_cosine_same_name: float = setting(
        -0.2,
        "Smallest embedding similarity of a segment and an object of its name; CLIP says little of masks that are "
        "smaller than a cell of its features",
        limits=(-1.0, 1.0),
    )
    merge_cosine: float = setting(
        0.7, "Smallest embedding similarity at which two objects in one place are joined", limits=(-1.0, 1.0)
    )
    hit: float = setting(0.85, "Log-odds that a matching segment adds to an object's existence", limits=(0.01, 10.0))
    absence: float = setting(
        0.7, "Log-odds that a look through an object's place takes from its existence; 0: none", limits=(0.0, 10.0)
    )
    displaced: float = setting(
        0.6,
        "Log-odds that an object loses with a look that shows another one in its place: two cannot be there",
        limits=(0.0, 10.0),
    )
    miss: float = setting(
        0.2,
        "Log-odds that an unconfirmed object loses with a look at its place that shows a surface but no such segment",
        limits=(0.0, 10.0),
    )
    max_log_odds: float = setting(
        3.0, "Upper limit of the log-odds, so that a removal is noticed after finitely many looks", limits=(0.5, 20.0)
    )
    gone_log_odds: float = setting(-1.0, "Log-odds at which an object counts as gone", limits=(-20.0, 0.0))
    confirm_looks: int = setting(3, "Looks after which an object can be confirmed", limits=(1, 1000))
    confirm_log_odds: float = setting(1.5, "Log-odds at which an object can be confirmed", limits=(0.0, 20.0))
    doubt_log_odds: float = setting(
        2.0, "Log-odds below which an object may be what was found elsewhere", limits=(-20.0, 20.0)
    )
    moved_cosine: float = setting(
        0.9,
        "Smallest embedding similarity at which an object that is gone and a new one are the same",
        limits=(0.0, 1.0),
    )
    moved_within: float = setting(
        8.0, "Largest distance that an object can have been moved and keep its id", unit="m", limits=(0.0, 1000.0)
    )
    approach_near: float = setting(
        0.4, "Smallest distance of an approach pose to its object", unit="m", limits=(0.0, 10.0)
    )
    approach_far: float = setting(
        1.5, "Largest distance of an approach pose to its object", unit="m", limits=(0.1, 20.0)
    )
    max_objects: int = setting(
        20_000,
        "Limit of the objects; beyond it the unconfirmed, the gone and the oldest are dropped first, those with a name "
        "of their own last",
        limits=(10, 100_000),
    )
    crop_side: int = setting(96, "Longer side of an object's image", unit="pixels", limits=(16, 512), zero="no image")
    write_period: float = setting(1.0, "Time between two writes to the file", unit="seconds", limits=(0.01, 3600.0))

    def __post_init__(self) -> None:
        """Checks every type and range.

        Raises:
            SettingsError: Naming the setting, its value and what it must be.
        """
        for name, (item, about) in settings_of(type(self)).items():
            value = getattr(self, name)
            if isinstance(item.default, bool):
                valid, expected = isinstance(value, bool), "true or false"
            else:
                number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
                whole = isinstance(item.default, float) or (number and value == int(value))
                valid, expected = number and whole and about.allows(value), about.expected
            if not valid:
                raise SettingsError(f"{name} is {short(value)}; it must be {expected}")
        if self.approach_near >= self.approach_far:
            raise SettingsError(
                f"approach_near is {self.approach_near:g} m; it must be less than approach_far, {self.approach_far:g} m"
            )
