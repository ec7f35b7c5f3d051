"""The shapes of things as triangle meshes with texture coordinates.

Every shape stands on z = 0, is centered on the z axis, fits into a cube of about one meter, and has texture coordinates
in which one unit has `PATTERN_PERIODS` stripes or checks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

PATTERN_PERIODS = 4

_ROUND = 28
"""Number of corners of a circle."""


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh.

    Attributes:
        vertices: float64 `(V, 3)`, meters.
        normals: float64 `(V, 3)`, unit vectors pointing outward.
        coordinates: float64 `(V, 2)`, texture coordinates.
        faces: int32 `(F, 3)`, counter-clockwise from outside.
    """

    vertices: np.ndarray
    normals: np.ndarray
    coordinates: np.ndarray
    faces: np.ndarray


@dataclass(frozen=True)
class Part:
    """A mesh of a shape and its coloring.

    Attributes:
        mesh: The surface.
        role: "look" has the object's look; "trim" contrasts with it; "base" is dark rubber.
    """

    mesh: Mesh
    role: str = "look"


def make_shape(name: str, rng: np.random.Generator) -> tuple[Part, ...]:
    """Creates a shape with random proportions.

    Args:
        name: One of `names.SHAPES`.
        rng: Random generator of the proportions.
    """
    return _MAKERS[name](rng)


def slab(size: Sequence[float] | np.ndarray, scale: float | None = None) -> Mesh:
    """A box centered on the origin.

    Args:
        size: Its extent along x, y and z in meters.
        scale: Texture units per meter of surface; None: the texture is stretched once over each face.
    """
    half = np.asarray(size, dtype=float) / 2
    pieces = []
    for axis in range(3):
        for sign in (1.0, -1.0):
            # The texture is upright on the sides: its second axis is z.
            right, up = ((1, 2), (0, 2), (0, 1))[axis]
            corners = np.zeros((4, 3))
            corners[:, axis] = sign * half[axis]
            corners[:, right] = half[right] * np.array([-1, 1, 1, -1])
            corners[:, up] = half[up] * np.array([-1, -1, 1, 1])
            unit = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], dtype=float)
            pieces.append(_polygon(corners, unit if scale is None else corners[:, [right, up]] * scale))
    return _outwards(_join(pieces))


def _ball(rng: np.random.Generator) -> tuple[Part, ...]:
    angle = np.linspace(-np.pi / 2, np.pi / 2, 15)
    return (Part(_lathe([np.stack([np.cos(angle), 1 + np.sin(angle)], 1) * 0.45])),)


def _box(rng: np.random.Generator) -> tuple[Part, ...]:
    size = np.array([1.0, rng.uniform(0.75, 1.0), rng.uniform(0.7, 1.0)]) * 0.75
    mesh = slab(size, 0.9)
    return (Part(_moved(mesh, (0, 0, size[2] / 2))),)


def _cylinder(rng: np.random.Generator) -> tuple[Part, ...]:
    radius = rng.uniform(0.26, 0.36)
    return (Part(_round_solid(radius, radius, rng.uniform(0.7, 0.95))),)


def _cone(rng: np.random.Generator) -> tuple[Part, ...]:
    height = rng.uniform(0.85, 1.0)
    return (Part(_round_solid(rng.uniform(0.36, 0.44), 0.004, height)),)


def _pyramid(rng: np.random.Generator) -> tuple[Part, ...]:
    half, height = rng.uniform(0.4, 0.46), rng.uniform(0.65, 0.85)
    base = np.array([[-half, -half, 0], [half, -half, 0], [half, half, 0], [-half, half, 0]])
    tip = np.array([0, 0, height])
    sides = [
        _polygon(np.stack([base[i], base[(i + 1) % 4], tip]), np.array([[0, 0], [0.7, 0], [0.35, 0.7]]))
        for i in range(4)
    ]
    return (Part(_join([*sides, _polygon(base[::-1], base[::-1, :2])])),)


def _capsule(rng: np.random.Generator) -> tuple[Part, ...]:
    radius, length = rng.uniform(0.19, 0.23), rng.uniform(0.5, 0.62)
    angle = np.linspace(-np.pi / 2, 0, 8)
    lower = np.stack([radius * np.cos(angle), radius + radius * np.sin(angle)], 1)
    upper = np.stack([lower[::-1, 0], 2 * radius + length - lower[::-1, 1]], 1)
    return (Part(_lathe([np.concatenate([lower, upper])])),)


