"""Random procedural textures of surfaces.

All are uint8 RGB `(N, N, 3)`. Textures of floors, grounds and walls tile seamlessly; doors, windows, curtains and rugs
are stretched once over their surface.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fcclip_core.simulation.shapes import PATTERN_PERIODS

Color = tuple[float, float, float]

SIZE = 192
"""Side of a stuff texture in pixels."""


@dataclass(frozen=True)
class Look:
    """The coloring of a thing.

    Attributes:
        color: RGB, 0 to 1, of a plain look, else white.
        pattern: uint8 `(N, N, 3)`, or None for a plain look.
        trim: RGB of contrasting parts, such as a traffic cone's band.
    """

    color: Color
    pattern: np.ndarray | None
    trim: Color


_HUES = {
    "red": (-8, 6),
    "orange": (22, 31),
    "yellow": (48, 58),
    "green": (105, 145),
    "blue": (208, 232),
    "purple": (270, 292),
}
"""Range of hues in degrees."""

_PATTERN_COLORS = (*_HUES, "white", "black")


def make_look(name: str, rng: np.random.Generator) -> Look:
    """Creates a look with a random shade.

    Args:
        name: One of `names.LOOKS`.
        rng: Random generator of the shade, or of the pattern and its two colors.
    """
    if name not in ("striped", "checkered"):
        return Look(plain_color(name, rng), None, (0.5, 0.5, 0.5) if name in ("white", "black") else (0.93, 0.93, 0.93))
    first, second = _two_colors(rng)
    ramp = (np.arange(96) * 2 * PATTERN_PERIODS // 96) % 2
    if name == "checkered":
        mask = ramp[:, None] ^ ramp[None, :]
    else:
        mask = np.repeat(ramp[:, None], 96, 1)
        mask = mask.T if rng.random() < 0.35 else mask
    pattern = np.where(mask[..., None] == 1, np.array(first), np.array(second))
    return Look((1.0, 1.0, 1.0), _bytes(pattern), (0.5, 0.5, 0.5))


def plain_color(name: str, rng: np.random.Generator) -> Color:
    """A random shade of a plain color."""
    if name == "white":
        return _rgb(rng.uniform(0, 360), rng.uniform(0, 0.04), rng.uniform(0.9, 1.0))
    if name == "black":
        return _rgb(rng.uniform(0, 360), rng.uniform(0, 0.2), rng.uniform(0.05, 0.13))
    low, high = _HUES[name]
    darkest = 0.88 if name in ("orange", "yellow") else 0.72  # darker shades are brown and olive
    return _rgb(rng.uniform(low, high), rng.uniform(0.8, 1.0), rng.uniform(darkest, 0.98))


def make_texture(kind: str, rng: np.random.Generator) -> np.ndarray:
    """Creates a texture of a kind of stuff.

    Args:
        kind: One of `names.STUFF`.
        rng: Random generator of colors and details.

    Returns:
        uint8 `(N, N, 3)`.
    """
    return _bytes(_MAKERS[kind](rng))


def _two_colors(rng: np.random.Generator) -> tuple[Color, Color]:
    """Two random colors that differ clearly in brightness."""
    while True:
        names = rng.choice(len(_PATTERN_COLORS), 2, replace=False)
        first, second = (plain_color(_PATTERN_COLORS[index], rng) for index in names)
        if abs(_brightness(first) - _brightness(second)) > 0.35:
            return first, second


def _brightness(color: Color) -> float:
    return 0.3 * color[0] + 0.59 * color[1] + 0.11 * color[2]


def _rgb(hue: float, saturation: float, value: float) -> Color:
    """HSV to RGB: hue in degrees, the rest 0 to 1."""
    k = (np.array([5.0, 3.0, 1.0]) + hue / 60) % 6
    red, green, blue = value - value * saturation * np.clip(np.minimum(k, 4 - k), 0, 1)
    return float(red), float(green), float(blue)


def _bytes(picture: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray((np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8))


def _noise(rng: np.random.Generator, falloff: float, stretch: tuple[float, float] = (1, 1)) -> np.ndarray:
    """Seamless noise, mean 0, deviation 1; smoother for higher falloff, stretched along (rows, columns)."""
    size = SIZE
    spectrum = np.fft.rfft2(rng.standard_normal((size, size)))
    rows = np.fft.fftfreq(size)[:, None] * size * stretch[0]
    columns = np.fft.rfftfreq(size)[None] * size * stretch[1]
    frequency = np.sqrt(rows**2 + columns**2)
    frequency[0, 0] = np.inf
    picture = np.fft.irfft2(spectrum * frequency**-falloff, (size, size))
    return picture / picture.std()


def _coordinates() -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each pixel center, 0 to 1."""
    middle = (np.arange(SIZE) + 0.5) / SIZE
    return middle[:, None], middle[None, :]


