"""Overlays on hand-made segment maps, where every expected pixel is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from fcclip_core.errors import ImageError, SettingsError
from fcclip_core.results import PanopticResult, Segment
from fcclip_core.segments.visualization import LABEL_LENGTH, draw_legend, draw_overlay, segment_colors

RED, GREEN, BLUE = (220, 20, 60), (40, 180, 40), (10, 20, 140)
COLORS = {1: RED, 2: GREEN, 3: BLUE}


def make_segment(number: int, class_id: int, name: str = "cup", is_thing: bool = True, area: int = 1) -> Segment:
    return Segment(number, class_id, name, 0.5, is_thing, area, (0, 0, 1, 1), np.zeros(4, np.float32))


def make_result(segment_map: np.ndarray, segments: list[Segment]) -> PanopticResult:
    return PanopticResult(segment_map.astype(np.int32), segments, 1, {})


def halves() -> tuple[np.ndarray, PanopticResult]:
    """Gray 60 x 90 frame: left third without a segment, then class 1, then class 2."""
    segment_map = np.repeat([0, 1, 2], 30)[None].repeat(60, axis=0)
    return np.full((60, 90, 3), 100, np.uint8), make_result(segment_map, [make_segment(1, 1), make_segment(2, 2)])


def plate(overlay: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """Pixels that are exactly a label's plate color; with alpha 0 nothing else has it."""
    return (overlay == color).all(axis=2)


def test_fill_blends_class_color_and_leaves_unlabeled_pixels() -> None:
    image, result = halves()
    overlay = draw_overlay(image, result, COLORS, alpha=0.25, labels=False)
    assert overlay[30, 15].tolist() == [100, 100, 100]
    assert overlay[30, 45].tolist() == [130, 80, 90]  # 0.75 * 100 + 0.25 * (220, 20, 60)
    assert overlay[30, 75].tolist() == [85, 120, 85]
    assert image.min() == image.max() == 100, "the caller's image was drawn on"


def test_outline_follows_borders_between_segments_only() -> None:
    image, result = halves()
    overlay = draw_overlay(image, result, COLORS, alpha=0.0, labels=False)
    changed = (overlay != image).any(axis=2)
    assert np.flatnonzero(changed.all(axis=0)).tolist() == [30, 59, 60]
    assert changed.sum() == 3 * 60


def test_frame_without_segments_stays_as_it_is() -> None:
    image = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    overlay = draw_overlay(image, make_result(np.zeros((4, 5)), []), {})
    assert np.array_equal(overlay, image)
    assert overlay is not image


