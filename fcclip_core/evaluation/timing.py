"""Which part of an image's time counts as images per second."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter

from fcclip_core.results import PanopticResult

_RESIZING = "preprocess"


@dataclass(frozen=True)
class TimeRule:
    """How an image's time is counted; reading files and metrics never count.

    Attributes:
        warm_up: Images of each process that are left out first.
        resizes: Whether resizing the image counts.
        makes_all_outputs: Whether a semantic map is made as well, and instances where the truth is panoptic.
        about: Human-readable.
    """

    warm_up: int
    resizes: bool
    makes_all_outputs: bool
    about: str

    def seconds(self, result: PanopticResult, is_panoptic: bool) -> float:
        """The time of an image that was decoded; makes what further outputs count."""
        stages = sum(time for stage, time in result.timings.items() if self.resizes or stage != _RESIZING)
        if not self.makes_all_outputs:
            return stages
        began = perf_counter()
        result.semantic_map()
        if is_panoptic:
            result.instances()
        return stages + perf_counter() - began


SEGMENTS, TABLE_4 = "segments", "table4"
TIME_RULES: Mapping[str, TimeRule] = {
    SEGMENTS: TimeRule(
        1, True, False, "images a second, one process, from pixels to segments; without the first image"
    ),
    TABLE_4: TimeRule(
        5,
        False,
        True,
        "images a second, one process, from the resized image to segments, semantic map and instances; without the "
        "first five images",
    ),
}
"""What a robot waits for, and what the authors' evaluation counts (the paper's Table 4)."""


@dataclass
class ImageTimes:
    """The times of images, of those that warm up apart.

    Attributes:
        rule: What counts as an image's time.
        images: Number of images.
        timed: Images in `seconds`.
        seconds: Their time.
    """

    rule: TimeRule
    images: int = 0
    timed: int = 0
    seconds: float = 0.0

    def add(self, result: PanopticResult, is_panoptic: bool) -> None:
        """Counts an image that was decoded; makes what further outputs count, after the warm-up."""
        if self.images >= self.rule.warm_up:
            self.seconds += self.rule.seconds(result, is_panoptic)
            self.timed += 1
        self.images += 1

    def merge(self, other: ImageTimes) -> None:
        """Adds the times of another process."""
        self.images += other.images
        self.timed += other.timed
        self.seconds += other.seconds

    def per_second(self) -> float | None:
        """Images per second and process; None before the first timed one."""
        return self.timed / self.seconds if self.timed else None