def _shaded(color: Color | np.ndarray, shade: np.ndarray) -> np.ndarray:
    return np.asarray(color) * shade[..., None]


def _mixed(first: Color | np.ndarray, second: Color | np.ndarray, amount: np.ndarray) -> np.ndarray:
    weight = np.clip(amount, 0, 1)[..., None]
    return np.asarray(first) * (1 - weight) + np.asarray(second) * weight


def _wooden_floor(rng: np.random.Generator) -> np.ndarray:
    tone = _rgb(rng.uniform(22, 34), rng.uniform(0.5, 0.7), rng.uniform(0.5, 0.8))
    planks = int(rng.integers(5, 8))
    row, column = _coordinates()
    which = np.floor(row * planks).astype(int)
    start = rng.random(planks)[which]
    board = np.floor((column + start) * 2 % 2).astype(int)
    shade = rng.uniform(0.72, 1.12, (planks, 2))[which, board] + 0.05 * _noise(rng, 1.0, (1, 7))
    seam = np.minimum(row * planks % 1, 1 - row * planks % 1) < 0.035
    joint = np.minimum((column + start) * 2 % 1, 1 - (column + start) * 2 % 1) < 0.012
    return _shaded(tone, np.where(seam | joint, 0.42, shade))


def _tiled_floor(rng: np.random.Generator) -> np.ndarray:
    tone = _rgb(rng.choice([20, 40, 190, 210]), rng.uniform(0.05, 0.28), rng.uniform(0.72, 0.92))
    grout = _rgb(30, 0.08, rng.uniform(0.3, 0.45))
    count = 4
    row, column = _coordinates()
    tiles = rng.uniform(0.93, 1.05, (count, count))
    shade = tiles[np.floor(row * count).astype(int), np.floor(column * count).astype(int)] + 0.015 * _noise(rng, 1.2)
    edge = np.maximum(np.abs(row * count % 1 - 0.5), np.abs(column * count % 1 - 0.5)) > 0.46
    return np.where(edge[..., None], np.asarray(grout), _shaded(tone, shade))


def _carpet(rng: np.random.Generator) -> np.ndarray:
    tone = _rgb(
        rng.choice([0, 35, 175, 215, 250, 330]) + rng.uniform(-10, 10),
        rng.uniform(0.2, 0.5),
        rng.uniform(0.35, 0.62),
    )
    return _shaded(tone, 1 + 0.17 * _noise(rng, 0.15) + 0.06 * _noise(rng, 1.2))


def _rug(rng: np.random.Generator) -> np.ndarray:
    hue = rng.uniform(0, 360)
    field, border = (
        _rgb(hue, 0.65, rng.uniform(0.35, 0.6)),
        _rgb(hue + rng.uniform(120, 240), 0.5, rng.uniform(0.3, 0.6)),
    )
    cream = _rgb(40, 0.25, 0.88)
    row, column = _coordinates()
    edge = np.minimum(np.minimum(row, 1 - row), np.minimum(column, 1 - column))
    count = int(rng.integers(2, 5))
    diamond = np.abs(row * count % 1 - 0.5) + np.abs(column * count % 1 - 0.5)
    picture = _mixed(field, cream, ((diamond > 0.36) & (diamond < 0.44)).astype(float))
    picture = np.where((diamond < 0.16)[..., None], np.asarray(border), picture)
    picture = np.where((edge < 0.15)[..., None], np.asarray(border), picture)
    zigzag = np.abs(((row + column) * 14) % 1 - 0.5) * 0.07 + 0.045
    picture = np.where((np.abs(edge - zigzag) < 0.013)[..., None], np.asarray(cream), picture)
    picture = np.where((np.abs(edge - 0.15) < 0.012)[..., None] | (edge < 0.014)[..., None], np.asarray(cream), picture)
    return picture * (1 + 0.07 * _noise(rng, 0.2))[..., None]


def _brick_wall(rng: np.random.Generator) -> np.ndarray:
    tone = np.array(_rgb(rng.uniform(4, 16), rng.uniform(0.55, 0.72), rng.uniform(0.52, 0.7)))
    mortar = _rgb(35, 0.08, rng.uniform(0.68, 0.82))
    rows, columns = 8, 4
    row, column = _coordinates()
    which = np.floor(row * rows).astype(int)
    along = column * columns + 0.5 * (which % 2)
    shade = rng.uniform(0.75, 1.15, (rows, columns))[which, np.floor(along).astype(int) % columns]
    joint = (np.abs(row * rows % 1 - 0.5) > 0.42) | (np.abs(along % 1 - 0.5) > 0.46)
    return np.where(joint[..., None], np.asarray(mortar), _shaded(tone, shade + 0.07 * _noise(rng, 0.5)))


