"""The demo's film: what a picture shows, which frames it takes, what is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from demo.film import Film, compose
from demo.frames import Frame, PublishedClass, SegmentList, SegmentRow, TruthRow

RED, BLUE = (220, 20, 20), (20, 20, 220)
CLASSES = (
    PublishedClass(3, ("cup", "mug"), True, True, RED),
    PublishedClass(7, ("plate",), True, False, BLUE),
)
HEIGHT, WIDTH = 60, 80


def frame(version: int = 1, overlay: int = 9) -> Frame:
    """A mug on the left half of the truth; on the right something that no word was given for."""
    truth = np.full((HEIGHT, WIDTH), 2, np.uint16)
    truth[:, : WIDTH // 2] = 1
    row = SegmentRow(1, 7, "plate", 0.5, HEIGHT * WIDTH, (0, 0, WIDTH, HEIGHT))
    image = np.full((HEIGHT, WIDTH, 3), 100, np.uint8)
    return Frame(
        image=image,
        truth_map=truth,
        truth=(TruthRow(1, "mug"), TruthRow(2, "unicorn")),
        labels={"segments": SegmentList(version, HEIGHT, WIDTH, (row,))},
        overlay=np.full_like(image, overlay),
    )


def has_color(picture: np.ndarray, color: tuple[int, int, int]) -> bool:
    return bool((np.abs(picture.astype(int) - color).max(-1) < 3).any())


def test_picture_shows_image_overlay_and_truth_in_the_vocabularys_colors() -> None:
    picture = compose(frame(), CLASSES, "a note")
    image, overlay, truth = (picture[:HEIGHT, left : left + WIDTH] for left in (0, WIDTH + 4, 2 * WIDTH + 8))
    assert (image == 100).all() and (overlay == 9).all()
    mug, unicorn = truth[-8:, 4 : WIDTH // 2 - 4].astype(int), truth[-8:, WIDTH // 2 + 4 :]
    assert np.abs(mug - (np.array(RED) + 100) / 2).max() <= 1, "half image, half color of the class with the synonym"
    assert (unicorn == 100).all(), "what no class names stays as it is"
    legend = picture[HEIGHT + 24 :]
    assert has_color(legend, RED) and has_color(legend, BLUE), "classes of truth and overlay alike"


def test_film_takes_about_one_picture_a_second_and_one_still_a_vocabulary(tmp_path: Path) -> None:
    film = Film()
    for index in range(30):
        film.add(index * 250_000_000, frame(version=1 + index // 16, overlay=8 * index), CLASSES, f"note {index}")
    path, stills = film.save(tmp_path)
    assert path == tmp_path / "film.gif"
    with Image.open(path) as picture:
        assert picture.is_animated and picture.n_frames == 8
        assert picture.size == (3 * WIDTH + 8, HEIGHT + 24 + 48)
    assert {version: still.name for version, still in stills.items()} == {1: "vocabulary_1.png", 2: "vocabulary_2.png"}
    overlays = {
        version: np.asarray(Image.open(still))[5, WIDTH + 4 + 5, 0] // 8 * 0.25 for version, still in stills.items()
    }
    assert overlays == {1: 2.0, 2: 6.0}, "each from the middle of its vocabulary's time, in seconds"


def test_stream_that_begins_again_is_filmed(tmp_path: Path) -> None:
    film = Film()
    for stamp in (5_000_000_000, 1_000_000_000):
        film.add(stamp, frame(overlay=stamp // 40_000_000), CLASSES, "")
    path, _ = film.save(tmp_path)
    assert path is not None
    with Image.open(path) as picture:
        assert picture.n_frames == 2


def test_film_without_a_picture_writes_nothing(tmp_path: Path) -> None:
    assert Film().save(tmp_path) == (None, {})
    assert not list(tmp_path.iterdir())
