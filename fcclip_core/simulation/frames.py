"""Frames of a camera in the world, rendered or read from disk."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TruthSegment:
    """A ground-truth segment.

    Attributes:
        id: Its value in `Frame.segment_map`.
        name: Its class.
        is_thing: Whether it is a thing.
    """

    id: int
    name: str
    is_thing: bool


@dataclass(frozen=True)
class Frame:
    """A frame with ground truth.

    Attributes:
        image: uint8 RGB `(H, W, 3)`.
        segment_map: int32 `(H, W)`, 0 = none, else a segment's id.
        segments: The segments in the order of their ids.
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
