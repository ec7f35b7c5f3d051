"""Writes the world to disk: a COCO panoptic folder with depth and camera poses, or shards for training.

Files are written atomically, and a second run with the same settings resumes the first.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fcclip_core.errors import SimulationError
from fcclip_core.files.atomic_write import atomic_write
from fcclip_core.simulation import names
from fcclip_core.simulation.cameras import random_cameras
from fcclip_core.simulation.coco_files import make_folders, save_annotations, save_frame
from fcclip_core.simulation.frames import Frame
from fcclip_core.simulation.names import Split
from fcclip_core.simulation.render import Renderer
from fcclip_core.simulation.rooms import make_scene

SCENES_PER_SEED = 1_000_000
"""Largest number of scenes per dataset, so that scenes of different seeds differ."""

FRAMES_PER_SHARD = 64
MANIFEST = "world.json"


@dataclass(frozen=True)
class WorldPlan:
    """The frames to render.

    Attributes:
        scenes: Number of scenes.
        seed: Determines the scenes.
        split: "train" or "all".
        size: `(width, height)` in pixels.
        views: Frames per scene.
    """

    scenes: int
    seed: int = 0
    split: Split = "all"
    size: tuple[int, int] = (320, 240)
    views: int = 4

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            SimulationError: A value is out of range.
            SettingsError: Invalid split.
        """
        names.check_split(self.split)
        object.__setattr__(self, "size", tuple(self.size))
        limits = {"scenes": (self.scenes, SCENES_PER_SEED), "views": (self.views, 100)}
        limits |= {"width": (self.size[0], 4096), "height": (self.size[1], 4096)}
        for what, (value, high) in limits.items():
            if not 1 <= value <= high:
                raise SimulationError(f"{what} is {value}; expected an integer between 1 and {high}")
        if self.seed < 0:
            raise SimulationError(f"seed is {self.seed}; expected 0 or more")

    @property
    def frames(self) -> int:
        """Total number of frames."""
        return self.scenes * self.views


def render_scene(renderer: Renderer, plan: WorldPlan, scene: int) -> Iterator[Frame]:
    """Renders the views of the scene with index `scene`, from 0."""
    made = make_scene(plan.seed * SCENES_PER_SEED + scene, plan.split)
    for camera in random_cameras(made, plan.views):
        yield renderer.render(made, camera, plan.size)


def write_coco(
    plan: WorldPlan, out: Path, workers: int = 1, advance: Callable[[int], None] = lambda frames: None
) -> None:
    """Writes a COCO panoptic folder; see docs/reference/world.md.

    Args:
        plan: The frames to render.
        out: Output folder, created if needed.
        workers: Number of processes.
        advance: Called with the number of frames that were rendered, or already existed.

    Raises:
        SimulationError: `out` contains frames of another plan, or rendering or writing failed.
    """
    _claim(plan, out, "coco_panoptic")
    make_folders(out)
    (out / "parts").mkdir(exist_ok=True)
    todo = [scene for scene in range(plan.scenes) if not _part(out, scene).exists()]
    advance((plan.scenes - len(todo)) * plan.views)
    for frames in _work(_write_scene, [(plan, out, scene) for scene in todo], workers):
        advance(frames)
    records = [record for scene in range(plan.scenes) for record in json.loads(_part(out, scene).read_text())]
    save_annotations(out, records, f"simulated world, split {plan.split}, seed {plan.seed}")


def write_shards(
    plan: WorldPlan, out: Path, workers: int = 1, advance: Callable[[int], None] = lambda frames: None
) -> None:
    """Writes .npz shards of about 64 frames for training (docs/reference/world.md). Arguments as `write_coco`.

    Raises:
        SimulationError: As `write_coco`.
    """
    _claim(plan, out, "shards")
    step = max(1, FRAMES_PER_SHARD // plan.views)
    todo = []
    for index, first in enumerate(range(0, plan.scenes, step)):
        scenes = range(first, min(first + step, plan.scenes))
        path = out / f"shard-{index:05d}.npz"
        if path.exists():
            advance(len(scenes) * plan.views)
        else:
            todo.append((plan, path, scenes))
    for frames in _work(_write_shard, todo, workers):
        advance(frames)


def _claim(plan: WorldPlan, out: Path, form: str) -> None:
    """Writes the plan into the folder, or checks that the folder has the same plan."""
    about = json.dumps(dataclasses.asdict(plan) | {"form": form}, indent=1) + "\n"
    try:
        out.mkdir(parents=True, exist_ok=True)
        manifest = out / MANIFEST
        if not manifest.exists():
            if any(out.iterdir()):
                raise SimulationError(f"{out} is not empty and not a world; choose another folder")
            with atomic_write(manifest) as part:
                part.write_text(about)
        elif manifest.read_text() != about:
            raise SimulationError(
                f"{out} contains a world rendered with other settings ({manifest}); choose another folder, or delete it"
            )
    except OSError as error:
        raise SimulationError(f"cannot write to {out}: {error.strerror or error}; choose another folder") from error


def _work(job: Callable[[Any], int], todo: Sequence[Any], workers: int) -> Iterator[int]:
    """Runs jobs in this process, or in worker processes with a GL context each; yields results as completed."""
    os.environ.setdefault("LP_NUM_THREADS", "1")  # processes scale better than llvmpipe's threads
    if workers <= 1 or len(todo) <= 1:
        yield from map(job, todo)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(todo)), mp_context=context)
    try:
        for future in as_completed([pool.submit(job, item) for item in todo]):
            yield future.result()
    except BrokenProcessPool as error:
        raise SimulationError(
            "a rendering process died, possibly for lack of memory; run again with fewer --workers to continue"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


@functools.cache
def _renderer() -> Renderer:
    """One renderer per process, because creating a GL context takes longer than rendering a frame."""
    return Renderer()


def _write_shard(job: tuple[WorldPlan, Path, range]) -> int:
    plan, path, scenes = job
    frames = [frame for scene in scenes for frame in render_scene(_renderer(), plan, scene)]
    vocabulary = names.world_vocabulary()
    numbers = {name: index for index, name in enumerate(vocabulary.names)}
    rows = [
        (index, segment.id, numbers[segment.name]) for index, frame in enumerate(frames) for segment in frame.segments
    ]
    owner, ids, classes = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    with atomic_write(path) as part:
        np.savez_compressed(
            part,
            images=np.stack([frame.image for frame in frames]),
            maps=np.stack([frame.segment_map for frame in frames]).astype(np.uint16),
            scenes=np.repeat(np.array(scenes), plan.views).astype(np.int32),
            segment_frame=owner.astype(np.int32),
            segment_id=ids.astype(np.uint16),
            segment_class=classes.astype(np.uint16),
            class_names=np.array(vocabulary.names),
            class_is_thing=np.array(vocabulary.things),
        )
    return len(frames)


def _part(out: Path, scene: int) -> Path:
    return out / "parts" / f"{scene:06d}.json"


def _write_scene(job: tuple[WorldPlan, Path, int]) -> int:
    """Writes a scene's images, and then its records, so that existing records imply existing images."""
    plan, out, scene = job
    records = [
        save_frame(out, f"{scene:06d}_{view:02d}", scene * plan.views + view + 1, frame)
        for view, frame in enumerate(render_scene(_renderer(), plan, scene))
    ]
    with atomic_write(_part(out, scene)) as part:
        part.write_text(json.dumps(records))
    return plan.views
