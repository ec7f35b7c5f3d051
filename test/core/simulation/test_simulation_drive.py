from __future__ import annotations

import numpy as np
import pytest

from fcclip_core.errors import SimulationError
from fcclip_core.simulation.drive import Drive, make_drive


@pytest.fixture(scope="module", params=["room", "table", "yard"])
def drive(request: pytest.FixtureRequest) -> Drive:
    return make_drive(1, "all", request.param, speed=0.5)


def test_the_robot_drives_round_at_its_speed(drive: Drive) -> None:
    places = np.array([camera.pose[:3, 3] for camera in drive.cameras(10)])
    steps = np.linalg.norm(np.diff(places, axis=0), axis=1)
    assert steps == pytest.approx(np.full(len(steps), 0.05), rel=0.05)
    assert drive.camera(drive.duration).pose == pytest.approx(drive.camera(0).pose)


def test_nothing_stands_in_its_way(drive: Drive) -> None:
    for camera in drive.cameras(5):
        x, y = camera.pose[:2, 3]
        for item in drive.scene.objects:
            assert np.hypot(x - item.position[0], y - item.position[1]) > item.radius
        for left, low, right, high, _ in drive.scene.obstacles:
            assert not (left < x < right and low < y < high)


def test_objects_are_in_view_nearly_all_the_time(drive: Drive) -> None:
    lonely = 0
    cameras = list(drive.cameras(4))
    for camera in cameras:
        seen = 0
        slope = np.tan(np.deg2rad(camera.fov) / 2)
        for item in drive.scene.objects:
            x, y, z = camera.pose[:3, :3].T @ (np.array(item.position) - camera.pose[:3, 3])
            seen += z > 0 and abs(x) < z * slope * 4 / 3 and abs(y) < z * slope
        lonely += seen == 0
    assert lonely < 0.1 * len(cameras)


def test_the_camera_turns_smoothly(drive: Drive) -> None:
    forward = np.array([camera.pose[:3, 2] for camera in drive.cameras(10)])
    turns = np.rad2deg(np.arccos(np.clip(np.sum(forward[1:] * forward[:-1], axis=1), -1, 1)))
    assert turns.max() < 12


def test_same_seed_same_drive() -> None:
    first, again = make_drive(2), make_drive(2)
    assert first.scene.seed == again.scene.seed
    assert [camera.pose.tolist() for camera in first.cameras(1, 3)] == [
        camera.pose.tolist() for camera in again.cameras(1, 3)
    ]


@pytest.mark.parametrize(("kind", "speed"), [("corridor", 0.5), ("room", 0.0)])
def test_drives_that_cannot_be_are_refused(kind: str, speed: float) -> None:
    with pytest.raises(SimulationError, match="room, table or yard"):
        make_drive(0, "all", kind, speed)