def _white_wall(rng: np.random.Generator) -> np.ndarray:
    tone = _rgb(rng.choice([40, 60, 210]), rng.uniform(0.0, 0.06), rng.uniform(0.88, 0.97))
    return _shaded(tone, 1 + 0.012 * _noise(rng, 0.8))


def _wallpaper(rng: np.random.Generator) -> np.ndarray:
    hue = rng.uniform(0, 360)
    ground = _rgb(hue, rng.uniform(0.2, 0.4), rng.uniform(0.75, 0.92))
    motif = _rgb(hue + rng.choice([0, 30, 180]), rng.uniform(0.35, 0.6), rng.uniform(0.45, 0.62))
    row, column = _coordinates()
    count = int(rng.integers(4, 7))
    shift = 0.5 * (np.floor(row * count) % 2)
    y, x = row * count % 1 - 0.5, (column * count + shift) % 1 - 0.5
    angle, radius = np.arctan2(y, x), np.hypot(x, y)
    petals = int(rng.integers(4, 7))
    flower = radius < 0.24 + 0.1 * np.cos(petals * angle)
    picture = _mixed(ground, motif, flower.astype(float))
    picture = np.where((radius < 0.09)[..., None], np.asarray(ground), picture)
    if rng.random() < 0.6:
        stripe = (np.abs(column * count % 1 - 0.5 * (count % 2)) < 0.05)[..., None] * np.ones_like(picture, dtype=bool)
        picture = np.where(stripe, 0.5 * np.asarray(motif) + 0.5 * np.asarray(ground), picture)
    return picture


def _stone_wall(rng: np.random.Generator) -> np.ndarray:
    tone = _rgb(rng.choice([30, 50, 210]), rng.uniform(0.05, 0.14), rng.uniform(0.5, 0.68))
    count = 5
    cell = np.stack(np.meshgrid(np.arange(count), np.arange(count), indexing="ij"), -1).reshape(-1, 2)
    seeds = (cell + rng.uniform(0.15, 0.85, cell.shape)) / count
    row, column = _coordinates()
    apart_y = np.abs(row[..., None] - seeds[:, 0])
    apart_x = np.abs(column[..., None] - seeds[:, 1])
    distance = np.hypot(np.minimum(apart_y, 1 - apart_y) * 1.3, np.minimum(apart_x, 1 - apart_x))
    nearest = np.sort(np.partition(distance, 1, -1)[..., :2], -1)
    shade = rng.uniform(0.7, 1.15, len(seeds))[distance.argmin(-1)] + 0.07 * _noise(rng, 0.8)
    joint = nearest[..., 1] - nearest[..., 0] < 0.022
    return _shaded(tone, np.where(joint, 0.4, shade))


def _ceiling(rng: np.random.Generator) -> np.ndarray:
    tone = _rgb(45, rng.uniform(0, 0.04), rng.uniform(0.85, 0.95))
    row, column = _coordinates()
    edge = np.maximum(np.abs(row * 2 % 1 - 0.5), np.abs(column * 2 % 1 - 0.5)) > 0.475
    shade = np.where(_noise(rng, 0.1) > 1.9, 0.7, 1.0)
    return _shaded(tone, np.where(edge, 0.6, shade))


def _door(rng: np.random.Generator) -> np.ndarray:
    tone = _rgb(rng.uniform(18, 32), rng.uniform(0.5, 0.75), rng.uniform(0.32, 0.62))
    row, column = _coordinates()
    shade = 1 + 0.05 * _noise(rng, 1.0, (6, 1))
    frame = np.maximum(np.abs(column - 0.5) * 2, np.abs(row - 0.5) * 2 * np.ones_like(column))
    for low, high in ((0.08, 0.46), (0.56, 0.92)):
        for left, right in ((0.14, 0.46), (0.54, 0.86)):
            inside = (row > low) & (row < high) & (column > left) & (column < right)
            deep = (row > low + 0.02) & (row < high - 0.02) & (column > left + 0.035) & (column < right - 0.035)
            shade = np.where(inside & ~deep, 0.5, shade)
            shade = np.where(deep, shade * 0.88, shade)
    picture = np.where((frame > 0.955)[..., None], np.full(3, 0.9), _shaded(tone, shade))
    knob = np.hypot((row - 0.51) * 2.2, column - 0.92) < 0.03
    return np.where(knob[..., None], np.array([0.85, 0.75, 0.35]), picture)


