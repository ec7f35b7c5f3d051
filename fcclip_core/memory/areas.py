"""Areas on the map's floor that questions are limited to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fcclip_core.errors import SettingsError

_MOST_CORNERS = 1000


@dataclass(frozen=True)
class Circle:
    """A circle on the floor; heights do not count.

    Attributes:
        x: Center, meters in the map.
        y: Center.
        radius: Meters.
    """

    x: float
    y: float
    radius: float

    def __post_init__(self) -> None:
        """Checks the numbers.

        Raises:
            SettingsError: One is not finite, or the radius is not positive.
        """
        if not all(map(math.isfinite, (self.x, self.y, self.radius))) or self.radius <= 0:
            raise SettingsError(
                f"the area has the center ({self.x:g}, {self.y:g}) and the radius {self.radius:g} m; expected finite "
                "numbers and a radius above 0"
            )

    def contains(self, positions: np.ndarray) -> np.ndarray:
        """Whether positions `(N, 3)` are inside: bool `(N,)`."""
        inside: np.ndarray = np.hypot(positions[:, 0] - self.x, positions[:, 1] - self.y) <= self.radius
        return inside


@dataclass(frozen=True)
class Polygon:
    """A polygon on the floor; heights do not count.

    Attributes:
        corners: `(x, y)` in meters, in order around it; the last is joined to the first.
    """

    corners: Sequence[tuple[float, float]]

    def __post_init__(self) -> None:
        """Checks the corners.

        Raises:
            SettingsError: Too few, too many, or not finite.
        """
        count = len(self.corners)
        if not 3 <= count <= _MOST_CORNERS:
            raise SettingsError(f"the area has {count} corners; expected 3 to {_MOST_CORNERS}")
        if not all(len(corner) == 2 and all(map(math.isfinite, corner)) for corner in self.corners):
            raise SettingsError("a corner of the area is not a pair of finite numbers, meters in the map")

    def contains(self, positions: np.ndarray) -> np.ndarray:
        """Whether positions `(N, 3)` are inside: bool `(N,)`, by the number of edges that a ray along x crosses."""
        x, y = positions[:, 0], positions[:, 1]
        inside: np.ndarray = np.zeros(len(positions), bool)
        corners = [*self.corners, self.corners[0]]
        for (x0, y0), (x1, y1) in zip(corners, corners[1:], strict=False):
            if y0 == y1:
                continue
            crossed = ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
            inside ^= crossed
        return inside


Area = Circle | Polygon
