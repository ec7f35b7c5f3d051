"""Files that say which pixels are never labeled: what counts as black, sizes, and files that will not do."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcclip_core.errors import ImageError
from fcclip_core.geometry.ignore_mask import IgnoreMask

LEFT = np.zeros((6, 8), np.uint8)
LEFT[:, :2] = 1


def saved(path: Path, picture: Image.Image | np.ndarray) -> Path:
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(path)
    return path


def palette() -> Image.Image:
    """Index 0 is white and 1 black, so that indices and colors disagree."""
    picture = Image.fromarray(1 - LEFT, "L").convert("P")
    picture.putdata((1 - LEFT).ravel().tolist())
    picture.putpalette([255, 255, 255, 0, 0, 0])
    return picture


FORMS = {
    "ones in 8 bits": LEFT,
    "black and white": Image.fromarray(LEFT * 255).convert("1"),
    "the smallest of 16 bits": LEFT.astype(np.uint16),
    "the faintest blue": np.stack([0 * LEFT, 0 * LEFT, LEFT], axis=-1),
    "opaque or not": Image.fromarray(np.stack([LEFT] * 3 + [np.full_like(LEFT, 255)], axis=-1), "RGBA"),
    "transparent or not": Image.fromarray(np.stack([LEFT, 255 - LEFT], axis=-1), "LA"),
    "a palette": palette(),
}


@pytest.mark.parametrize("picture", FORMS.values(), ids=FORMS.keys())
def test_what_is_not_black_is_ignored(picture: Image.Image | np.ndarray, tmp_path: Path) -> None:
    mask = IgnoreMask(saved(tmp_path / "arm.png", picture))
    np.testing.assert_array_equal(mask.at(6, 8), LEFT == 1)
    assert mask.share == 0.25


def test_other_sizes_of_the_aspect_ratio_are_looked_up_at_the_nearest_pixel_once(tmp_path: Path) -> None:
    mask = IgnoreMask(saved(tmp_path / "arm.png", LEFT))
    twice = mask.at(12, 16)
    np.testing.assert_array_equal(twice, np.repeat(np.repeat(LEFT, 2, axis=0), 2, axis=1) == 1)
    assert mask.at(12, 16) is twice
    np.testing.assert_array_equal(mask.at(3, 4), LEFT[::2, ::2] == 1)


def test_another_aspect_ratio_is_refused_and_the_mask_stays_of_use(tmp_path: Path) -> None:
    mask = IgnoreMask(saved(tmp_path / "arm.png", LEFT))
    with pytest.raises(ImageError, match="arm.png has 8 x 6 pixels, but the image has 8 x 8, a different aspect ratio"):
        mask.at(8, 8)
    assert mask.at(6, 8).any()


def test_files_that_will_not_do_are_named_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="nowhere.png cannot be used: there is no such file"):
        IgnoreMask(tmp_path / "nowhere.png")
    (tmp_path / "text.png").write_text("black")
    with pytest.raises(ImageError, match="text.png cannot be used: not an image"):
        IgnoreMask(tmp_path / "text.png")
    with pytest.raises(ImageError, match="it is JPEG; expected a PNG"):
        IgnoreMask(saved(tmp_path / "arm.jpg", LEFT))
    cut = saved(tmp_path / "cut.png", np.random.default_rng(0).integers(0, 2, (60, 80)).astype(np.uint8))
    cut.write_bytes(cut.read_bytes()[:-40])
    with pytest.raises(ImageError, match="cut.png cannot be used"):
        IgnoreMask(cut)
    with pytest.raises(ImageError, match="has no black pixel, so nothing would be labeled.*inverted"):
        IgnoreMask(saved(tmp_path / "white.png", LEFT + 1))
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="pipes and devices cannot be read"):
        IgnoreMask(tmp_path / "pipe.png")
