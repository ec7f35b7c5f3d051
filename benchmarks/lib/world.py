"""Frames of the simulated world: of drives, and of single scenes."""

from __future__ import annotations

from collections.abc import Iterator

from fcclip_core.simulation.dataset import WorldPlan, render_scene
from fcclip_core.simulation.drive import make_drive
from fcclip_core.simulation.frames import Frame
from fcclip_core.simulation.render import Renderer


def drive_frames(
    seed: int, kind: str, count: int, size: tuple[int, int], *, rate: float | None = None, speed: float = 0.4
) -> Iterator[Frame]:
    """Frames of one drive.

    Args:
        seed: Of the scene and the route.
        kind: room, table or yard.
        count: Number of frames.
        size: Width and height in pixels.
        rate: Frames per second; None spreads them over the whole drive.
        speed: Meters per second.
    """
    drive = make_drive(seed, "all", kind, speed)
    period = drive.duration / count if rate is None else 1 / rate
    with Renderer() as renderer:
        for index in range(count):
            yield renderer.render(drive.scene, drive.camera(index * period), size)


def scene_frames(count: int, seed: int, size: tuple[int, int]) -> Iterator[Frame]:
    """One frame each of `count` scenes; `size` is width and height in pixels."""
    plan = WorldPlan(count, seed, "all", size, 1)
    with Renderer() as renderer:
        for scene in range(count):
            yield from render_scene(renderer, plan, scene)