def _window(rng: np.random.Generator) -> np.ndarray:
    row, column = _coordinates()
    top, low = _rgb(210, 0.6, 0.95), _rgb(205, 0.2, 1.0)
    glass = _mixed(top, low, row * np.ones_like(column) + 0.12 * _noise(rng, 1.8))
    hill = row > 0.75 + 0.05 * np.sin(column * 7 + rng.uniform(0, 6))
    glass = np.where(hill[..., None], np.array(_rgb(110, 0.45, 0.55)), glass)
    panes_x, panes_y = int(rng.integers(2, 4)), int(rng.integers(2, 4))
    bar = (np.abs(column * panes_x % 1 - 0.5) > 0.5 - 0.03 * panes_x) | (
        np.abs(row * panes_y % 1 - 0.5) > 0.5 - 0.03 * panes_y
    )
    paint = np.array([0.95, 0.95, 0.95]) if rng.random() < 0.6 else np.array(_rgb(25, 0.6, 0.4))
    return np.where(bar[..., None], paint, glass)


def _curtain(rng: np.random.Generator) -> np.ndarray:
    tone = _rgb(rng.uniform(0, 360), rng.uniform(0.45, 0.8), rng.uniform(0.5, 0.85))
    _, column = _coordinates()
    folds = int(rng.integers(6, 10))
    phase = column * folds + 0.12 * np.sin(column * 17 + rng.uniform(0, 6)) + 0.02 * _noise(rng, 1.6, (6, 1))
    shade = 0.72 + 0.36 * np.cos(2 * np.pi * phase) + 0.08 * np.cos(4 * np.pi * phase + 1)
    return _shaded(tone, shade)


def _table(rng: np.random.Generator) -> np.ndarray:
    tone = _rgb(rng.uniform(20, 36), rng.uniform(0.35, 0.6), rng.uniform(0.45, 0.85))
    row, _ = _coordinates()
    grain = _noise(rng, 1.3, (1, 9))
    return _shaded(tone, 1 + 0.06 * np.sin(30 * row + 2.5 * grain) + 0.04 * _noise(rng, 0.6, (1, 6)))


def _grass(rng: np.random.Generator) -> np.ndarray:
    dark, light = _rgb(rng.uniform(90, 115), 0.75, 0.3), _rgb(rng.uniform(75, 100), 0.65, 0.68)
    return _mixed(dark, light, 0.5 + 0.26 * _noise(rng, 0.35, (0.5, 1)) + 0.12 * _noise(rng, 1.2))


def _sand(rng: np.random.Generator) -> np.ndarray:
    tone = _rgb(rng.uniform(36, 46), rng.uniform(0.3, 0.45), rng.uniform(0.8, 0.95))
    row, column = _coordinates()
    ripple = np.sin(2 * np.pi * (row * int(rng.integers(5, 9)) + 0.35 * _noise(rng, 1.9, (1, 1.5))))
    return _shaded(tone, 0.93 + 0.07 * ripple + 0.04 * _noise(rng, 0.2))


def _road(rng: np.random.Generator) -> np.ndarray:
    tone = _rgb(220, 0.05, rng.uniform(0.24, 0.38))
    row, column = _coordinates()
    picture = _shaded(tone, 1 + 0.1 * _noise(rng, 0.1) + 0.05 * _noise(rng, 1.2))
    paint = np.array([0.92, 0.92, 0.88]) if rng.random() < 0.6 else np.array([0.9, 0.75, 0.2])
    dash = (np.abs(column - 0.5) < 0.028) & (np.abs(row * 2 % 1 - 0.5) < 0.3)
    return np.where(dash[..., None], paint, picture)


def _water(rng: np.random.Generator) -> np.ndarray:
    deep, light = _rgb(rng.uniform(190, 212), 0.75, rng.uniform(0.45, 0.65)), _rgb(190, 0.22, 0.95)
    wave = 1 - np.abs(_noise(rng, 1.7)) * 1.6
    return _mixed(deep, light, 0.1 + 0.9 * np.clip(wave, 0, 1) ** 2)


def _sky(rng: np.random.Generator) -> np.ndarray:
    row, column = _coordinates()
    top, low = _rgb(rng.uniform(205, 218), rng.uniform(0.5, 0.7), rng.uniform(0.8, 0.95)), _rgb(205, 0.2, 0.97)
    picture = _mixed(top, low, row * np.ones_like(column))
    return _mixed(picture, (0.98, 0.98, 0.98), (_noise(rng, 1.7, (1.6, 1)) - rng.uniform(-0.3, 0.8)) * 0.6)


_MAKERS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "wooden floor": _wooden_floor,
    "tiled floor": _tiled_floor,
    "carpet": _carpet,
    "rug": _rug,
    "white wall": _white_wall,
    "brick wall": _brick_wall,
    "wallpaper": _wallpaper,
    "stone wall": _stone_wall,
    "ceiling": _ceiling,
    "door": _door,
    "window": _window,
    "curtain": _curtain,
    "table": _table,
    "grass": _grass,
    "sand": _sand,
    "road": _road,
    "water": _water,
    "sky": _sky,
}
