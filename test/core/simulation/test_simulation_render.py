from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from gl_here import needs_gl
from rendered_views import digest, render_view

from checkout import ROOT
from fcclip_core.errors import SimulationError
from fcclip_core.simulation import gl
from fcclip_core.simulation.cameras import random_cameras
from fcclip_core.simulation.frames import Frame
from fcclip_core.simulation.render import MIN_PIXELS, Renderer
from fcclip_core.simulation.rooms import Scene, make_scene

PRINT_DIGEST = """
import sys
from rendered_views import digest, render_view
print(digest(render_view(int(sys.argv[1]))[1]))
"""


def points_of(frame: Frame) -> np.ndarray:
    """Where each pixel's middle hits, in the world, from depth, intrinsics and pose alone: `(H, W, 3)`."""
    rows, columns = np.indices(frame.depth.shape)
    rays = np.linalg.inv(frame.intrinsics) @ np.stack([columns, rows, np.ones_like(rows)]).reshape(3, -1)
    depth = np.where(np.isfinite(frame.depth), frame.depth, 1e6).ravel()
    seen = frame.pose[:3, :3] @ (rays * depth) + frame.pose[:3, 3:]
    return seen.T.reshape(*frame.depth.shape, 3)


@pytest.fixture(scope="module")
def views() -> Iterator[list[tuple[Scene, Frame]]]:
    taken = []
    with Renderer() as renderer:
        for seed, kind in enumerate(["room", "corridor", "table", "yard"] * 2):
            scene = make_scene(seed, "all", kind)
            taken += [(scene, renderer.render(scene, camera, (200, 150))) for camera in random_cameras(scene, 2)]
    yield taken


@needs_gl
def test_map_and_segments_say_the_same(views: list[tuple[Scene, Frame]]) -> None:
    for scene, frame in views:
        ids, counts = np.unique(frame.segment_map[frame.segment_map > 0], return_counts=True)
        assert [segment.id for segment in frame.segments] == ids.tolist()
        assert counts.min() >= MIN_PIXELS
        for segment in frame.segments:
            assert (segment.name, segment.is_thing) == (
                scene.items[segment.id - 1].name,
                scene.items[segment.id - 1].is_thing,
            )
    assert sum(segment.is_thing for _, frame in views for segment in frame.segments) > 4 * len(views)


@needs_gl
def test_depth_and_pose_put_pixels_on_the_objects_they_are_labeled_with(views: list[tuple[Scene, Frame]]) -> None:
    checked = 0
    for scene, frame in views:
        points = points_of(frame)
        things = [index for index, item in enumerate(scene.items) if item.is_thing]
        for placed, index in zip(scene.objects, things, strict=True):
            mine = points[frame.segment_map == index + 1]
            if len(mine):
                checked += 1
                assert np.linalg.norm(mine - placed.position, axis=1).max() <= placed.radius * 1.02 + 0.01
    assert checked > 50


@needs_gl
def test_floors_lie_at_height_zero_and_the_sky_at_infinity(views: list[tuple[Scene, Frame]]) -> None:
    floors, skies = 0, 0
    for _, frame in views:
        heights = points_of(frame)[..., 2]
        for segment in frame.segments:
            mine = frame.segment_map == segment.id
            if segment.name in ("wooden floor", "tiled floor", "carpet"):
                floors += 1
                assert np.abs(heights[mine]).max() < 0.02
            if segment.name == "sky":
                skies += 1
                assert np.isinf(frame.depth[mine]).all()
        assert np.isfinite(frame.depth[frame.segment_map > 0]).any()
    assert floors >= 4
    assert skies >= 1


@needs_gl
def test_color_lies_where_the_truth_says(views: list[tuple[Scene, Frame]]) -> None:
    # The green or blue channel of a red object is far below its red one; a flip or a shift would show.
    checked = 0
    for _, frame in views:
        for segment in frame.segments:
            look, _, shape = segment.name.partition(" ")
            if look in ("red", "green", "blue") and segment.is_thing and shape != "traffic cone":
                mean = frame.image[frame.segment_map == segment.id].mean(0)
                checked += 1
                assert mean.argmax() == ("red", "green", "blue").index(look)
                assert mean.max() > 1.5 * np.median(mean)
    assert checked > 8


@needs_gl
def test_same_seed_same_pixels_in_another_process() -> None:
    here = digest(render_view(3)[1])
    command = [sys.executable, "-c", PRINT_DIGEST, "3"]
    there = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT / "test" / "core")
    assert there.stdout.strip() == here


@needs_gl
def test_one_renderer_gives_what_a_fresh_one_gives() -> None:
    with Renderer() as renderer:
        scenes = [make_scene(seed) for seed in (3, 4)]
        cameras = [random_cameras(scene, 1)[0] for scene in scenes]
        renderer.render(scenes[1], cameras[1], (64, 48))
        frame = renderer.render(scenes[0], cameras[0])
    assert digest(frame) == digest(render_view(3)[1])


@needs_gl
def test_a_second_renderer_does_not_disturb_the_first() -> None:
    scene = make_scene(3)
    camera = random_cameras(scene, 1)[0]
    with Renderer() as first:
        before = first.render(scene, camera)
        with Renderer() as second:
            second.render(scene, camera)
        after = first.render(scene, camera)
    assert digest(before) == digest(after)


@needs_gl
def test_torch_can_compile_in_a_process_that_rendered() -> None:
    # Mesa and triton both bring an LLVM; in the wrong order the process dies of a segmentation fault.
    pytest.importorskip("triton")
    code = "from rendered_views import render_view; render_view(3); import triton"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT / "test" / "core")


def test_missing_gl_library_is_reported_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(width: int, height: int) -> None:
        raise RuntimeError("no display")

    monkeypatch.setattr(gl.mujoco, "GLContext", broken)
    with pytest.raises(SimulationError, match=r"no display.*sudo apt install libegl1"):
        gl.make_context()
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    with pytest.raises(SimulationError, match="'glfw', which does not render off-screen"):
        gl.make_context()
    monkeypatch.delenv("MUJOCO_GL")
    with pytest.raises(SimulationError, match=r"neither libEGL nor libOSMesa.*sudo apt install"):
        gl.make_context()
