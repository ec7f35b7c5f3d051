from __future__ import annotations

import numpy as np
import pytest

from fcclip_core.simulation.names import SHAPES
from fcclip_core.simulation.shapes import Mesh, make_shape, slab


def volume(mesh: Mesh) -> float:
    """By the divergence theorem; negative if the surface is inside out, wrong if it has a hole."""
    a, b, c = (mesh.vertices[mesh.faces[:, corner]] for corner in range(3))
    return float(np.sum(a * np.cross(b, c)) / 6)


def area_vector(mesh: Mesh) -> np.ndarray:
    """Zero for a closed surface."""
    a, b, c = (mesh.vertices[mesh.faces[:, corner]] for corner in range(3))
    return np.sum(np.cross(b - a, c - a), axis=0) / 2


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("seed", range(3))
def test_shapes_stand_on_the_floor_and_fit_a_cube(name: str, seed: int) -> None:
    parts = make_shape(name, np.random.default_rng(seed))
    points = np.concatenate([part.mesh.vertices for part in parts])
    assert points[:, 2].min() == pytest.approx(0, abs=1e-9)
    assert 0.6 < np.ptp(points, axis=0).max() < 1.1


@pytest.mark.parametrize("name", SHAPES)
def test_normals_are_unit_and_triangles_face_along_them(name: str) -> None:
    for part in make_shape(name, np.random.default_rng(0)):
        mesh = part.mesh
        assert np.linalg.norm(mesh.normals, axis=1) == pytest.approx(np.ones(len(mesh.normals)))
        a, b, c = (mesh.vertices[mesh.faces[:, corner]] for corner in range(3))
        flat = np.cross(b - a, c - a)
        assert (np.sum(flat * mesh.normals[mesh.faces].mean(1), axis=1) > 0).all()


@pytest.mark.parametrize("name", [name for name in SHAPES if name not in ("traffic cone", "mug")])
def test_single_bodies_are_closed_and_not_inside_out(name: str) -> None:
    (part,) = make_shape(name, np.random.default_rng(1))
    assert area_vector(part.mesh) == pytest.approx(np.zeros(3), abs=1e-6)
    assert volume(part.mesh) > 0.02


def test_ball_and_slab_have_the_volume_of_geometry() -> None:
    (ball,) = make_shape("ball", np.random.default_rng(0))
    assert volume(ball.mesh) == pytest.approx(4 / 3 * np.pi * 0.45**3, rel=0.03)
    assert volume(slab((0.5, 2.0, 3.0))) == pytest.approx(3.0)


def test_ring_has_a_hole_and_mug_a_handle_and_a_cavity() -> None:
    (ring,) = make_shape("ring", np.random.default_rng(0))
    assert np.hypot(*ring.mesh.vertices[:, :2].T).min() > 0.2
    (mug,) = make_shape("mug", np.random.default_rng(0))
    x = mug.mesh.vertices[:, 0]
    assert x.max() > -x.min() + 0.05
    solid = np.pi * 0.34**2 * 0.82
    assert 0 < volume(mug.mesh) < 0.6 * solid


def test_texture_stretches_once_over_a_slab_unless_scaled() -> None:
    once, scaled = slab((4.0, 0.1, 2.0)), slab((4.0, 0.1, 2.0), 0.5)
    assert once.coordinates.min() == 0
    assert once.coordinates.max() == 1
    assert np.ptp(scaled.coordinates[:, 0]) == pytest.approx(2.0)
