"""The demo's film: for each moment the camera's image, the node's overlay and the truth, side by side."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from demo.frames import Frame, PublishedClass
from fcclip_core.files.atomic_write import write_atomically
from fcclip_core.images.image_files import write_image
from fcclip_core.results import PanopticResult, Segment
from fcclip_core.segments.visualization import draw_caption, draw_legend, draw_overlay

FILM = "film.gif"

_GAP = 4
_LEGEND_LINES = 2
_FONT = 12
_PICTURE_MILLISECONDS = 300
_SECONDS_BETWEEN = 0.9
"""Of the stream, between two pictures of the film."""
_COLORS = 128
_WHITE = 255


class Film:
    """Composes pictures as frames come, about one for each second of the stream."""

    def __init__(self) -> None:
        """Starts an empty film."""
        self._pictures: list[tuple[int, np.ndarray]] = []
        self._last_stamp: int | None = None

    def add(self, stamp: int, frame: Frame, classes: Sequence[PublishedClass], note: str) -> None:
        """Takes a frame with image, overlay, segments and truth, unless the last one was less than a second ago.

        Args:
            stamp: Of the frame, ns.
            frame: The frame.
            classes: The vocabulary that labeled it.
            note: One line to write below.
        """
        if self._last_stamp is not None and 0 <= stamp - self._last_stamp < _SECONDS_BETWEEN * 1e9:
            return
        self._last_stamp = stamp
        assert frame.segments is not None
        self._pictures.append((frame.segments.version, compose(frame, classes, note)))

    def save(self, folder: Path) -> tuple[Path | None, dict[int, Path]]:
        """Writes film.gif and, for each vocabulary version, vocabulary_VERSION.png: its picture in the middle.

        Returns:
            The film, None if it has no picture; the pictures by version.
        """
        if not self._pictures:
            return None, {}
        by_version: dict[int, list[np.ndarray]] = {}
        for version, picture in self._pictures:
            by_version.setdefault(version, []).append(picture)
        stills = {}
        for version, pictures in sorted(by_version.items()):
            stills[version] = folder / f"vocabulary_{version}.png"
            write_image(stills[version], pictures[len(pictures) // 2])
        film = folder / FILM
        first, *rest = (
            Image.fromarray(picture).quantize(_COLORS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
            for _, picture in self._pictures
        )
        # Not to the file: Pillow ignores a full disk.
        buffer = io.BytesIO()
        first.save(buffer, "gif", save_all=True, append_images=rest, duration=_PICTURE_MILLISECONDS, loop=0)
        write_atomically(film, buffer.getvalue())
        return film, stills


def compose(frame: Frame, classes: Sequence[PublishedClass], note: str) -> np.ndarray:
    """Image, overlay and truth side by side, above a strip that names the colors.

    The truth is drawn in the vocabulary's colors: a segment that has one color in both is named right. What the
    vocabulary has no word for stays uncolored.

    Returns:
        uint8 RGB; all frames of one size give pictures of one size.
    """
    assert frame.image is not None and frame.overlay is not None and frame.segments is not None
    truth, shown = _draw_truth(frame, classes)
    gap = np.full((len(frame.image), _GAP, 3), _WHITE, np.uint8)
    row = np.hstack([frame.image, gap, frame.overlay, gap, truth])
    shown |= {segment.class_id for segment in frame.segments.rows}
    legend = draw_legend([(item.name, item.color) for item in classes if item.id in shown], row.shape[1], _FONT)
    strip = np.full((_LEGEND_LINES * 2 * _FONT, row.shape[1], 3), _WHITE, np.uint8)
    strip[: len(legend)] = legend[: len(strip)]
    return np.vstack([row, draw_caption(note, row.shape[1], _FONT), strip])


def _draw_truth(frame: Frame, classes: Sequence[PublishedClass]) -> tuple[np.ndarray, set[int]]:
    """The truth over the image, and the ids of the classes in it."""
    assert frame.image is not None and frame.truth_map is not None and frame.truth is not None
    class_of = {name: item for item in classes for name in item.synonyms}
    named = {row.id: class_of[row.name] for row in frame.truth if row.name in class_of}
    asked_for = np.isin(frame.truth_map, list(named))
    segments = [
        Segment(
            id=number,
            class_id=item.id,
            name=item.name,
            score=1.0,
            is_thing=item.is_thing,
            area=int((frame.truth_map == number).sum()),
            box=(0, 0, 0, 0),
            embedding=np.empty(0, np.float32),
        )
        for number, item in named.items()
    ]
    truth = PanopticResult(np.where(asked_for, frame.truth_map, 0).astype(np.int32), segments, 0, {})
    colors = {item.id: item.color for item in classes}
    return draw_overlay(frame.image, truth, colors), {item.id for item in named.values()}