def _ring(rng: np.random.Generator) -> tuple[Part, ...]:
    tube = rng.uniform(0.1, 0.14)
    angle = np.linspace(-np.pi, np.pi, 17)
    mesh = _lathe([np.stack([0.5 - tube + tube * np.cos(angle), tube + tube * np.sin(angle)], 1)])
    # Stripes run across the tube.
    return (Part(Mesh(mesh.vertices, mesh.normals, mesh.coordinates[:, ::-1] * [1.0, 1.5], mesh.faces)),)


def _star(rng: np.random.Generator) -> tuple[Part, ...]:
    inner, thick = rng.uniform(0.22, 0.26), rng.uniform(0.07, 0.11)
    angle = np.pi / 2 + np.arange(10) * np.pi / 5
    radius = np.where(np.arange(10) % 2 == 0, 0.52, inner)
    rim = np.stack([radius * np.cos(angle), np.zeros(10), radius * np.sin(angle)], 1)
    pieces = []
    for side in (-1.0, 1.0):
        edge = rim + [0, side * thick * 0.4, 0]
        middle = np.array([0, side * thick * 1.8, 0])
        for i in range(10):
            corners = np.stack([edge[i], edge[(i + 1) % 10], middle])
            pieces.append(_polygon(corners, corners[:, [0, 2]]))
    for i in range(10):
        j = (i + 1) % 10
        low, high = np.array([0, -thick * 0.4, 0]), np.array([0, thick * 0.4, 0])
        corners = np.stack([rim[i] + low, rim[j] + low, rim[j] + high, rim[i] + high])
        pieces.append(_polygon(corners, np.array([[0, 0], [0.2, 0], [0.2, 0.1], [0, 0.1]])))
    mesh = _outwards(_join(pieces))
    return (Part(_moved(mesh, (0, 0, -mesh.vertices[:, 2].min()))),)


def _mug(rng: np.random.Generator) -> tuple[Part, ...]:
    radius, height, wall = rng.uniform(0.29, 0.34), rng.uniform(0.7, 0.82), 0.045
    outline = [(0, 0), (radius, 0), (radius, height), (radius - wall, height), (radius - wall, 0.05), (0, 0.05)]
    body = _lathe([np.array(outline[i : i + 2], dtype=float) for i in range(len(outline) - 1)])
    return (Part(_join([_moved(body, (-0.1, 0, 0)), _moved(_handle(height), (radius - 0.1 - wall / 2, 0, 0))])),)


def _handle(height: float) -> Mesh:
    """Half a ring in the x-z plane, on the mug's side of x = 0."""
    reach, tube = height * 0.31, 0.055
    along, around = np.meshgrid(np.linspace(-np.pi / 2, np.pi / 2, 14), np.linspace(0, 2 * np.pi, 11), indexing="ij")
    normals = np.stack([np.cos(around) * np.cos(along), np.sin(around), np.cos(around) * np.sin(along)], -1)
    center = np.stack([np.cos(along), np.zeros_like(along), np.sin(along)], -1) * reach
    coordinates = np.stack([along / np.pi * 0.6, around / 20], -1)
    return _moved(_grid(center + tube * normals, normals, coordinates), (0, 0, height * 0.52))


def _traffic_cone(rng: np.random.Generator) -> tuple[Part, ...]:
    side, foot, tip, height = 0.72, rng.uniform(0.25, 0.28), 0.055, rng.uniform(0.92, 1.0)
    base = _moved(slab((side, side, 0.07)), (0, 0, 0.035))
    levels = np.array([0.07, rng.uniform(0.42, 0.46) * height, rng.uniform(0.58, 0.64) * height, height])
    widths = np.interp(levels, [0.07, height], [foot, tip])
    rims = np.stack([widths, levels], 1)
    lid = np.array([rims[3], [0.0, height]])
    return (
        Part(base, "base"),
        Part(_lathe([rims[0:2]])),
        Part(_lathe([rims[1:3]]), "trim"),
        Part(_lathe([rims[2:4], lid])),
    )


_MAKERS = {
    "ball": _ball,
    "box": _box,
    "cylinder": _cylinder,
    "cone": _cone,
    "pyramid": _pyramid,
    "capsule": _capsule,
    "ring": _ring,
    "star": _star,
    "mug": _mug,
    "traffic cone": _traffic_cone,
}


