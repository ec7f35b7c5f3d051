"""Draws the map of the drive: path, remembered objects beside the truth, and the answers."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from demo.map_labels import free_place
from demo.recall import MemoryWatcher, Recalled, Remembered
from demo.truth import TrueThing
from fcclip_core.images.image_files import write_image
from fcclip_core.simulation.tour import SCENE_DISTANCE

MAP = "map.png"

_WIDTH, _ANSWER_HEIGHT, _LEGEND_HEIGHT = 1200, 130, 34
_FINER = 2
"""The picture is drawn so many times larger and then reduced, which smooths it."""

_GAP, _MARGIN = 10, 0.45
"""Pixels between panels; meters around what a panel shows."""

_INK, _PAPER, _TRUTH, _PATH, _OBJECT = (30, 30, 30), (255, 255, 255), (150, 150, 150), (70, 130, 220), (60, 60, 60)
_ANSWERS = ((214, 39, 40), (44, 140, 44), (148, 80, 200), (230, 120, 0))
_BACKGROUND = (247, 247, 244)
_TEXT = 12


@dataclass(frozen=True)
class Panel:
    """One room from above, x to the right and y up.

    Attributes:
        left: Of the panel in the picture, pixels before it is drawn finer.
        side: Of the panel, pixels.
        low: The smallest x and y that it shows, meters.
        scale: Pixels a meter.
    """

    left: int
    side: int
    low: np.ndarray
    scale: float

    def pixel(self, place: np.ndarray) -> tuple[float, float]:
        """Where a place is drawn, in the finer picture."""
        x, y = (place[:2] - self.low) * self.scale
        return _FINER * (self.left + x), _FINER * (self.side - y)


def draw_map(path: Path, things: Sequence[TrueThing], memory: MemoryWatcher, answers: Sequence[Recalled]) -> None:
    """Writes the map as a PNG: a panel for each room, below what was asked and answered.

    Args:
        path: The file.
        things: The truth.
        memory: The path and the objects.
        answers: To point out.
    """
    rooms = sorted({thing.room for thing in things})
    side = min((_WIDTH - _GAP * (len(rooms) - 1)) // max(len(rooms), 1), _WIDTH // 2)
    start = (_WIDTH - len(rooms) * (side + _GAP) + _GAP) // 2
    height = side + _LEGEND_HEIGHT + _ANSWER_HEIGHT
    image = Image.new("RGB", (_WIDTH * _FINER, height * _FINER), _PAPER)
    draw = ImageDraw.Draw(image)
    colors = {answer.asked.words: color for answer, color in zip(answers, _ANSWERS, strict=False)}
    for number, room in enumerate(rooms):
        here = [thing for thing in things if thing.room == room]
        steps = [place for place in memory.path if _room_of(place) == room]
        panel = _panel(start + number * (side + _GAP), side, here, steps)
        _draw_room(draw, panel, f"room {room + 1}", here, steps)
        _draw_objects(draw, panel, [item for item in memory.objects if _room_of(item.place) == room], answers, colors)
    _draw_legend(draw, side)
    for number, answer in enumerate(answers):
        left = number * _WIDTH // max(len(answers), 1)
        _draw_answer(image, draw, (left, side + _LEGEND_HEIGHT), answer, colors.get(answer.asked.words, _INK))
    small = image.resize((_WIDTH, height), Image.Resampling.LANCZOS)
    write_image(path, np.asarray(small), optimize=True)


def _room_of(place: np.ndarray) -> int:
    return round(float(place[0]) / SCENE_DISTANCE)


def _panel(left: int, side: int, things: Sequence[TrueThing], steps: Sequence[np.ndarray]) -> Panel:
    places = np.array([*(thing.position[:2] for thing in things), *(step[:2] for step in steps)])
    low, high = places.min(0) - _MARGIN, places.max(0) + _MARGIN
    extent = float((high - low).max())
    return Panel(left, side, (low + high - extent) / 2, side / extent)


def _draw_room(
    draw: ImageDraw.ImageDraw, panel: Panel, title: str, things: Sequence[TrueThing], steps: Sequence[np.ndarray]
) -> None:
    left, right = panel.left * _FINER, (panel.left + panel.side) * _FINER
    draw.rectangle((left, 0, right, panel.side * _FINER), fill=_BACKGROUND, outline=_TRUTH)
    _write(draw, (left + 10, 6), title, _INK, _TEXT + 2)
    bottom = panel.side * _FINER - 14
    draw.line((left + 10, bottom, left + 10 + panel.scale * _FINER, bottom), fill=_INK, width=4)
    _write(draw, (left + 10, bottom - 34), "1 m", _INK)
    for thing in things:
        center_x, center_y = panel.pixel(thing.position)
        radius = thing.radius * 0.7 * panel.scale * _FINER
        draw.ellipse(
            (center_x - radius, center_y - radius, center_x + radius, center_y + radius), outline=_TRUTH, width=3
        )
        draw.line((center_x - 8, center_y, center_x + 8, center_y), fill=_TRUTH, width=3)
        draw.line((center_x, center_y - 8, center_x, center_y + 8), fill=_TRUTH, width=3)
    for step in steps:
        x, y = panel.pixel(step)
        draw.ellipse((x - 5, y - 5, x + 5, y + 5), fill=_PATH)


def _draw_objects(
    draw: ImageDraw.ImageDraw,
    panel: Panel,
    objects: Sequence[Remembered],
    answers: Sequence[Recalled],
    colors: dict[str, tuple[int, int, int]],
) -> None:
    asked = {answer.best.id: answer.asked.words for answer in answers if answer.best is not None}
    boxes = {item.id: _box(panel, item) for item in objects}
    taken = list(boxes.values())
    for item in sorted(objects, key=lambda item: item.id not in asked):
        words = asked.get(item.id)
        color = _OBJECT if words is None else colors[words]
        box = boxes[item.id]
        draw.rectangle(box, outline=color, width=4 if words is None else 9)
        text = (item.name or "unnamed") if words is None else f'"{words}"'
        size = _TEXT if words is None else _TEXT + 2
        extent = draw.textbbox((0, 0), text, font=_font(size))
        inside = (panel.left * _FINER, 0, (panel.left + panel.side) * _FINER, panel.side * _FINER)
        place = free_place((extent[2] + 6, extent[3] + 4), box, taken, inside)
        taken.append((*place, place[0] + extent[2], place[1] + extent[3]))
        _write(draw, place, text, color, size)


def _box(panel: Panel, item: Remembered) -> tuple[float, float, float, float]:
    x0, y1 = panel.pixel(item.center - item.sides / 2)
    x1, y0 = panel.pixel(item.center + item.sides / 2)
    return x0, y0, x1, y1


def _draw_legend(draw: ImageDraw.ImageDraw, side: int) -> None:
    x, y = 20, side * _FINER + 2 * 10
    draw.rectangle((x, y, x + 28, y + 28), outline=_OBJECT, width=4)
    _write(draw, (x + 40, y), "remembered, by the name that frames gave it", _INK)
    draw.ellipse((x + 640, y, x + 668, y + 28), outline=_TRUTH, width=3)
    _write(draw, (x + 680, y), "truth", _INK)
    draw.ellipse((x + 820, y + 9, x + 830, y + 19), fill=_PATH)
    _write(draw, (x + 842, y), "the camera's path", _INK)
    draw.rectangle((x + 1160, y, x + 1188, y + 28), outline=_ANSWERS[0], width=9)
    _write(draw, (x + 1200, y), "answer, below what was asked in words that no frame was labeled with", _INK)


def _draw_answer(
    image: Image.Image,
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    answer: Recalled,
    color: tuple[int, int, int],
) -> None:
    left, top = corner[0] * _FINER, corner[1] * _FINER
    x = left + 12
    if answer.crop:
        crop = Image.open(io.BytesIO(answer.crop)).convert("RGB")
        crop = crop.resize(
            (round(crop.width * 200 / crop.height), 200)
            if crop.height > crop.width
            else (200, round(crop.height * 200 / crop.width))
        )
        image.paste(crop, (x, top + 10))
        draw.rectangle((x - 3, top + 7, x + crop.width + 2, top + 12 + crop.height), outline=color, width=6)
        x += 216
    lines = [f'"{answer.asked.words}"?']
    if answer.best is None:
        lines += ["nothing like it", f"best: probability {answer.probability:.2f}"]
    else:
        lines += ["at ({:.2f}, {:.2f}, {:.2f}) m".format(*answer.best.place), f"seen {answer.age:.0f} s ago"]
        lines += [f"probability {answer.probability:.2f}"]
        lines += [] if answer.distance is None else [f"{100 * answer.distance:.0f} cm from the truth"]
    for number, line in enumerate(lines):
        _write(draw, (x, top + 8 + 40 * number), line, color if not number else _INK, _TEXT + (3 if not number else 1))


def _write(
    draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, color: tuple[int, int, int], size: int = _TEXT
) -> None:
    draw.text(place, text, fill=color, font=_font(size))


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size * _FINER)
