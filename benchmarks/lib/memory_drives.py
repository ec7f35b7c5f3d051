"""Drives through several rooms for the object memory: what the model said of each frame, beside the truth.

Each room is driven through twice. Between the laps one thing is taken away and one is put elsewhere.
"""

from __future__ import annotations

import copy
import hashlib
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from benchmarks.lib.depth_noise import noisy
from fcclip_core import Segmenter
from fcclip_core.geometry.camera import PinholeCamera
from fcclip_core.geometry.depth import depth_in_meters
from fcclip_core.memory.observation import Observation, observation_of, pose_covariance
from fcclip_core.results import PanopticResult
from fcclip_core.simulation.drive import Drive, make_drive
from fcclip_core.simulation.frames import Frame
from fcclip_core.simulation.render import Renderer
from fcclip_core.simulation.rooms import Placed, Scene
from fcclip_core.vocabulary.snapshot import VocabularySnapshot

KINDS = ("room", "table", "yard")
"""One room of a drive after the other."""

APART = 30.0
"""Meters in the map from one room's origin to the next."""

_MATCH_IOU = 0.5
_MIN_MOVE = {"table": 0.35, "room": 0.6, "yard": 0.6}
_GAP = 0.08


@dataclass(frozen=True)
class TrueThing:
    """A thing of the world.

    Attributes:
        key: Which one it is, the same in all laps: room and number.
        name: Its class.
        position: float64 `(3,)`, center of its bounding box in the map, meters.
        radius: Half of that box's diagonal.
    """

    key: tuple[int, int]
    name: str
    position: np.ndarray
    radius: float


@dataclass(frozen=True)
class SeenThing:
    """A thing that a frame shows.

    Attributes:
        key: Of the thing.
        pixels: Number of visible pixels.
        segment: Id of the segment that overlaps with it by more than one half; 0 for none.
        is_right: Whether that segment has its name.
    """

    key: tuple[int, int]
    pixels: int
    segment: int
    is_right: bool


@dataclass(frozen=True)
class DriveFrame:
    """A frame under each vocabulary.

    Attributes:
        room: Number of the room.
        lap: 0, or 1 after the changes.
        observations: What the memory gets, by vocabulary.
        seen: What the frame shows, by vocabulary.
        depth: float32 `(H, W)`, true depth, infinite for the sky.
        pose: float64 `(4, 4)`, the true pose of the camera in the map.
    """

    room: int
    lap: int
    observations: Mapping[str, Observation]
    seen: Mapping[str, tuple[SeenThing, ...]]
    depth: np.ndarray
    pose: np.ndarray


@dataclass(frozen=True)
class RecordedDrive:
    """A drive.

    Attributes:
        frames: In their order.
        things: What is there in each lap, by key.
        removed: Keys of what is taken away.
        moved: Keys of what is put elsewhere.
    """

    frames: tuple[DriveFrame, ...]
    things: tuple[Mapping[tuple[int, int], TrueThing], Mapping[tuple[int, int], TrueThing]]
    removed: tuple[tuple[int, int], ...]
    moved: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Noise:
    """Errors of the poses that the memory is told, standard deviations.

    Attributes:
        translation: Meters.
        rotation: Radians.
    """

    translation: float = 0.02
    rotation: float = 0.005


def record_drive(
    segmenter: Segmenter,
    vocabularies: Mapping[str, VocabularySnapshot],
    seed: int,
    frames_a_lap: int,
    size: tuple[int, int],
    noise: Noise,
    cache: Path | None = None,
) -> RecordedDrive:
    """Renders and segments a drive, or reads it from a folder that this program wrote before.

    Args:
        segmenter: The model.
        vocabularies: Prepared vocabularies by name.
        seed: Of the rooms and the route.
        frames_a_lap: Frames of each lap of each room.
        size: Width and height in pixels.
        noise: Errors of the poses.
        cache: Folder of this program's own; None for none.
    """
    key = hashlib.sha256(repr((seed, frames_a_lap, size, noise, sorted(vocabularies), KINDS)).encode()).hexdigest()
    path = cache / f"{key[:16]}.pickle" if cache else None
    if path is not None and path.exists():
        recorded: RecordedDrive = pickle.loads(path.read_bytes())
        return recorded
    recorded = _record(segmenter, vocabularies, seed, frames_a_lap, size, noise)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(recorded))
    return recorded


def _record(
    segmenter: Segmenter,
    vocabularies: Mapping[str, VocabularySnapshot],
    seed: int,
    frames_a_lap: int,
    size: tuple[int, int],
    noise: Noise,
) -> RecordedDrive:
    dice = np.random.default_rng(seed)
    frames: list[DriveFrame] = []
    things: tuple[dict[tuple[int, int], TrueThing], ...] = ({}, {})
    removed, moved = [], []
    with Renderer() as renderer:
        for room, kind in enumerate(KINDS):
            drive = make_drive(seed * len(KINDS) + room, "all", kind)
            changed, gone, other = _changed(drive.scene, dice)
            removed.append((room, gone))
            moved += [] if other is None else [(room, other)]
            for lap, scene in enumerate((drive.scene, changed)):
                things[lap].update(_things_of(scene, room))
                for frame in _lap(renderer, drive, scene, frames_a_lap, size):
                    frames.append(_labeled(segmenter, vocabularies, frame, room, lap, len(frames), noise, dice))
            del things[1][room, gone]
    return RecordedDrive(tuple(frames), (things[0], things[1]), tuple(removed), tuple(moved))


def _lap(renderer: Renderer, drive: Drive, scene: Scene, count: int, size: tuple[int, int]) -> Iterator[Frame]:
    for index in range(count):
        yield renderer.render(scene, drive.camera(index * drive.duration / count), size)


