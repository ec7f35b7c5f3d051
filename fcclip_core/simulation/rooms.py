"""Random scenes from a seed: rooms, corridors, tables and yards with 4 to 12 objects.

World coordinates are in meters, with z up and the floor at z = 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fcclip_core.errors import SettingsError
from fcclip_core.simulation import names
from fcclip_core.simulation.gl import mujoco
from fcclip_core.simulation.names import Split
from fcclip_core.simulation.shapes import Mesh, Part, make_shape, slab
from fcclip_core.simulation.textures import Look, make_look, make_texture

Vector = Sequence[float] | np.ndarray

MIN_OBJECTS, MAX_OBJECTS = 4, 12

_KINDS = ("room", "corridor", "table", "yard")
_KIND_SHARES = (0.28, 0.12, 0.22, 0.38)

_TEXTURE_METERS = {
    "wooden floor": 1.3,
    "tiled floor": 1.8,
    "carpet": 1.2,
    "brick wall": 1.3,
    "white wall": 2.0,
    "wallpaper": 1.4,
    "stone wall": 1.8,
    "ceiling": 1.6,
    "table": 1.0,
    "grass": 1.6,
    "sand": 2.4,
    "road": 3.0,
    "water": 2.2,
}
"""Size in meters of one period of a repeating texture; textures of other kinds are stretched once."""

_LYING = {"cylinder": 0.35, "cone": 0.2, "capsule": 0.7, "ring": 0.5, "star": 0.55, "mug": 0.15, "traffic cone": 0.15}
"""Probability that a shape is tipped over; a ring then stands on its rim, a star lies flat."""
_TIPPED = {"cone": 113.0, "traffic cone": 111.0}
"""Tilt in degrees if tipped over; 90 for other shapes."""


@dataclass(frozen=True)
class Item:
    """A potential segment: an object, or all stuff of one kind.

    Attributes:
        name: Its class.
        is_thing: Whether it is an object.
    """

    name: str
    is_thing: bool


@dataclass(frozen=True)
class Placed:
    """The position of an object.

    Attributes:
        position: Center of its bounding box, meters.
        radius: Half of the box's diagonal, meters.
    """

    position: tuple[float, float, float]
    radius: float


@dataclass(frozen=True)
class Scene:
    """A compiled scene and its contents.

    Attributes:
        seed: Its seed, which determines the scene together with `split`.
        split: "train" or "all".
        kind: "room", "corridor", "table" or "yard".
        model: MuJoCo's compiled model.
        items: The potential segments; `Frame.segment_map` has indices into it plus one.
        owners: Index in `items` of each geom of the model.
        background: Index in `items` of the background (the sky), or -1.
        objects: Positions of the objects, in the order of `items`.
        bounds: `((x0, y0), (x1, y1))`, the area in which a camera may be.
        obstacles: Upright boxes `(x0, y0, x1, y1, height)` that a camera must not enter.
        support: Height of the surface on which the objects stand, meters.
    """

    seed: int
    split: Split
    kind: str
    model: mujoco.MjModel
    items: tuple[Item, ...]
    owners: tuple[int, ...]
    background: int
    objects: tuple[Placed, ...]
    bounds: tuple[tuple[float, float], tuple[float, float]]
    obstacles: tuple[tuple[float, float, float, float, float], ...]
    support: float


def make_scene(seed: int, split: Split = "all", kind: str | None = None) -> Scene:
    """Creates a scene, deterministic for the same seed and split.

    Args:
        seed: 0 or more.
        split: "train" excludes held-out classes; "all" has all classes about equally often.
        kind: "room", "corridor", "table" or "yard"; None: random.

    Raises:
        SettingsError: Invalid split or kind.
    """
    names.check_split(split)
    if kind not in (None, *_KINDS):
        raise SettingsError(f"kind of scene is {kind!r}; expected one of {', '.join(_KINDS)}")
    rng = np.random.default_rng([seed, names.SPLITS.index(split)])
    drawn = str(rng.choice(_KINDS, p=_KIND_SHARES))
    kind = kind or drawn
    builder = _Builder(rng, split)
    {"room": _room, "corridor": _corridor, "table": _table_top, "yard": _yard}[kind](builder)
    return builder.compile(seed, kind)


@dataclass
class _Builder:
    """Collects the parts of a scene."""

    rng: np.random.Generator
    split: Split
    items: list[Item] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    objects: list[Placed] = field(default_factory=list)
    obstacles: list[tuple[float, float, float, float, float]] = field(default_factory=list)
    blocked: list[tuple[float, float, float, float]] = field(default_factory=list)
    bounds: tuple[tuple[float, float], tuple[float, float]] = ((0, 0), (0, 0))
    support: float = 0.0
    background: int = -1
    spec: Any = field(init=False)

    def __post_init__(self) -> None:
        self.spec = mujoco.MjSpec()
        self.spec.compiler.balanceinertia = True
        self.spec.stat.extent = 1.0
        self.spec.stat.center = [0, 0, 1]
        self.spec.visual.map.znear = 0.05
        self.spec.visual.map.zfar = 80.0
        self.spec.visual.map.shadowclip = 4.0
        self.spec.visual.quality.shadowsize = 1024
        self.spec.visual.quality.offsamples = 4

    def pick(self, kinds: tuple[str, ...]) -> str:
        """A random one of the kinds of stuff, restricted to the split."""
        return str(self.rng.choice(names.stuff_in(self.split, kinds)))

    def stuff(self, kind: str, size: Vector, center: Vector, shadow: bool = False) -> None:
        """Adds an axis-aligned slab of a kind of stuff; size and center in meters."""
        owner = self._stuff_item(kind)
        meters = _TEXTURE_METERS.get(kind)
        mesh = slab(size, None if meters is None else 1 / meters)
        material = f"stuff {kind}"
        if not any(entry.name == material for entry in self.spec.materials):
            self._material(material, (1, 1, 1), make_texture(kind, self.rng), 0.08)
        self._geom(mesh, material, owner, center, (1, 0, 0, 0), shadow)

    def _stuff_item(self, kind: str) -> int:
        item = Item(kind, False)
        if item not in self.items:
            self.items.append(item)
        return self.items.index(item)

    def sky(self) -> None:
        """Adds the sky as background."""
        side = make_texture("sky", self.rng)
        up = np.broadcast_to(side[0].mean(0).astype(np.uint8), side.shape)
        faces = np.concatenate([side, side, up, side[::-1] * 0 + side[-1], side, side])
        texture = self.spec.add_texture(name="sky", type=mujoco.mjtTexture.mjTEXTURE_SKYBOX, nchannel=3)
        texture.width, texture.height = side.shape[1], len(faces)
        texture.data = faces.tobytes()
        self.background = self._stuff_item("sky")

    def light(self, position: Vector, direction: Vector, strength: float, directional: bool) -> None:
        """Adds a light in a slightly warm or cool white."""
        kind = mujoco.mjtLightType
        tint = 1 + self.rng.uniform(-0.05, 0.05) * np.array([1, 0, -1])
        self.spec.worldbody.add_light(
            pos=list(position),
            dir=list(direction),
            type=kind.mjLIGHT_DIRECTIONAL if directional else kind.mjLIGHT_SPOT,
            diffuse=list(strength * tint),
            specular=[0.3] * 3,
            ambient=[0.0] * 3,
            cutoff=85.0,
            exponent=0.6,
            castshadow=True,
        )

    def headlight(self, ambient: float, diffuse: float) -> None:
        """Sets the ambient light and the light at the camera."""
        head = self.spec.visual.headlight
        head.ambient, head.diffuse, head.specular = [ambient] * 3, [diffuse] * 3, [0.0] * 3

    def scatter(self, center: Vector, half: Vector, sizes: tuple[float, float]) -> None:
        """Places 4 to 12 non-touching objects on the support within a rectangle."""
        choices = names.pairs(self.split)
        for _ in range(int(self.rng.integers(MIN_OBJECTS, MAX_OBJECTS + 1))):
            look, shape = choices[int(self.rng.integers(len(choices)))]
            self._object(look, shape, center, half, sizes)

    def _object(self, look: str, shape: str, center: Vector, half: Vector, sizes: tuple[float, float]) -> None:
        parts = make_shape(shape, self.rng)
        wear = make_look(look, self.rng)
        size = self.rng.uniform(*sizes)
        rotation = self._rotation(shape)
        points = np.concatenate([part.mesh.vertices for part in parts]) @ rotation.T * size
        low, high = points.min(0), points.max(0)
        reach = float(np.linalg.norm((points - (low + high) / 2)[:, :2], axis=1).max())
        place = self._free_place(center, half, reach)
        if place is None:
            return
        offset = np.array([*place, self.support]) - np.array([*((low + high) / 2)[:2], low[2]])
        middle = offset + (low + high) / 2
        self.objects.append(Placed(tuple(middle.tolist()), float(np.linalg.norm(high - low) / 2)))
        self.blocked.append((place[0] - reach, place[1] - reach, place[0] + reach, place[1] + reach))
        self.items.append(Item(names.thing_name(look, shape), True))
        for part in parts:
            self._part(part, wear, size, offset, rotation)

    def _part(self, part: Part, wear: Look, size: float, offset: np.ndarray, rotation: np.ndarray) -> None:
        material = f"thing {len(self.spec.materials)}"
        color = {"look": wear.color, "trim": wear.trim, "base": (0.1, 0.1, 0.11)}[part.role]
        shine = float(self.rng.uniform(0.1, 0.5))
        self._material(material, color, wear.pattern if part.role == "look" else None, shine)
        mesh = Mesh(part.mesh.vertices * size, part.mesh.normals, part.mesh.coordinates, part.mesh.faces)
        self._geom(mesh, material, len(self.items) - 1, offset, _quaternion(rotation), True)

    def _rotation(self, shape: str) -> np.ndarray:
        yaw = self.rng.uniform(-np.pi, np.pi)
        tipped = self.rng.random() < _LYING.get(shape, 0.0)
        tilt = np.deg2rad(_TIPPED.get(shape, 90.0)) if tipped else 0.0
        return _about_z(yaw) @ _about_x(tilt)

    def _free_place(self, center: Vector, half: Vector, reach: float) -> np.ndarray | None:
        for _ in range(40):
            place = np.asarray(center) + self.rng.uniform(-1, 1, 2) * (np.asarray(half) - reach)
            x, y = place
            gap = reach + 0.02
            if all(x + gap < x0 or x - gap > x1 or y + gap < y0 or y - gap > y1 for x0, y0, x1, y1 in self.blocked):
                return place
        return None

    def _material(self, name: str, color: Vector, texture: np.ndarray | None, shine: float) -> None:
        material = self.spec.add_material(name=name, rgba=[*color, 1.0], specular=shine, shininess=0.5)
        if texture is not None:
            entry = self.spec.add_texture(name=name, type=mujoco.mjtTexture.mjTEXTURE_2D, nchannel=3)
            entry.height, entry.width = texture.shape[:2]
            entry.data = texture[::-1].tobytes()
            material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name

    def _geom(self, mesh: Mesh, material: str, owner: int, position: Any, quaternion: Vector, shadow: bool) -> None:
        name = f"mesh {len(self.owners)}"
        self.spec.add_mesh(
            name=name,
            uservert=mesh.vertices.ravel(),
            usernormal=mesh.normals.ravel(),
            usertexcoord=mesh.coordinates.ravel(),
            userface=mesh.faces.ravel(),
            inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL,
        )
        geom = self.spec.worldbody.add_geom(
            type=mujoco.mjtGeom.mjGEOM_MESH,
            meshname=name,
            material=material,
            pos=list(position),
            quat=list(quaternion),
            contype=0,
            conaffinity=0,
        )
        if hasattr(geom, "castshadow"):  # since MuJoCo 4; in older versions everything casts a barely visible shadow
            geom.castshadow = shadow
        self.owners.append(owner)

    def compile(self, seed: int, kind: str) -> Scene:
        return Scene(
            seed=seed,
            split=self.split,
            kind=kind,
            model=self.spec.compile(),
            items=tuple(self.items),
            owners=tuple(self.owners),
            background=self.background,
            objects=tuple(self.objects),
            bounds=self.bounds,
            obstacles=tuple(self.obstacles),
            support=self.support,
        )


def _room(build: _Builder) -> None:
    half, height = build.rng.uniform(2.2, 3.4, 2), build.rng.uniform(2.3, 3.0)
    _shell(build, half, height)
    if build.rng.random() < 0.55:
        size = build.rng.uniform([1.6, 1.2], [2.6, 2.0])
        build.stuff("rug", (*size, 0.012), (*build.rng.uniform(-0.6, 0.6, 2), 0.006))
    if build.rng.random() < 0.4:
        _table(build, build.rng.uniform(-1, 1, 2) * (half - 0.9), build.rng.uniform([1.0, 0.7], [1.5, 0.9]))
    build.scatter((0, 0), np.minimum(half - 0.3, 1.9), (0.32, 0.7))


def _corridor(build: _Builder) -> None:
    half, height = build.rng.uniform([3.5, 1.0], [5.0, 1.5]), build.rng.uniform(2.2, 2.8)
    _shell(build, half, height)
    if build.rng.random() < 0.35:
        build.stuff("rug", (build.rng.uniform(2.0, 4.0), half[1] * 1.1, 0.012), (0, 0, 0.006))
    build.scatter((0, 0), (half[0] * 0.75, half[1] - 0.1), (0.3, 0.6))


def _table_top(build: _Builder) -> None:
    half, height = build.rng.uniform(2.0, 3.0, 2), build.rng.uniform(2.3, 2.9)
    _shell(build, half, height)
    size = build.rng.uniform([1.3, 0.9], [1.9, 1.3])
    build.support = _table(build, build.rng.uniform(-0.4, 0.4, 2), size)
    x0, y0, x1, y1, _ = build.obstacles[-1]
    build.blocked.clear()
    build.scatter(((x0 + x1) / 2, (y0 + y1) / 2), size / 2 - 0.02, (0.14, 0.3))


def _yard(build: _Builder) -> None:
    ground = build.pick(names.OUTDOOR_GROUNDS)
    build.bounds = ((-8, -8), (8, 8))
    build.sky()
    build.stuff(ground, (120, 120, 0.2), (0, 0, -0.1))
    build.headlight(build.rng.uniform(0.35, 0.5), 0.15)
    direction = [*build.rng.uniform(-0.5, 0.5, 2), -1.0]
    # MuJoCo's shadows have artifacts on lit sides if a directional light is far away.
    build.light(-2 * np.array(direction), direction, build.rng.uniform(0.55, 0.75), directional=True)
    if build.rng.random() < 0.45:
        others = [kind for kind in names.stuff_in(build.split, names.OUTDOOR_GROUNDS) if kind != ground]
        edge = build.rng.uniform(-0.5, 2.5)
        build.stuff(str(build.rng.choice(others)), (120, 3.0, 0.02), (0, edge + 1.5, 0.0))
    if build.rng.random() < 0.55:
        center, size = build.rng.uniform([-3, 0.3], [3, 3]), build.rng.uniform([2.0, 1.6], [4.0, 3.0])
        build.stuff("water", (*size, 0.05), (*center, 0.0))
        low, high = center - size / 2, center + size / 2
        build.blocked.append((low[0], low[1], high[0], high[1]))
    if build.rng.random() < 0.65:
        distance, height = build.rng.uniform(3.5, 6.0), build.rng.uniform(0.8, 2.2)
        build.stuff(build.pick(names.OUTDOOR_WALLS), (30, 0.3, height), (0, distance, height / 2), shadow=True)
        build.bounds = ((-8, -8), (8, distance - 0.6))
    build.scatter((0, 0), build.rng.uniform(1.7, 2.3, 2), (0.35, 0.75))


def _shell(build: _Builder, half: np.ndarray, height: float) -> None:
    """Adds floor, ceiling, four walls with fixtures, and light."""
    x, y = half
    build.bounds = ((-x + 0.25, -y + 0.25), (x - 0.25, y - 0.25))
    build.stuff(build.pick(names.INDOOR_FLOORS), (2 * x, 2 * y, 0.1), (0, 0, -0.05))
    build.stuff("ceiling", (2 * x, 2 * y, 0.1), (0, 0, height + 0.05))
    main = build.pick(names.INDOOR_WALLS)
    other = build.pick(names.INDOOR_WALLS) if build.rng.random() < 0.35 else main
    for axis, sign in ((0, 1), (1, 1), (0, -1), (1, -1)):
        length = 2 * half[1 - axis]
        kind = other if (axis, sign) == (1, 1) else main
        size, center = np.array([0.1, 0.1, height]), np.array([0, 0, height / 2])
        size[1 - axis] = length
        center[axis] = sign * (half[axis] + 0.05)
        build.stuff(kind, size, center)
        _fixtures(build, axis, sign, half, height)
    build.headlight(build.rng.uniform(0.42, 0.58), build.rng.uniform(0.15, 0.3))
    spot = np.append(build.rng.uniform(-0.3, 0.3, 2) * half, height - 0.05)
    build.light(spot, (0, 0, -1), build.rng.uniform(0.5, 0.7), directional=False)


def _fixtures(build: _Builder, axis: int, sign: int, half: np.ndarray, height: float) -> None:
    """Adds doors, windows and curtains in slots along a wall."""
    reach = half[1 - axis]
    slots = int(2 * reach // 1.7)
    for slot in range(slots):
        if build.rng.random() > 0.55:
            continue
        kind = build.pick(names.FIXTURES)
        along = -reach + (slot + 0.5) * 2 * reach / slots
        if kind == "door":
            width, low, high = build.rng.uniform(0.8, 1.0), 0.0, build.rng.uniform(1.9, 2.1)
        elif kind == "window":
            width, low, high = build.rng.uniform(0.9, 1.4), build.rng.uniform(0.6, 0.95), build.rng.uniform(1.8, 2.1)
        else:
            width, low, high = build.rng.uniform(0.9, 1.5), 0.03, height - build.rng.uniform(0.1, 0.3)
        size, center = np.array([0.06, 0.06, high - low]), np.array([0, 0, (low + high) / 2])
        size[1 - axis], center[1 - axis] = width, along
        center[axis] = sign * half[axis]
        build.stuff(kind, size, center)


def _table(build: _Builder, center: np.ndarray, size: np.ndarray) -> float:
    """Adds a table with four legs; returns the height of its top."""
    top, thick, leg = build.rng.uniform(0.65, 0.8), 0.06, 0.07
    build.stuff("table", (*size, thick), (*center, top - thick / 2), shadow=True)
    for x in (-1, 1):
        for y in (-1, 1):
            foot = center + np.array([x, y]) * (size / 2 - leg)
            build.stuff("table", (leg, leg, top - thick), (*foot, (top - thick) / 2), shadow=True)
    low, high = center - size / 2, center + size / 2
    build.obstacles.append((low[0], low[1], high[0], high[1], top))
    build.blocked.append((low[0], low[1], high[0], high[1]))
    return float(top)


def _about_z(angle: float) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]])


def _about_x(angle: float) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[1.0, 0, 0], [0, cos, -sin], [0, sin, cos]])


def _quaternion(rotation: np.ndarray) -> list[float]:
    quaternion = np.zeros(4)
    mujoco.mju_mat2Quat(quaternion, rotation.ravel())
    return quaternion.tolist()
