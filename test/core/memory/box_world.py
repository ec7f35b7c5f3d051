"""A world of boxes on a floor, seen by exact pinhole cameras: what tests of the object memory look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fcclip_core.geometry.camera import PinholeCamera
from fcclip_core.memory.observation import Observation, observation_of
from fcclip_core.results import PanopticResult, Segment

CAMERA = PinholeCamera(160, 120, 140.0, 140.0, 79.5, 59.5)
SECOND = 1_000_000_000
DIMENSION = 8


@dataclass(frozen=True)
class Thing:
    """A box; `look` chooses its embedding, 0..7, and `tilt` turns that towards the next one."""

    name: str
    center: tuple[float, float, float]
    size: tuple[float, float, float] = (0.2, 0.2, 0.2)
    look: int = 0
    tilt: float = 0.0
    score: float = 0.9

    @property
    def embedding(self) -> np.ndarray:
        row = np.zeros(DIMENSION, np.float32)
        row[self.look], row[(self.look + 1) % DIMENSION] = np.cos(self.tilt), np.sin(self.tilt)
        return row

    def at(self, x: float, y: float) -> Thing:
        return replace(self, center=(x, y, self.center[2]))


def pose_at(eye: Sequence[float], target: Sequence[float]) -> np.ndarray:
    """An upright camera at `eye` that looks at `target`."""
    forward = np.asarray(target, float) - eye
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, (0, 0, 1))
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[:3, 3] = eye
    return pose


def rendered(things: Sequence[Thing], pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels (index of the thing plus one, 0 for the floor and what is beyond) and depth, NaN for the sky."""
    rays = np.stack([*CAMERA.rays(), np.ones((CAMERA.height, CAMERA.width))], axis=-1) @ pose[:3, :3].T
    eye = pose[:3, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        floor = -eye[2] / rays[..., 2]
        depth = np.where((floor > 0) & (floor < 20), floor, np.nan)
        labels = np.zeros(depth.shape, np.int32)
        for number, thing in enumerate(things, 1):
            half = np.array(thing.size) / 2
            ends = np.stack([(np.array(thing.center) + sign * half - eye) / rays for sign in (-1, 1)])
            enter, leave = ends.min(0).max(-1), ends.max(0).min(-1)
            hit = (enter < leave) & (enter > 0) & ~(enter >= depth)
            depth[hit], labels[hit] = enter[hit], number
    return labels, depth.astype(np.float32)


def look(
    things: Sequence[Thing],
    eye: Sequence[float],
    target: Sequence[float],
    *,
    stamp: int = 0,
    unlabeled: Sequence[Thing] = (),
    camera_name: str = "front",
    words: Sequence[str] = (),
    depth_noise: float = 0.0,
    pose_error: Sequence[float] = (0, 0, 0),
    image: np.ndarray | None = None,
    seed: int = 0,
) -> Observation:
    """An observation of boxes; those of `unlabeled` are there, but no segment shows them."""
    pose = pose_at(eye, target)
    labels, depth = rendered([*things, *unlabeled], pose)
    dice = np.random.default_rng(seed)
    depth = (depth + dice.normal(0, 1, depth.shape) * depth_noise * depth**2).astype(np.float32)
    segments = []
    for number, thing in enumerate(things, 1):
        rows, columns = np.nonzero(labels == number)
        if len(rows):
            box = int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1
            segment = Segment(number, number, thing.name, thing.score, True, len(rows), box, thing.embedding)
            segments.append(segment)
    labels[labels > len(things)] = 0
    believed = pose.copy()
    believed[:3, 3] += pose_error
    return observation_of(
        PanopticResult(labels, segments, 1, {}),
        depth,
        CAMERA,
        believed,
        stamp=stamp,
        camera_name=camera_name,
        words=words,
        image=image,
    )
