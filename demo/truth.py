"""Where the things of the simulated world stand: what the answers of the object memory are compared with. No ROS."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fcclip_core.datasets.drive_recording import Recording
from fcclip_core.simulation.frames import Frame
from fcclip_core.simulation.tour import scene_origin, scene_seeds

_SAME = 0.4
"""Meters between the visible parts of one thing, at most; things of one name stand further apart."""


@dataclass(frozen=True)
class TrueThing:
    """A thing of the world.

    Attributes:
        name: Its class.
        room: The room that it stands in, from 0.
        position: float64 `(3,)`, center of its bounding box in the world, meters.
        radius: Half of that box's diagonal, meters.
    """

    name: str
    room: int
    position: np.ndarray
    radius: float


def things_of_rooms(seed: int, rooms: int) -> list[TrueThing]:
    """The things in the rooms that `sim_camera` drives through.

    Args:
        seed: The camera's.
        rooms: The number of its scenes.

    Raises:
        SimulationError: MuJoCo is not installed, or a seed gives no trajectory.
    """
    from fcclip_core.simulation.drive import make_drive

    things = []
    for room, scene_seed in enumerate(scene_seeds(seed, rooms)):
        scene = make_drive(scene_seed).scene
        names = [item.name for item in scene.items if item.is_thing]
        for name, placed in zip(names, scene.objects, strict=True):
            things.append(TrueThing(name, room, np.array(placed.position) + scene_origin(room), placed.radius))
    return things


def things_of_recording(folder: Path) -> list[TrueThing]:
    """The things that a recorded drive shows, as one room: the boxes around what its depth shows from all sides.

    Raises:
        DatasetError: The recording cannot be read.
    """
    recording = Recording(folder)
    boxes: dict[str, list[np.ndarray]] = {}
    for frame in map(recording.__getitem__, range(len(recording))):
        for segment in frame.segments:
            points = _points(frame, segment.id) if segment.is_thing else np.empty((0, 3))
            if len(points):
                _add(boxes.setdefault(segment.name, []), np.stack([points.min(0), points.max(0)]))
    return [
        TrueThing(name, 0, box.mean(0), float(np.linalg.norm(box[1] - box[0])) / 2)
        for name, found in boxes.items()
        for box in found
    ]


def _points(frame: Frame, segment: int) -> np.ndarray:
    """Points `(N, 3)` of a segment in the world."""
    rows, columns = np.nonzero((frame.segment_map == segment) & np.isfinite(frame.depth))
    pixels = np.stack([columns, rows, np.ones(len(rows))]) * frame.depth[rows, columns]
    points: np.ndarray = frame.pose[:3, :3] @ np.linalg.inv(frame.intrinsics) @ pixels + frame.pose[:3, 3:]
    return points.T


def _add(boxes: list[np.ndarray], box: np.ndarray) -> None:
    """Extends the box near to this one, or adds it; ids differ from frame to frame, so places tell things apart."""
    for index, other in enumerate(boxes):
        if np.linalg.norm(other.mean(0) - box.mean(0)) < _SAME:
            boxes[index] = np.stack([np.minimum(other[0], box[0]), np.maximum(other[1], box[1])])
            return
    boxes.append(box)
