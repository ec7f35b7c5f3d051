"""What a camera in the world gives, rendered or read back from disk."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TruthSegment:
    """A segment of the truth.

    Attributes:
        id: Its number in `Frame.segment_map`.
        name: Its class.
        is_thing: Whether it is an object.
    """

    id: int
    name: str
    is_thing: bool


@dataclass(frozen=True)
class Frame:
    """What a camera sees.

    Attributes:
        image: uint8 RGB `(H, W, 3)`.
        segment_map: int32 `(H, W)`, 0 = none, else a segment's id.
        segments: What is in it, in order of id.
        depth: float32 `(H, W)`, meters along the optical axis; infinite for the sky.
        intrinsics: float64 `(3, 3)`.
        pose: float64 `(4, 4)`, from the optical frame (x right, y down, z forward) to the world (z up).
    """

    image: np.ndarray
    segment_map: np.ndarray
    segments: tuple[TruthSegment, ...]
    depth: np.ndarray
    intrinsics: np.ndarray
    pose: np.ndarray
