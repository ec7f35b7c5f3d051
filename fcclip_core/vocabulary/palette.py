"""Colors for classes, bright enough to be distinguished on a photograph."""

from __future__ import annotations

import colorsys
import itertools
import zlib
from collections.abc import Iterator, Sequence

Color = tuple[int, int, int]

_PALETTE_SIZE = 64
_GOLDEN_ANGLE = 0.381966
_TONES = ((0.85, 0.85), (0.75, 1.0), (0.45, 1.0), (0.65, 0.75))


def class_color(name: str) -> Color:
    """The color of a name: always the same, bright enough to be distinguished on a photograph.

    Returns:
        `(r, g, b)`, 0..255 each.
    """
    return next(_palette_from(name))


def palette_colors(names: Sequence[str], chosen: Sequence[Color | None]) -> tuple[Color, ...]:
    """A color for each name: the chosen one, or one of 64 well separated ones, each given once.

    A name asks for its `class_color`; where an earlier name has it, it takes the next free one. Names for which none is
    left get colors between those, which differ less.
    """
    taken = {color for color in chosen if color is not None}
    further = map(_palette_color, itertools.count(_PALETTE_SIZE))
    colors = []
    for name, wanted in zip(names, chosen, strict=True):
        free = (color for color in _palette_from(name) if color not in taken)
        color = wanted or next(free, None) or next(further)
        taken.add(color)
        colors.append(color)
    return tuple(colors)


def _palette_color(index: int) -> Color:
    """Hues a golden angle apart fill the circle evenly, however many are taken; four tones tell near hues apart.

    The tones were searched for the largest smallest difference among the first 64 entries: CIE76 9.7, lightest to
    darkest all bright enough for a photograph.
    """
    saturation, value = _TONES[index % len(_TONES)]
    red, green, blue = colorsys.hsv_to_rgb(index * _GOLDEN_ANGLE % 1.0, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


_PALETTE = tuple(_palette_color(index) for index in range(_PALETTE_SIZE))


def _palette_from(name: str) -> Iterator[Color]:
    """The palette, beginning with the entry that belongs to a name."""
    start = zlib.crc32(name.encode("utf-8", "surrogatepass")) % _PALETTE_SIZE
    return itertools.islice(itertools.cycle(_PALETTE), start, start + _PALETTE_SIZE)
