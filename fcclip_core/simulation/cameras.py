"""Cameras: poses, intrinsics, and random views of a scene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fcclip_core.simulation.rooms import Placed, Scene

_CANDIDATES = 6
"""Random poses per view, of which the one that shows the most objects is used."""

_CLEARANCE = 0.35
"""Smallest distance between a camera and an object, in meters."""


@dataclass(frozen=True)
class Camera:
    """A pinhole camera.

    Attributes:
        pose: float64 `(4, 4)`, from the optical frame (x right, y down, z forward) to the world.
        fov: Vertical field of view in degrees.
    """

    pose: np.ndarray
    fov: float

    def intrinsics(self, size: tuple[int, int]) -> np.ndarray:
        """Camera matrix `(3, 3)` for images of `(width, height)`; (0, 0) is the center of the first pixel."""
        width, height = size
        focal = height / 2 / np.tan(np.deg2rad(self.fov) / 2)
        return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])


def look_at(
    position: Sequence[float] | np.ndarray, target: Sequence[float] | np.ndarray, fov: float, roll: float = 0.0
) -> Camera:
    """A camera at `position` looking at `target`, upright except for `roll` (radians)."""
    forward = np.asarray(target, dtype=float) - np.asarray(position, dtype=float)
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0, 0, 1])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    pose = np.eye(4)
    pose[:3, 0] = np.cos(roll) * right + np.sin(roll) * down
    pose[:3, 1] = np.cos(roll) * down - np.sin(roll) * right
    pose[:3, 2] = forward
    pose[:3, 3] = position
    return Camera(pose, fov)


def random_cameras(scene: Scene, count: int, seed: int = 0) -> list[Camera]:
    """Views of a scene from random heights, distances and directions, each aimed near an object.

    Args:
        scene: The scene.
        count: Number of views.
        seed: Determines the views, together with the scene.
    """
    rng = np.random.default_rng([scene.seed, seed, 7])
    views = []
    for _ in range(count):
        candidates = [_random_camera(scene, rng) for _ in range(_CANDIDATES)]
        views.append(max(candidates, key=lambda camera: _objects_in_view(scene.objects, camera)))
    return views


def is_free(scene: Scene, position: np.ndarray) -> bool:
    """Whether a camera may be at `position`: within bounds, not in a table, not close to an object."""
    (x0, y0), (x1, y1) = scene.bounds
    x, y, z = position
    if not (x0 <= x <= x1 and y0 <= y <= y1):
        return False
    for left, low, right, high, top in scene.obstacles:
        inside = left - 0.2 < x < right + 0.2 and low - 0.2 < y < high + 0.2
        if inside and z < top + 0.15:
            return False
    return all(np.linalg.norm(position - item.position) > item.radius + _CLEARANCE for item in scene.objects)


def _random_camera(scene: Scene, rng: np.random.Generator) -> Camera:
    on_table = scene.kind == "table"
    nearest, farthest = (0.8, 1.7) if on_table else (1.4, 3.8)
    low, high = (0.25, 0.95) if on_table else (0.35, 1.7)
    fov = rng.uniform(45, 70)
    focus = _focus(scene, rng)
    for attempt in range(200):
        reach = rng.uniform(nearest, farthest) * max(0.4, 1 - attempt / 250)
        angle = rng.uniform(-np.pi, np.pi)
        height = scene.support + rng.uniform(low, high)
        position = np.array([focus[0] + reach * np.cos(angle), focus[1] + reach * np.sin(angle), height])
        if is_free(scene, position):
            break
    return look_at(position, focus, fov, rng.uniform(-0.05, 0.05))


def _focus(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    if not scene.objects:
        return np.array([0, 0, scene.support + 0.2])
    chosen = scene.objects[int(rng.integers(len(scene.objects)))]
    middle = np.mean([item.position for item in scene.objects], axis=0)
    focus = 0.5 * (np.array(chosen.position) + middle)
    return focus + rng.normal(0, 0.15, 3) + np.array([0, 0, rng.uniform(-0.05, 0.4)])


def _objects_in_view(objects: Sequence[Placed], camera: Camera) -> float:
    """Number of object centers inside a 4:3 image, weighted down for tiny objects."""
    slope = np.tan(np.deg2rad(camera.fov) / 2)
    score = 0.0
    for item in objects:
        x, y, z = camera.pose[:3, :3].T @ (np.array(item.position) - camera.pose[:3, 3])
        if z > 0.2 and abs(y) < 0.9 * z * slope and abs(x) < 1.2 * z * slope:
            score += min(1.0, item.radius / (z * slope) / 0.08)
    return score
