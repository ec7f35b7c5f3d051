"""`fcclip features`: clusters of known features, colors that agree, a picture, and what is refused."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
import tiny_vit
import torch
from PIL import Image

from fcclip_core.commands import features as command
from fcclip_core.errors import FcclipError, ImageError, SettingsError
from fcclip_core.evaluation.clips import Clip
from fcclip_core.evaluation.features import ClusterMap, cluster_maps, draw_clusters
from fcclip_core.model.backbone import FeaturePyramid
from fcclip_core.vocabulary.text_embeddings import TextEncoder


class ColorTower:
    """Features are the mean colors of its cells."""

    def __init__(self, stride: int) -> None:
        self.stride = stride

    def __call__(self, image: torch.Tensor) -> FeaturePyramid:
        cells = torch.nn.functional.avg_pool2d(image, self.stride, ceil_mode=True)
        return FeaturePyramid(cells, cells, cells, cells)

    def embed_masks(self, res5: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        raise AssertionError("features are clustered before any head")


def clip(name: str, stride: int) -> Clip:
    encoder, cpu = TextEncoder(lambda: None), torch.device("cpu")  # type: ignore[arg-type]
    return Clip(name, ColorTower(stride), abs, encoder, 1.0, False, cpu)


def thirds() -> np.ndarray:
    """Three upright stripes of 32 pixels each: red, green, blue."""
    image = np.zeros((96, 96, 3), np.uint8)
    for number in range(3):
        image[:, 32 * number : 32 * number + 32, number] = 255
    return image


def test_equal_places_have_equal_numbers_at_each_size_and_in_each_row() -> None:
    rows = cluster_maps(thirds(), [clip("a", 32), clip("b", 16)], [96, 192], 3, seed=5)
    assert [[entry.title for entry in row] for row in rows] == [
        ["a @96px", "a @192px"],
        ["b @96px", "b @192px"],
    ]
    first = rows[0][0].cells
    assert first.shape == (3, 3) and len(set(first[0])) == 3 and (first == first[0]).all()
    for entry in (entry for row in rows for entry in row):
        side = len(entry.cells)
        assert np.array_equal(entry.cells, np.repeat(np.repeat(first, side // 3, 0), side // 3, 1)), entry.title


def test_padding_is_no_part_of_the_picture() -> None:
    """64 x 70 pixels are padded to 96 wide, of which the third column shows six."""
    image = np.random.default_rng(0).integers(0, 255, (64, 70, 3), np.uint8)
    (row,) = cluster_maps(image, [clip("a", 32)], [64], 2)
    assert row[0].cells.shape == (2, 3)
    (row,) = cluster_maps(image, [clip("a", 16)], [64], 2)
    assert row[0].cells.shape == (4, 5)


def test_the_picture_has_a_row_a_clip_and_a_column_a_size() -> None:
    left = ClusterMap("one", np.array([[0, 1]]))
    rows = [[left, ClusterMap("two", np.array([[1, 0], [1, 0]]))]] * 2
    picture = draw_clusters(np.full((50, 100, 3), 200, np.uint8), rows, width=100)
    assert picture.shape == (2 * (28 + 50) + 8, 3 * 100 + 2 * 8, 3)
    panels = [picture[28:78, start : start + 100] for start in (0, 108, 216)]
    assert (panels[0] == 200).all()
    zero, one = panels[1][0, 0], panels[1][0, -1]
    assert not np.array_equal(zero, one)
    assert (panels[1][:, :50] == zero).all() and (panels[1][:, 50:] == one).all()
    assert (panels[2][:, :50] == one).all() and (panels[2][:, 50:] == zero).all()


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    args = parser.parse_args(["features", *map(str, arguments)])
    return int(args.run(args))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (60, 80, 3), np.uint8)).save(path)
    return path


TINY = ("--checkpoint", "recipe:tiny", "--device", "cpu")


def test_the_command_writes_a_picture(photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vit = f"recipe:{tiny_vit.register(tmp_path)}"
    out = tmp_path / "clusters.png"
    assert run(photo, *TINY, "--vit", vit, "--sizes", "64,96", "--kmeans", 3, "--out", out) == 0
    with Image.open(out) as picture:
        assert picture.size == (3 * 240 + 2 * 8, 2 * (28 + 180) + 8)
    printed = capsys.readouterr().out
    assert f"{tiny_vit.NAME}: seeded weights" in printed and "3 clusters at 64, 96 pixels" in printed


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (("--sizes", "64", "--kmeans", 7), SettingsError, "--kmeans is 7, but tiny has only 6 cells at 64 pixels"),
        (("--kmeans", 1), SettingsError, "--kmeans is 1; expected 2 to 32"),
        (("--sizes", "64,0"), SettingsError, "--sizes is '64,0'; expected sizes in pixels"),
        (("--sizes", "10"), SettingsError, "shorter_side is 10"),
        (("--sizes", "99999"), SettingsError, "shorter_side is 99999"),
        (("--sizes", "big"), SettingsError, "--sizes is 'big'; expected whole numbers"),
        (("--seed", -1), SettingsError, "--seed is -1"),
        (("--vit-weights", "x.bin"), SettingsError, "--vit-weights is given without --vit"),
    ],
)
def test_what_cannot_be_drawn_is_said(
    options: tuple[object, ...], error: type[FcclipError], words: str, photo: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=words):
        run(photo, *TINY, *options, "--out", tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()


def test_files_that_will_not_do_are_named(photo: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"nothing")
    with pytest.raises(ImageError, match="broken.jpg: not an image"):
        run(broken, *TINY, "--out", tmp_path / "out.png")
    with pytest.raises(FcclipError, match="would replace an input"):
        run(photo, *TINY, "--out", photo)
    with pytest.raises(FcclipError, match="pictures are written as .png"):
        run(photo, *TINY, "--out", tmp_path / "out.txt")
    with pytest.raises(FcclipError, match="there is no such folder"):
        run(photo, *TINY, "--out", tmp_path / "nowhere" / "out.png")