@pytest.mark.parametrize("shape", [(1, 1), (1, 65_500), (65_500, 1), (2, 40_000)])
def test_lines_and_single_pixels_are_drawn_over(shape: tuple[int, int]) -> None:
    segment_map = np.ones(shape)
    segment_map[:, shape[1] // 2 :] = 2
    segments = [make_segment(number, number, area=int((segment_map == number).sum())) for number in (1, 2)]
    overlay = draw_overlay(np.full((*shape, 3), 100, np.uint8), make_result(segment_map, segments), COLORS)
    assert overlay.shape == (*shape, 3)
    assert (overlay != 100).any()


def test_lines_grow_with_the_image() -> None:
    widths = []
    for size in (480, 1920):
        segment_map = np.ones((size, size))
        segment_map[:, size // 2 :] = 2
        result = make_result(segment_map, [make_segment(1, 1), make_segment(2, 2)])
        overlay = draw_overlay(np.zeros((size, size, 3), np.uint8), result, COLORS, alpha=0.0, labels=False)
        widths.append(int(overlay[0].any(axis=1).sum()))
    assert widths == [2, 8]


def test_instances_of_a_class_get_shades_of_its_color() -> None:
    segments = [make_segment(1, 1), make_segment(2, 1), make_segment(3, 2), make_segment(5, 1)]
    table = segment_colors(segments, COLORS)
    assert table.shape == (6, 3)
    assert table[0].tolist() == table[4].tolist() == [0, 0, 0]
    assert tuple(table[1]) == RED
    assert tuple(table[3]) == GREEN
    assert len({tuple(table[i]) for i in (1, 2, 5)}) == 3


def test_label_sits_in_the_widest_part_of_its_segment() -> None:
    """A square with a long tail: the center of the box and the middle pixel both lie elsewhere."""
    segment_map = np.zeros((400, 600))
    segment_map[20:180, 400:560] = segment_map[:, 10:20] = segment_map[100:110, 10:560] = segment_map[380:, 10:590] = 1
    result = make_result(segment_map, [make_segment(1, 1)])
    ys, xs = np.nonzero(plate(draw_overlay(np.full((400, 600, 3), 90, np.uint8), result, COLORS, alpha=0.0), RED))
    assert len(ys) > 100
    assert abs((ys.min() + ys.max()) / 2 - 100) < 12
    assert abs((xs.min() + xs.max()) / 2 - 480) < 12


def test_segment_thinner_than_the_placement_grid_is_labeled() -> None:
    segment_map = np.zeros((800, 1000))
    segment_map[401] = 1
    overlay = draw_overlay(np.zeros((800, 1000, 3), np.uint8), make_result(segment_map, [make_segment(1, 1)]), COLORS)
    assert plate(overlay, RED).sum() > 200


def test_labels_never_cover_each_other() -> None:
    """Nested boxes share their innermost point, so all five labels want the same place; only three fit near it."""
    segment_map = np.zeros((300, 300))
    segments = []
    for number in range(1, 6):
        segment_map[130 + number * 2 : 170 - number * 2, 100 + number * 2 : 200 - number * 2] = number
        segments.append(make_segment(number, number, area=1000 - number))
    colors = {n: (40 * n, 250 - 40 * n, 10 * n) for n in range(1, 6)}
    image = np.zeros((300, 300, 3), np.uint8)
    together = draw_overlay(image, make_result(segment_map, segments), colors, alpha=0.0)
    for segment in segments:
        alone = draw_overlay(
            image, make_result(segment_map == segment.id, [make_segment(1, segment.class_id)]), colors, 0.0
        )
        whole = plate(alone, colors[segment.class_id]).sum()
        assert plate(together, colors[segment.class_id]).sum() in (0, whole)
    drawn = [plate(together, color).any() for color in colors.values()]
    assert drawn[0] and sum(drawn) >= 3


@pytest.mark.parametrize(
    "color", [(255, 255, 255), (255, 255, 0), (0, 0, 0), (128, 128, 128), (0, 0, 255), (0, 200, 0)]
)
def test_letters_contrast_with_their_plate(color: tuple[int, int, int]) -> None:
    result = make_result(np.ones((120, 300)), [make_segment(1, 1, "wwwww")])
    overlay = draw_overlay(np.full((120, 300, 3), 77, np.uint8), result, {1: color}, alpha=0.0)
    gray = overlay.astype(np.float64) @ (0.299, 0.587, 0.114)
    ys, xs = np.nonzero(plate(overlay, color))
    letters = gray[ys.min() + 2 : ys.max() - 1, xs.min() + 2 : xs.max() - 1]
    assert np.abs(letters - np.dot(color, (0.299, 0.587, 0.114))).max() > 90


@pytest.mark.skipif(not hasattr(cv2, "FontFace"), reason="only OpenCV 5 carries a font for these letters")
def test_non_latin_names_are_written_in_their_own_letters() -> None:
    strips = [
        draw_legend([(name, RED)], 300).tobytes() for name in ("椅子", "倉庫", "дверь", "двери", "의자", "??", "???")
    ]
    assert len(set(strips)) == len(strips)


def test_letters_without_a_glyph_become_question_marks_and_do_not_fail() -> None:
    if hasattr(cv2, "FontFace"):
        assert np.array_equal(draw_legend([("🙂", RED)], 200), draw_legend([("?", RED)], 200))
    draw_legend([("🙂 कुर्सी", RED)], 200)


def test_older_opencv_writes_with_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    from fcclip_core.segments import visualization

    image, result = halves()
    visualization._render.cache_clear()
    monkeypatch.delattr(cv2, "FontFace", raising=False)
    try:
        overlay = draw_overlay(
            np.zeros((480, 640, 3), np.uint8), make_result(np.ones((480, 640)), [make_segment(1, 1)]), COLORS, 0
        )
        ys, xs = np.nonzero(plate(overlay, RED))
        ink = ~plate(overlay, RED)[ys.min() + 2 : ys.max() - 1, xs.min() + 2 : xs.max() - 1]
        assert 0.05 < ink.mean() < 0.6
        assert draw_overlay(image, result, COLORS).shape == image.shape
    finally:
        visualization._render.cache_clear()


@pytest.mark.parametrize("shape", [(1, 1), (1, 200), (200, 1), (9, 12), (40, 30)])
@pytest.mark.parametrize("name", ["x" * 10_000, "two\nlines\tand\x00more", "", "e\u0301"])
def test_odd_sizes_and_names_are_drawn(shape: tuple[int, int], name: str) -> None:
    result = make_result(np.ones(shape), [make_segment(1, 1, name)])
    overlay = draw_overlay(np.zeros((*shape, 3), np.uint8), result, COLORS)
    assert overlay.shape == (*shape, 3)
    assert overlay.any()


def test_long_names_are_cut() -> None:
    def width(name: str) -> int:
        return int(np.flatnonzero((draw_legend([(name, RED)], 2000) != 255).any(axis=(0, 2)))[-1])

    assert width("m" * LABEL_LENGTH) < width("m" * (LABEL_LENGTH + 1)) + 3 * 16
    assert width("m" * 5000) == width("m" * 50) < 800


def test_legend_wraps_and_shows_every_color() -> None:
    entries = [("person", RED), ("pallet", GREEN), ("floor", BLUE)]
    wide, narrow = draw_legend(entries, 800), draw_legend(entries, 110)
    assert wide.shape == (32, 800, 3)
    assert narrow.shape == (96, 110, 3)
    for strip in (wide, narrow):
        for _, color in entries:
            assert plate(strip, color).sum() == 16 * 16
    assert draw_legend([], 50).shape == (0, 50, 3)


def test_segment_without_pixels_is_ignored() -> None:
    image, result = halves()
    extra = make_result(result.segment_map, [*result.segments, make_segment(3, 3)])
    assert np.array_equal(draw_overlay(image, extra, COLORS), draw_overlay(image, result, COLORS))


@pytest.mark.parametrize(
    ("image", "colors", "alpha", "error", "message"),
    [
        (np.zeros((60, 90), np.uint8), COLORS, 0.5, ImageError, "needs uint8 RGB"),
        (np.zeros((60, 90, 4), np.uint8), COLORS, 0.5, ImageError, r"\(60, 90, 4\)"),
        (np.zeros((60, 90, 3), np.float32), COLORS, 0.5, ImageError, "float32"),
        (np.zeros((30, 90, 3), np.uint8), COLORS, 0.5, ImageError, "30 x 90 pixels and the segment map 60 x 90"),
        (np.zeros((60, 90, 3), np.uint8), COLORS, 1.5, SettingsError, "alpha is 1.5"),
        (np.zeros((60, 90, 3), np.uint8), {1: RED}, 0.5, SettingsError, r"no entry for class id 2 \(cup\)"),
    ],
)
def test_wrong_input_is_explained(
    image: np.ndarray, colors: dict, alpha: float, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        draw_overlay(image, halves()[1], colors, alpha)
