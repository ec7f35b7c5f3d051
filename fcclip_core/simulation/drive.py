"""Drives of a robot's camera around a scene in a closed loop, with objects always in view."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline

from fcclip_core.errors import SimulationError
from fcclip_core.simulation.cameras import Camera, look_at
from fcclip_core.simulation.names import Split
from fcclip_core.simulation.rooms import Scene, make_scene

_CORNERS = 8
_MAX_LOOPS = 60
_MAX_SCENES = 50
_MIN_OBJECTS = 6
_ROBOT_RADIUS = 0.15
_MAX_DISTANCE = 3.2
"""Largest distance from the center of the objects in meters."""


@dataclass(frozen=True)
class Drive:
    """A loop through a scene at constant speed.

    Attributes:
        scene: The scene.
        duration: Seconds per lap.
        height: Height of the camera above the floor, meters.
        fov: The camera's vertical field of view, degrees.
        path: Fraction of the lap, 0 to 1, -> position on the floor; periodic.
        middle: Center of the objects, `(x, y, z)`, toward which the camera looks.
    """

    scene: Scene
    duration: float
    height: float
    fov: float
    path: CubicSpline
    middle: np.ndarray

    def camera(self, time: float) -> Camera:
        """The camera at a time in seconds; laps repeat."""
        phase = time / self.duration % 1.0
        place = np.append(self.path(phase), self.height)
        ahead = np.append(_unit(self.path(phase, 1)), 0.0)
        inwards = _unit(self.middle - place)
        return look_at(place, place + 0.3 * ahead + inwards, self.fov)

    def cameras(self, rate: float, seconds: float | None = None) -> Iterator[Camera]:
        """The cameras of a video.

        Args:
            rate: Frames per second.
            seconds: Duration; None: one lap.
        """
        for index in range(round(rate * (self.duration if seconds is None else seconds))):
            yield self.camera(index / rate)


def make_drive(seed: int, split: Split = "all", kind: str = "room", speed: float = 0.4) -> Drive:
    """Finds a scene with a free loop around its objects; deterministic for the same arguments.

    Args:
        seed: 0 or more.
        split: The classes that the scene may contain.
        kind: "room", "table" or "yard".
        speed: Meters per second.

    Raises:
        SimulationError: Invalid `kind`, no free loop was found, or `speed` is not positive.
        SettingsError: Invalid split.
    """
    if kind not in ("room", "table", "yard") or speed <= 0:
        raise SimulationError(
            f"got a drive through {kind!r} at {speed} m/s; expected room, table or yard, and a positive speed"
        )
    for attempt in range(_MAX_SCENES):
        scene = make_scene(seed * _MAX_SCENES + attempt, split, kind)
        if len(scene.objects) < _MIN_OBJECTS:
            continue
        rng = np.random.default_rng([seed, attempt, 11])
        middle = np.mean([item.position for item in scene.objects], axis=0)
        path = _free_loop(scene, middle[:2], rng)
        if path is not None:
            length = np.linalg.norm(np.diff(path(np.linspace(0, 1, 400)), axis=0), axis=1).sum()
            height = scene.support + rng.uniform(0.4, 0.6) if kind == "table" else rng.uniform(0.8, 1.2)
            return Drive(scene, float(length / speed), float(height), float(rng.uniform(55, 65)), path, middle)
    raise SimulationError(f"no free path through a {kind} was found for seed {seed}; choose another seed")


def _free_loop(scene: Scene, middle: np.ndarray, rng: np.random.Generator) -> CubicSpline | None:
    for _ in range(_MAX_LOOPS):
        angle = rng.uniform(0, 2 * np.pi) + np.arange(_CORNERS) * 2 * np.pi / _CORNERS
        outwards = np.stack([np.cos(angle), np.sin(angle)], 1)
        room = np.minimum(_space(scene, middle, outwards), _MAX_DISTANCE)
        corners = middle + outwards * (room * rng.uniform(0.75, 0.97, _CORNERS))[:, None]
        path = _at_even_speed(np.concatenate([corners, corners[:1]]))
        if all(_robot_fits(scene, place) for place in path(np.linspace(0, 1, 120))):
            return path
    return None


def _space(scene: Scene, middle: np.ndarray, outwards: np.ndarray) -> np.ndarray:
    """Distance in meters from the center to the scene's bounds in each direction."""
    low, high = (np.array(corner) for corner in scene.bounds)
    with np.errstate(divide="ignore"):
        return np.where(outwards > 0, (high - middle) / outwards, (low - middle) / outwards).min(1)


def _at_even_speed(corners: np.ndarray) -> CubicSpline:
    """A smooth closed curve through corners, parametrized approximately by relative length, 0 to 1."""
    curve = CubicSpline(np.linspace(0, 1, len(corners)), corners, bc_type="periodic")
    for _ in range(2):
        dense = curve(np.linspace(0, 1, 400))
        traveled = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(dense, axis=0), axis=1))])
        even = np.linspace(0, traveled[-1], 65)
        points = np.stack([np.interp(even, traveled, dense[:, axis]) for axis in range(2)], 1)
        points[-1] = points[0]
        curve = CubicSpline(even / traveled[-1], points, bc_type="periodic")
    return curve


def _robot_fits(scene: Scene, place: np.ndarray) -> bool:
    (x0, y0), (x1, y1) = scene.bounds
    x, y = place
    gap = _ROBOT_RADIUS
    if not (x0 <= x <= x1 and y0 <= y <= y1):
        return False
    if any(
        left - gap < x < right + gap and low - gap < y < high + gap for left, low, right, high, _ in scene.obstacles
    ):
        return False
    return all(np.linalg.norm(place - item.position[:2]) > item.radius + gap for item in scene.objects)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)
