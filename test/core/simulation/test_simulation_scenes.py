from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from fcclip_core.errors import SettingsError
from fcclip_core.simulation import names
from fcclip_core.simulation.cameras import is_free, look_at, random_cameras
from fcclip_core.simulation.gl import mujoco
from fcclip_core.simulation.rooms import MAX_OBJECTS, Scene, make_scene

SEEDS = range(24)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [make_scene(seed, "train" if seed % 2 else "all") for seed in SEEDS]


def world_points(scene: Scene) -> list[np.ndarray]:
    """Each object's vertices in the world, as MuJoCo places them."""
    model, data = scene.model, mujoco.MjData(scene.model)
    mujoco.mj_forward(model, data)
    points: dict[int, list[np.ndarray]] = {}
    for geom, owner in enumerate(scene.owners):
        if scene.items[owner].is_thing:
            mesh = model.geom_dataid[geom]
            first, count = model.mesh_vertadr[mesh], model.mesh_vertnum[mesh]
            vertices = model.mesh_vert[first : first + count].astype(float)
            turned = vertices @ data.geom_xmat[geom].reshape(3, 3).T + data.geom_xpos[geom]
            points.setdefault(owner, []).append(turned)
    return [np.concatenate(parts) for _, parts in sorted(points.items())]


def test_training_scenes_hold_no_held_out_class(scenes: list[Scene]) -> None:
    allowed = set(names.train_vocabulary().names)
    shown = {item.name for scene in scenes if scene.split == "train" for item in scene.items}
    assert len(shown) > 40
    assert shown <= allowed


def test_every_scene_has_objects_and_no_more_than_twelve(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert 1 <= len(scene.objects) <= MAX_OBJECTS
        assert len(scene.owners) == scene.model.ngeom
        assert sum(item.is_thing for item in scene.items) == len(scene.objects)


def test_objects_rest_on_their_support_without_touching(scenes: list[Scene]) -> None:
    for scene in scenes:
        points = world_points(scene)
        boxes = [(cloud.min(0), cloud.max(0)) for cloud in points]
        for (low, high), placed in zip(boxes, scene.objects, strict=True):
            assert low[2] == pytest.approx(scene.support, abs=2e-3)
            assert (low + high) / 2 == pytest.approx(np.array(placed.position), abs=2e-3)
        for index, (low, high) in enumerate(boxes):
            for other_low, other_high in boxes[:index]:
                assert (low[:2] > other_high[:2]).any() or (other_low[:2] > high[:2]).any()


def test_same_seed_same_scene_other_seed_other_scene() -> None:
    first, again, other = make_scene(5), make_scene(5), make_scene(6)
    assert first.items == again.items
    assert first.objects == again.objects
    assert np.array_equal(first.model.tex_data, again.model.tex_data)
    assert first.items != other.items


def test_unknown_kind_of_scene_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match="'attic'.*corridor"):
        make_scene(0, "all", "attic")


@pytest.mark.parametrize("kind", ["room", "corridor", "table", "yard"])
def test_cameras_stay_clear_of_objects_and_tables(kind: str) -> None:
    clear = 0
    for seed in range(4):
        scene = make_scene(seed, "all", kind)
        for camera in random_cameras(scene, 3):
            clear += is_free(scene, camera.pose[:3, 3])
    assert clear >= 11


def test_camera_axes_by_hand() -> None:
    # Looking along world x from one meter up: right is -y, down is -z.
    camera = look_at((0, 0, 1), (5, 0, 1), 90)
    expected = [[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1], [0, 0, 0, 1]]
    assert camera.pose == pytest.approx(np.array(expected, dtype=float))
    assert camera.intrinsics((320, 240)) == pytest.approx(np.array([[120, 0, 159.5], [0, 120, 119.5], [0, 0, 1]]))


@pytest.mark.slow
def test_all_classes_appear_about_equally_often() -> None:
    counts = Counter(item.name for seed in range(600) for item in make_scene(seed).items)
    things = [counts[names.thing_name(*pair)] for pair in names.pairs("all")]
    assert min(things) > 0.4 * np.mean(things)
    assert max(things) < 2 * np.mean(things)
    stuff = [counts[kind] for kind in names.STUFF]
    assert min(stuff) > 40
