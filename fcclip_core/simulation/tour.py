"""Several scenes in one world: which seeds they have, and where they lie."""

from __future__ import annotations

import numpy as np

MAX_SCENES = 1000
SCENE_DISTANCE = 30.0
"""Meters along the world's x axis from one scene's origin to the next: beyond the range of any map of one scene."""


def scene_seeds(seed: int, scenes: int) -> range:
    """Seeds of the scenes of a tour, for `make_drive`; tours of different seeds have none in common."""
    return range(seed * MAX_SCENES, seed * MAX_SCENES + scenes)


def scene_origin(number: int) -> np.ndarray:
    """Position `(3,)` of the origin of a tour's scene, counted from 0, in the world."""
    return np.array([number * SCENE_DISTANCE, 0.0, 0.0])


def in_tour(pose: np.ndarray, number: int) -> np.ndarray:
    """A pose `(4, 4)` in a tour's scene as a pose in the world."""
    moved = pose.copy()
    moved[:3, 3] += scene_origin(number)
    return moved
