"""The data of one frame of the demo's stream. No ROS here."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

LABEL_OUTPUTS = ("panoptic", "semantic", "confidence", "segments")
"""Outputs that every labeled frame has; the overlay comes at a rate of its own."""


@dataclass(frozen=True)
class SegmentRow:
    """One segment as it was published; `box` is `(x, y, width, height)` in pixels."""

    id: int
    class_id: int
    name: str
    score: float
    area: int
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class SegmentList:
    """The segments of one frame and the vocabulary version that they carry; height and width in pixels."""

    version: int
    height: int
    width: int
    rows: tuple[SegmentRow, ...]


@dataclass(frozen=True)
class TruthRow:
    """One segment of the camera's truth."""

    id: int
    name: str


@dataclass(frozen=True)
class PublishedClass:
    """One class of a published vocabulary; color `(r, g, b)`, 0..255."""

    id: int
    synonyms: tuple[str, ...]
    is_thing: bool
    seen: bool
    color: tuple[int, int, int]

    @property
    def name(self) -> str:
        """The class's first synonym."""
        return self.synonyms[0]


@dataclass
class Frame:
    """One moment of the stream: the camera's image and truth, and what came back with its stamp.

    Attributes:
        image: uint8 RGB `(H, W, 3)`, or None if this process did not receive it.
        truth_map: Integer `(H, W)`, 0 or a `TruthRow.id`, or None.
        truth: Its segments, or None.
        labels: By output name: `(H, W)` integer arrays for panoptic, semantic, confidence; `SegmentList` for segments.
        overlay: uint8 RGB `(H, W, 3)`, or None.
        latency: Seconds from the stamp to the arrival of each output.
    """

    image: np.ndarray | None = None
    truth_map: np.ndarray | None = None
    truth: tuple[TruthRow, ...] | None = None
    labels: dict[str, np.ndarray | SegmentList] = field(default_factory=dict)
    overlay: np.ndarray | None = None
    latency: dict[str, float] = field(default_factory=dict)

    @property
    def segments(self) -> SegmentList | None:
        """The frame's segments once they have arrived."""
        found = self.labels.get("segments")
        return found if isinstance(found, SegmentList) else None

    @property
    def complete(self) -> bool:
        """Whether all of `LABEL_OUTPUTS` have arrived."""
        return len(self.labels) == len(LABEL_OUTPUTS)

    @property
    def has_truth(self) -> bool:
        """Whether both parts of the truth have arrived."""
        return self.truth_map is not None and self.truth is not None

    @property
    def whole(self) -> bool:
        """Whether everything has arrived: image, truth, overlay and labels."""
        return self.image is not None and self.overlay is not None and self.has_truth and self.complete