def _labeled(
    segmenter: Segmenter,
    vocabularies: Mapping[str, VocabularySnapshot],
    frame: Frame,
    room: int,
    lap: int,
    number: int,
    noise: Noise,
    dice: np.random.Generator,
) -> DriveFrame:
    camera, size = camera_of(frame), frame.depth.shape[::-1]
    depth = depth_in_meters(noisy(frame.depth, camera, dice), (size[0], size[1]))
    pose = frame.pose.copy()
    pose[0, 3] += APART * room
    believed = pose.copy()
    believed[:3, :3] = Rotation.from_rotvec(dice.normal(0, noise.rotation, 3)).as_matrix() @ pose[:3, :3]
    believed[:3, 3] += dice.normal(0, noise.translation, 3)
    encoded = segmenter.encode(frame.image)
    observations, seen = {}, {}
    for name, snapshot in vocabularies.items():
        result = replace(segmenter.decode(encoded, snapshot), evidence=None)
        observations[name] = observation_of(
            result,
            depth,
            camera,
            believed,
            stamp=number * 1_000_000_000,
            covariance=pose_covariance(noise.translation, noise.rotation),
            words=[row.item.name for row in snapshot.published],
            image=frame.image,
        )
        seen[name] = tuple(_seen(frame, result, room))
    return DriveFrame(room, lap, observations, seen, frame.depth, pose)


def _seen(frame: Frame, result: PanopticResult, room: int) -> Iterator[SeenThing]:
    for thing in frame.segments:
        if not thing.is_thing:
            continue
        mask = frame.segment_map == thing.id
        ids, counts = np.unique(result.segment_map[mask], return_counts=True)
        areas = {segment.id: segment.area for segment in result.segments}
        pixels, found, right = int(mask.sum()), 0, False
        for number, both in zip(ids.tolist(), counts.tolist(), strict=True):
            if number and both > _MATCH_IOU * (pixels + areas[number] - both):
                found = number
                right = next(item.name for item in result.segments if item.id == number) == thing.name
        yield SeenThing((room, thing.id - 1), pixels, found, right)


def _things_of(scene: Scene, room: int) -> dict[tuple[int, int], TrueThing]:
    numbers = _numbers(scene)
    return {
        (room, number): TrueThing(
            (room, number),
            scene.items[number].name,
            np.array(placed.position) + (APART * room, 0, 0),
            placed.radius,
        )
        for number, placed in zip(numbers, scene.objects, strict=True)
    }


def _numbers(scene: Scene) -> list[int]:
    """Indices of the things among a scene's items."""
    return [number for number, item in enumerate(scene.items) if item.is_thing]


def _changed(scene: Scene, dice: np.random.Generator) -> tuple[Scene, int, int | None]:
    """The scene with one thing taken away and another moved, if there is room; and the numbers of these two."""
    numbers = _numbers(scene)
    names = [scene.items[number].name for number in numbers]
    # A thing with a double in the room could be taken for that.
    single = [index for index, name in enumerate(names) if names.count(name) == 1] or list(range(len(names)))
    order = dice.permutation(single)
    gone = int(order[0])
    model = copy.copy(scene.model)
    owners = np.array(scene.owners)
    model.geom_pos[owners == numbers[gone], 2] -= 50.0  # below the floor
    places = ((int(other), _free_place(scene, int(other), gone, dice)) for other in order[1:])
    other, place = next(((other, place) for other, place in places if place is not None), (None, None))
    if other is None or place is None:
        return replace(scene, model=model), numbers[gone], None
    shift = np.array(place) - scene.objects[other].position[:2]
    model.geom_pos[owners == numbers[other], :2] += shift
    objects = list(scene.objects)
    objects[other] = Placed((place[0], place[1], objects[other].position[2]), objects[other].radius)
    return replace(scene, model=model, objects=tuple(objects)), numbers[gone], numbers[other]


def _free_place(scene: Scene, other: int, gone: int, dice: np.random.Generator) -> tuple[float, float] | None:
    """Where a thing can stand between the others, far enough from its place."""
    positions = np.array([item.position for item in scene.objects])[:, :2]
    radii = np.array([item.radius for item in scene.objects])
    low, high = positions.min(0), positions.max(0)
    for _ in range(500):
        place = dice.uniform(low, high)
        away = np.linalg.norm(positions - place, axis=1)
        free = away > radii + radii[other] + _GAP
        free[other] = away[other] > _MIN_MOVE[scene.kind]
        blocked = any(
            left - radii[other] < place[0] < right + radii[other]
            and down - radii[other] < place[1] < up + radii[other]
            and top > scene.support + 0.01
            for left, down, right, up, top in scene.obstacles
        )
        if free.all() and not blocked:
            return float(place[0]), float(place[1])
    return None


def camera_of(frame: Frame) -> PinholeCamera:
    """The frame's camera."""
    height, width = frame.depth.shape
    matrix = frame.intrinsics
    return PinholeCamera(width, height, matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2])


def rightly_segmented(
    frames: Sequence[DriveFrame], vocabulary: str, lap: int, pixels: int
) -> dict[tuple[int, int], int]:
    """How often each thing was segmented with more than so many visible pixels, and named rightly if it has a name."""
    counts: dict[tuple[int, int], int] = {}
    for frame in frames:
        if frame.lap == lap:
            for item in frame.seen[vocabulary]:
                if item.pixels > pixels and item.segment and (item.is_right or vocabulary != "world"):
                    counts[item.key] = counts.get(item.key, 0) + 1
    return counts
