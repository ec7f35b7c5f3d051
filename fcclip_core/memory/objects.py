"""Remembered objects: immutable records, so that readers and the file's writer hold them without a lock."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

import numpy as np

SECTORS = 8
"""Viewing directions around an object that are told apart, 45 degrees each."""


class State(str, Enum):
    """What is believed of an object."""

    TENTATIVE = "tentative"
    """Seen too few times to be sure that it exists."""
    CONFIRMED = "confirmed"
    """It was seen often enough and, as far as was looked, is still there."""
    GONE = "gone"
    """It was confirmed once; its place has since been seen empty."""


@dataclass(frozen=True)
class NameCount:
    """How often an object was called by a name.

    Attributes:
        looks: Number of looks in which it was.
        score_sum: Sum of the scores in these looks.
    """

    looks: int = 0
    score_sum: float = 0.0


@dataclass(frozen=True)
class View:
    """A look at an object that is worth keeping.

    Attributes:
        stamp: Time of the image, nanoseconds.
        camera_name: Which camera it was.
        map_from_camera: float64 `(4, 4)`, where the camera stood.
        distance: From the camera to the object, meters.
        quality: How well the object was seen; larger is better.
        embedding: float16 `(D,)`, the segment's embedding.
    """

    stamp: int
    camera_name: str
    map_from_camera: np.ndarray = field(repr=False, compare=False)
    distance: float
    quality: float
    embedding: np.ndarray = field(repr=False, compare=False)

    @property
    def ground_pose(self) -> tuple[float, float, float]:
        """Position of the camera on the map's floor in meters, and its heading in radians: `(x, y, yaw)`."""
        forward = self.map_from_camera[:2, 2]
        x, y = self.map_from_camera[:2, 3]
        return float(x), float(y), math.atan2(forward[1], forward[0])


@dataclass(frozen=True)
class RememberedObject:
    """An object as the memory knows it. Arrays must not be written to.

    Attributes:
        id: From 1; kept while the object is remembered, also if it was moved.
        state: What is believed of it.
        log_odds: Log-odds that it exists where it was last seen.
        is_thing: True for an object, False for a region of stuff.
        own_name: Name that a user gave it; empty for none.
        names: What frames called it.
        word_looks: Number of looks under each vocabulary, by the vocabulary's key in the memory.
        position: float64 `(3,)`, center in the map, meters.
        covariance: float64 `(3, 3)` of the position, square meters.
        low: float64 `(3,)`, smallest corner of its map-aligned box.
        high: float64 `(3,)`, largest corner.
        side_looks: Number of looks from each of `SECTORS` directions.
        embedding_sum: float32 `(D,)`, score-weighted sum of unit embeddings.
        first_seen: Nanoseconds.
        last_seen: Nanoseconds; of the newest observation, which may be smaller than earlier ones if clocks jump.
        first_look: Number of the memory's observation in which it was first seen.
        last_look: Number of the memory's observation in which it was last seen.
        looks: Number of observations in which it was seen.
        views: Its best views from different directions, best first; at least one.
        approach: Its best view at manipulation distance; None if it was never seen from there.
        crop: JPEG of the best view; empty for none.
    """

    id: int
    state: State
    log_odds: float
    is_thing: bool
    own_name: str
    names: Mapping[str, NameCount] = field(repr=False)
    word_looks: Mapping[str, int] = field(repr=False)
    position: np.ndarray = field(compare=False)
    covariance: np.ndarray = field(repr=False, compare=False)
    low: np.ndarray = field(repr=False, compare=False)
    high: np.ndarray = field(repr=False, compare=False)
    side_looks: tuple[int, ...] = field(repr=False)
    embedding_sum: np.ndarray = field(repr=False, compare=False)
    first_seen: int
    last_seen: int
    first_look: int
    last_look: int
    looks: int
    views: tuple[View, ...] = field(repr=False)
    approach: View | None = field(repr=False)
    crop: bytes = field(repr=False, compare=False)

    @property
    def name(self) -> str:
        """Its own name, else the one with the highest sum of scores; empty if no frame named it."""
        return self.own_name or self.called

    @functools.cached_property
    def called(self) -> str:
        """What frames called it most; the first of equal names."""
        return max(self.names, key=lambda name: self.names[name].score_sum, default="")

    @functools.cached_property
    def embedding(self) -> np.ndarray:
        """float32 `(D,)`, the score-weighted mean of its embeddings as a unit vector."""
        return unit(self.embedding_sum)

    @property
    def existence(self) -> float:
        """Probability that it exists where it was last seen, 0..1."""
        return 1 / (1 + math.exp(-self.log_odds))

    @property
    def center(self) -> np.ndarray:
        """float64 `(3,)`, center of its box."""
        return (self.low + self.high) / 2

    @property
    def extents(self) -> np.ndarray:
        """float64 `(3,)`, sides of its map-aligned box, meters."""
        return self.high - self.low

    @property
    def best_view(self) -> View:
        """The view that the crop shows."""
        return self.views[0]

    def age(self, now: int) -> float:
        """Seconds since it was last seen; 0 if that lies in the future."""
        return max(now - self.last_seen, 0) / 1e9


NO_NAMES: Mapping[str, NameCount] = MappingProxyType({})


def unit(vector: np.ndarray) -> np.ndarray:
    """The vector with length 1, float32; zero stays zero."""
    length = math.sqrt(vector @ vector)
    return (vector / length if length > 0 else vector).astype(np.float32)
