"""A jump of the map is told from what odometry drifts between two frames."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from fcclip_ros.memory.map_jumps import MapJumps

HERE = np.zeros(3)


def transform(x: float = 0.0, degrees: float = 0.0) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[0, 3] = Rotation.from_euler("z", degrees, degrees=True).as_matrix(), x
    return matrix


def test_small_steps_are_no_jump_however_far_they_lead() -> None:
    jumps = MapJumps()
    assert not any(jumps.add(transform(0.02 * step), HERE, 0.3, 0.1) for step in range(100))
    assert jumps.count == 0


def test_a_step_or_a_turn_is_one() -> None:
    jumps = MapJumps()
    jumps.add(transform(), HERE, 0.3, 0.1)
    assert jumps.add(transform(0.5), HERE, 0.3, 0.1) == "0.50 m and 0.0 degrees"
    assert jumps.add(transform(0.5, 8.0), HERE, 0.3, 0.1).endswith("8.0 degrees")
    assert jumps.count == 2


def test_a_turn_counts_by_what_it_moves_where_the_robot_is() -> None:
    """Two degrees about the origin are nothing there, and 0.7 m at 20 m."""
    for place, is_jump in ((HERE, False), (np.array([20.0, 0.0, 0.0]), True)):
        jumps = MapJumps()
        jumps.add(transform(), place, 0.3, 0.1)
        assert bool(jumps.add(transform(degrees=2.0), place, 0.3, 0.1)) is is_jump


def test_after_a_restart_the_first_transform_is_compared_with_none() -> None:
    jumps = MapJumps()
    jumps.add(transform(), HERE, 0.3, 0.1)
    jumps.restart()
    assert not jumps.add(transform(9.0), HERE, 0.3, 0.1)
