"""Writes the world to disk: a COCO-panoptic directory with depth and camera poses, or shards for training.

Every file appears whole or not at all, and a second run with the same settings continues where the first stopped.
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
"""Scenes of different data-set seeds never coincide."""

FRAMES_PER_SHARD = 64
MANIFEST = "world.json"


@dataclass(frozen=True)
class WorldPlan:
    """What to render.

    Attributes:
        scenes: How many.
        seed: Another seed gives other scenes.
        split: "train" or "all".
        size: `(width, height)` in pixels.
        views: Pictures of each scene.
    """

    scenes: int
    seed: int = 0
    split: Split = "all"
    size: tuple[int, int] = (320, 240)
    views: int = 4

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            SimulationError: Naming the value and its range.
            SettingsError: There is no such split.
        """
        names.check_split(self.split)
        object.__setattr__(self, "size", tuple(self.size))
        limits = {"scenes": (self.scenes, SCENES_PER_SEED), "views": (self.views, 100)}
        limits |= {"width": (self.size[0], 4096), "height": (self.size[1], 4096)}
        for what, (value, high) in limits.items():
            if not 1 <= value <= high:
                raise SimulationError(f"{what} is {value}; expected a whole number between 1 and {high}")
        if self.seed < 0:
            raise SimulationError(f"seed is {self.seed}; expected 0 or more")

    @property
    def frames(self) -> int:
        """Pictures in all."""
        return self.scenes * self.views


def render_scene(renderer: Renderer, plan: WorldPlan, scene: int) -> Iterator[Frame]:
    """Renders the views of one scene of a plan, counted from 0."""
    made = make_scene(plan.seed * SCENES_PER_SEED + scene, plan.split)
    for camera in random_cameras(made, plan.views):
        yield renderer.render(made, camera, plan.size)


def write_coco(
    plan: WorldPlan, out: Path, workers: int = 1, advance: Callable[[int], None] = lambda frames: None
) -> None:
    """Writes a COCO-panoptic directory; docs/reference/world.md describes it.

    Args:
        plan: What to render.
        out: Folder, made if need be.
        workers: Processes.
        advance: Called with the number of frames that were finished, or found finished.

    Raises:
        SimulationError: `out` holds another plan's pictures, or nothing can be rendered or written.
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
    """Writes the plan into the folder, or checks that it is the one already there."""
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
                f"{out} holds a world rendered with other settings ({manifest}); choose another folder, or delete it"
            )
    except OSError as error:
        raise SimulationError(f"cannot write to {out}: {error.strerror or error}; choose another folder") from error


def _work(job: Callable[[Any], int], todo: Sequence[Any], workers: int) -> Iterator[int]:
    """Runs jobs in this process, or in others that each have a GL context; yields results as they come."""
    os.environ.setdefault("LP_NUM_THREADS", "1")  # llvmpipe's own threads gain less than processes do
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
            "a rendering process died, perhaps for lack of memory; run again to continue, with fewer --workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


@functools.cache
def _renderer() -> Renderer:
    """One a process: a GL context takes longer to make than a picture."""
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
    """Writes a scene's pictures, and last of all its records: where these exist the pictures do."""
    plan, out, scene = job
    records = [
        save_frame(out, f"{scene:06d}_{view:02d}", scene * plan.views + view + 1, frame)
        for view, frame in enumerate(render_scene(_renderer(), plan, scene))
    ]
    with atomic_write(_part(out, scene)) as part:
        part.write_text(json.dumps(records))
    return plan.views
