"""Overlays: segments drawn over the image in class colors, with outlines, labels and a legend.

Everything is a table lookup or one pass over the image, so the cost hardly depends on the number of segments.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Protocol

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fcclip_core.errors import ImageError, SettingsError
from fcclip_core.images.label_size import at_label_size
from fcclip_core.results import Segment

Color = tuple[int, int, int]

LABEL_LENGTH = 28
"""Characters of a class name that are drawn; longer names are truncated with dots."""

_SHADES = (0.0, 0.28, -0.28, 0.5, -0.45)
_FALLBACK_FONT = "DejaVuSans.ttf"
_PLACEMENT_SIDE = 160


class SegmentedImage(Protocol):
    """The interface of what can be drawn: a `PanopticResult`, or ground truth with the same fields."""

    @property
    def segment_map(self) -> np.ndarray:
        """int32 `(H, W)`: 0 = no segment, else a `Segment.id`."""
        ...

    @property
    def segments(self) -> list[Segment]:
        """The segments."""
        ...


def draw_overlay(
    image: np.ndarray,
    result: SegmentedImage,
    colors: Mapping[int, Color],
    alpha: float = 0.5,
    labels: bool = True,
) -> np.ndarray:
    """Draws the segments of a frame over it.

    Each segment is filled with its class's color (in a different shade for each segment of a class), outlined, and
    labeled "name score" at its innermost point. Pixels without a segment are unchanged. Lines and letters scale with
    the image. If two labels overlap, that of the smaller segment moves up or down by at most two lines, or is omitted.

    Args:
        image: uint8 RGB `(H, W, 3)`.
        result: The segmentation of that image, `(h, w)`: of its size, or smaller by `output_stride`.
        colors: Class id -> `(r, g, b)`, 0..255, for all classes in the result.
        alpha: Opacity of the fill, 0 (outlines only) to 1 (opaque).
        labels: Whether to write names and scores.

    Returns:
        A new uint8 RGB array `(h, w, 3)` of the segment map's size, to which the image is reduced.

    Raises:
        ImageError: The image is not uint8 `(H, W, 3)`, or smaller than the segment map or of another aspect ratio.
        SettingsError: `alpha` is out of range or `colors` lacks a class.
    """
    _check(image, result, colors, alpha)
    image = at_label_size(image, result.segment_map.shape)
    if not result.segments:
        return image.copy()
    shades = segment_colors(result.segments, colors)
    # 16 bits as in the ROS output; OpenCV has no morphology for 32-bit integers.
    ids = result.segment_map.astype(np.uint16)
    fill = shades.take(ids, axis=0)
    overlay = cv2.addWeighted(image, 1.0 - alpha, fill, alpha, 0.0)
    unlabeled = (ids == 0).astype(np.uint8) * 255
    edges = _edges(ids, thickness=_line_width(image.shape))
    overlay = cv2.copyTo(image, unlabeled, overlay)
    overlay = cv2.copyTo(cv2.addWeighted(fill, 0.6, np.full_like(fill, 255), 0.4, 0.0), edges & ~unlabeled, overlay)
    if labels:
        _draw_labels(overlay, ids, result.segments, shades)
    return overlay


def segment_colors(segments: Iterable[Segment], colors: Mapping[int, Color]) -> np.ndarray:
    """Color of each segment: that of its class, in a different shade for each segment of the class.

    Args:
        segments: Segments of one frame.
        colors: `(r, g, b)` by class id.

    Returns:
        uint8 `(largest segment id + 1, 3)`, to be indexed by segment id; row 0 is black.
    """
    segments = list(segments)
    table = np.zeros((max((segment.id for segment in segments), default=0) + 1, 3), np.uint8)
    seen: dict[int, int] = {}
    for segment in segments:
        count = seen.get(segment.class_id, 0)
        seen[segment.class_id] = count + 1
        table[segment.id] = _shade(colors[segment.class_id], _SHADES[count % len(_SHADES)])
    return table


def draw_legend(entries: Iterable[tuple[str, Color]], width: int, font_size: int = 16) -> np.ndarray:
    """Draws a legend, wrapped into lines of the given width.

    Args:
        entries: `(name, (r, g, b))` pairs, drawn in this order.
        width: Width of the strip in pixels.
        font_size: Height of the letters in pixels.

    Returns:
        uint8 RGB `(h, width, 3)` on white; h is 0 without entries.
    """
    gap, line = font_size // 2, 2 * font_size
    placed: list[tuple[int, int, np.ndarray, Color]] = []
    x, y = gap, 0
    for name, color in entries:
        text = _render(_shorten(name), font_size)
        needed = font_size + gap + text.shape[1] + 2 * gap
        if x > gap and x + needed > width:
            x, y = gap, y + line
        placed.append((x, y, text, color))
        x += needed
    strip = np.full((y + line if placed else 0, width, 3), 255, np.uint8)
    for left, top, text, color in placed:
        swatch_top = top + (line - font_size) // 2
        strip[swatch_top : swatch_top + font_size, left : left + font_size] = color
        _paste(strip, text, left + font_size + gap, top + (line - text.shape[0]) // 2, (0, 0, 0))
    return strip


def draw_caption(text: str, width: int, font_size: int = 16) -> np.ndarray:
    """Draws one line of text, truncated at the width.

    Args:
        text: The line.
        width: Width of the strip in pixels.
        font_size: Height of the letters in pixels.

    Returns:
        uint8 RGB `(2 font_size, width, 3)` on white.
    """
    strip = np.full((2 * font_size, width, 3), 255, np.uint8)
    letters = _render(text, font_size)
    _paste(strip, letters, font_size // 2, (len(strip) - len(letters)) // 2, (0, 0, 0))
    return strip


def _check(image: np.ndarray, result: SegmentedImage, colors: Mapping[int, Color], alpha: float) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ImageError(f"the image is {image.dtype} {image.shape}; an overlay needs uint8 RGB (height, width, 3)")
    if not 0.0 <= alpha <= 1.0:
        raise SettingsError(f"alpha is {alpha!r}; the fill's opacity must be between 0 and 1")
    for segment in result.segments:
        if segment.class_id not in colors:
            raise SettingsError(
                f"colors has no entry for class id {segment.class_id} ({segment.name}); "
                "pass the colors of the vocabulary that labeled the frame"
            )


def _shade(color: Color, amount: float) -> Color:
    """Mixes a color with white (amount above 0) or black (below 0)."""
    target = 255 if amount > 0 else 0
    red, green, blue = (round(value + (target - value) * abs(amount)) for value in color)
    return red, green, blue


def _line_width(shape: tuple[int, ...]) -> int:
    return max(1, round(min(shape[:2]) / 480))


def _font_size(shape: tuple[int, ...]) -> int:
    return max(11, round(min(shape[:2]) / 34))


def _edges(ids: np.ndarray, thickness: int) -> np.ndarray:
    """255 at pixels with another segment within `thickness` pixels: uint8 `(H, W)`."""
    kernel = np.ones((2 * thickness + 1, 2 * thickness + 1), np.uint8)
    return cv2.compare(cv2.dilate(ids, kernel), cv2.erode(ids, kernel), cv2.CMP_NE)


def _draw_labels(overlay: np.ndarray, ids: np.ndarray, segments: list[Segment], shades: np.ndarray) -> None:
    """Draws the labels in place, largest segments first, so that labels of small segments are moved or omitted."""
    size = _font_size(overlay.shape)
    taken: list[tuple[int, int, int, int]] = []
    points = _interior_points(ids, segments)
    for segment in sorted(segments, key=lambda segment: -segment.area):
        if segment.id not in points:
            continue
        text = _render(f"{_shorten(segment.name)} {segment.score:.2f}", size)
        box = _free_place(points[segment.id], text.shape, overlay.shape, taken, pad=max(2, size // 4))
        if box is not None:
            taken.append(box)
            _draw_label(overlay, text, box, shades[segment.id])


def _interior_points(ids: np.ndarray, segments: list[Segment]) -> dict[int, tuple[int, int]]:
    """Segment id -> the pixel `(x, y)` farthest from the segment's border.

    One distance transform of a downsampled map serves all segments; a segment too thin for that map gets its middle
    pixel. Segments without pixels are omitted.
    """
    step = max(1, min(ids.shape) // _PLACEMENT_SIDE)
    small = ids[::step, ::step]
    # The frame's border counts as an edge; otherwise labels of large segments would be at the border.
    inside = np.pad(cv2.bitwise_not(_edges(np.ascontiguousarray(small), thickness=1)), 1)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 3)[1:-1, 1:-1]
    points = {}
    for segment in segments:
        mine = np.flatnonzero(small == segment.id)
        if len(mine):
            y, x = divmod(int(mine[depth.ravel()[mine].argmax()]), small.shape[1])
            points[segment.id] = (x * step, y * step)
            continue
        mine = np.flatnonzero(ids == segment.id)
        if len(mine):
            y, x = divmod(int(mine[len(mine) // 2]), ids.shape[1])
            points[segment.id] = (x, y)
    return points


def _free_place(
    point: tuple[int, int],
    text: tuple[int, ...],
    frame: tuple[int, ...],
    taken: list[tuple[int, int, int, int]],
    pad: int,
) -> tuple[int, int, int, int] | None:
    """The label's box `(x_min, y_min, x_max, y_max)` around a point, inside the frame and clear of the others."""
    height, width = text[0] + pad, text[1] + 2 * pad
    left = max(0, min(point[0] - width // 2, frame[1] - width))
    for lines in (0, -1, 1, -2, 2):
        top = max(0, min(point[1] - height // 2 + lines * (height + 1), frame[0] - height))
        box = (left, top, left + width, top + height)
        if not any(box[0] < x2 and x1 < box[2] and box[1] < y2 and y1 < box[3] for x1, y1, x2, y2 in taken):
            return box
    return None


def _draw_label(overlay: np.ndarray, text: np.ndarray, box: tuple[int, int, int, int], color: np.ndarray) -> None:
    """Draws a box in the segment's color with a thin border and text in black or white, whichever has more contrast."""
    ink = (0, 0, 0) if color @ (0.299, 0.587, 0.114) > 140 else (255, 255, 255)
    left, top, right, bottom = box
    overlay[top:bottom, left:right] = color
    cv2.rectangle(overlay, (left, top), (right - 1, bottom - 1), ink, 1)
    _paste(overlay, text, (left + right - text.shape[1]) // 2, (top + bottom - text.shape[0]) // 2, ink)


def _paste(image: np.ndarray, text: np.ndarray, left: int, top: int, ink: Color) -> None:
    """Blends text into an image in place, clipped at the image's border."""
    text = text[max(0, -top) :, max(0, -left) :]
    area = image[max(0, top) : max(0, top) + text.shape[0], max(0, left) : max(0, left) + text.shape[1]]
    weight = text[: area.shape[0], : area.shape[1], None].astype(np.float32) / 255
    area[:] = np.rint(area * (1 - weight) + np.asarray(ink, np.float32) * weight)


def _shorten(name: str) -> str:
    name = " ".join("".join(c if c.isprintable() else " " for c in name[: 4 * LABEL_LENGTH]).split())
    return name if len(name) <= LABEL_LENGTH else name[: LABEL_LENGTH - 3] + "..."


@functools.lru_cache(maxsize=512)
def _render(text: str, size: int) -> np.ndarray:
    """Coverage of the text, uint8 `(h, w)`; all texts of one size have the same height.

    OpenCV 5 includes a font with Latin, Greek, Cyrillic, Arabic (unshaped), Chinese, Japanese and Korean letters, and
    draws "?" for others. Older versions support only ASCII; with them, Pillow draws text in DejaVu Sans if installed,
    else in its own Latin font, with boxes for missing letters.
    """
    return _render_opencv(text, size) if hasattr(cv2, "FontFace") else _render_pillow(text, size)


def _render_opencv(text: str, size: int) -> np.ndarray:
    font = cv2.FontFace("uni")
    width = cv2.getTextSize((0, 0), text, (0, 0), font, size)[2]
    # OpenCV wraps text at the canvas's edge, so the canvas is wider than the text.
    canvas = np.zeros((round(1.3 * size), width + 2 * size), np.uint8)
    cv2.putText(canvas, text, (0, size), 255, font, size)
    canvas.flags.writeable = False
    return canvas[:, :width]


def _render_pillow(text: str, size: int) -> np.ndarray:
    font = _pillow_font(size)
    canvas = Image.new("L", (max(1, round(font.getlength(text))), round(1.3 * size)))
    ImageDraw.Draw(canvas).text((0, size), text, fill=255, font=font, anchor="ls")
    return np.asarray(canvas)


@functools.lru_cache(maxsize=16)
def _pillow_font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    try:
        return ImageFont.truetype(_FALLBACK_FONT, size)
    except OSError:
        return ImageFont.load_default(size)