def _round_solid(below: float, above: float, height: float) -> Mesh:
    """A closed cylinder or truncated cone with these radii at its ends."""
    corners = np.array([[0, 0], [below, 0], [above, height], [0, height]])
    return _lathe([corners[i : i + 2] for i in range(3)])


def _lathe(pieces: Sequence[np.ndarray]) -> Mesh:
    """Rotates profiles around the z axis.

    Args:
        pieces: Each `(P, 2)`: radius and height, ascending on the outside; smooth within a piece, with an edge between
            pieces.
    """
    around = np.linspace(0, 2 * np.pi, _ROUND + 1)
    turned = []
    traveled = 0.0
    for profile in pieces:
        step = np.diff(profile, axis=0)
        length = np.hypot(step[:, 0], step[:, 1])
        tangent = np.zeros_like(profile)
        tangent[:-1] += step / length[:, None]
        tangent[1:] += step / length[:, None]
        tangent /= np.hypot(tangent[:, 0], tangent[:, 1])[:, None]
        v = traveled + np.concatenate([[0], np.cumsum(length)]) * 0.7
        traveled = v[-1]
        cos, sin = np.cos(around)[None], np.sin(around)[None]
        radius, z = profile[:, :1], np.repeat(profile[:, 1:], _ROUND + 1, 1)
        positions = np.stack([radius * cos, radius * sin, z], -1)
        outward, upward = tangent[:, 1:], -tangent[:, :1]
        normals = np.stack([outward * cos, outward * sin, np.repeat(upward, _ROUND + 1, 1)], -1)
        u, v = np.meshgrid(around / (2 * np.pi) * 1.0, v)
        turned.append(_grid(positions, normals, np.stack([u, v], -1)))
    return _join(turned)


def _grid(positions: np.ndarray, normals: np.ndarray, coordinates: np.ndarray) -> Mesh:
    """Triangulates `(M, N, ...)` grids; triangles without area are dropped."""
    rows, columns = positions.shape[:2]
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    faces = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
    vertices = positions.reshape(-1, 3)
    sides = vertices[faces]
    area = np.linalg.norm(np.cross(sides[:, 1] - sides[:, 0], sides[:, 2] - sides[:, 0]), axis=1)
    mesh = Mesh(vertices, normals.reshape(-1, 3), coordinates.reshape(-1, 2), faces[area > 1e-9].astype(np.int32))
    return _facing_normals(mesh)


def _polygon(corners: np.ndarray, coordinates: np.ndarray) -> Mesh:
    """A flat convex polygon, corners counter-clockwise."""
    normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
    normals = np.repeat((normal / np.linalg.norm(normal))[None], len(corners), 0)
    faces = np.array([[0, i, i + 1] for i in range(1, len(corners) - 1)], dtype=np.int32)
    return Mesh(corners.astype(float), normals, np.asarray(coordinates, dtype=float), faces)


def _join(meshes: Sequence[Mesh]) -> Mesh:
    offsets = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes[:-1]])
    return Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]),
        np.concatenate([mesh.normals for mesh in meshes]),
        np.concatenate([mesh.coordinates for mesh in meshes]),
        np.concatenate([mesh.faces + offset for mesh, offset in zip(meshes, offsets, strict=True)]).astype(np.int32),
    )


def _moved(mesh: Mesh, offset: Sequence[float]) -> Mesh:
    return Mesh(mesh.vertices + np.asarray(offset, dtype=float), mesh.normals, mesh.coordinates, mesh.faces)


def _outwards(mesh: Mesh) -> Mesh:
    """Orients the normals and triangles of a flat-faced body away from its center."""
    middle = mesh.vertices.mean(0)
    inward = np.sum(mesh.normals * (mesh.vertices - middle), 1) < 0
    normals = np.where(inward[:, None], -mesh.normals, mesh.normals)
    return _facing_normals(Mesh(mesh.vertices, normals, mesh.coordinates, mesh.faces))


def _facing_normals(mesh: Mesh) -> Mesh:
    """Orders each triangle's corners counter-clockwise with respect to its normals."""
    corners = mesh.vertices[mesh.faces]
    flat = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    away = np.sum(flat * mesh.normals[mesh.faces].sum(1), 1) < 0
    faces = mesh.faces.copy()
    faces[away] = faces[away][:, ::-1]
    return Mesh(mesh.vertices, mesh.normals, mesh.coordinates, faces)
