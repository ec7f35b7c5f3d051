"""Where a label has room beside its box. No ROS."""

from __future__ import annotations

from collections.abc import Sequence

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""


def free_place(size: tuple[float, float], box: Box, taken: Sequence[Box], inside: Box) -> tuple[float, float]:
    """The left upper corner of a label near a box, where it covers the least of what is there.

    Args:
        size: Width and height of the label.
        box: What it belongs to.
        taken: What it should not cover, the box itself among it.
        inside: Where it must lie.
    """
    width, height = size
    left, top, right, bottom = box
    middle_x, middle_y = (left + right - width) / 2, (top + bottom - height) / 2
    places = [(middle_x, top - height), (middle_x, bottom), (right + 4, middle_y), (left - width - 4, middle_y)]
    places += [(x, y) for y in (top - height, bottom) for x in (left, right - width, right, left - width)]
    places += [(middle_x, top - 2 * height), (middle_x, bottom + height)]
    held = [
        (
            min(max(x, inside[0]), max(inside[2] - width, inside[0])),
            min(max(y, inside[1]), max(inside[3] - height, inside[1])),
        )
        for x, y in places
    ]
    return min(held, key=lambda place: sum(_overlap((*place, place[0] + width, place[1] + height), o) for o in taken))


def _overlap(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0.0) * max(height, 0.0)
