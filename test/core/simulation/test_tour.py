"""Where the scenes of a tour lie."""

from __future__ import annotations

import numpy as np

from fcclip_core.simulation.tour import in_tour, scene_origin, scene_seeds


def test_tours_share_no_scene() -> None:
    assert list(scene_seeds(2, 3)) == [2000, 2001, 2002]
    assert not set(scene_seeds(0, 1000)) & set(scene_seeds(1, 1000))


def test_pose_in_a_later_scene_is_moved_and_the_given_one_is_not() -> None:
    pose = np.eye(4)
    pose[:3, 3] = 1.0, 2.0, 3.0
    assert in_tour(pose, 2)[:3, 3].tolist() == [61.0, 2.0, 3.0]
    assert np.array_equal(in_tour(pose, 0), pose)
    assert pose[0, 3] == 1.0 and scene_origin(1).tolist() == [30.0, 0.0, 0.0]
