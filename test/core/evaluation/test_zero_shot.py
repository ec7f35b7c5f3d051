"""Zero-shot classification of folders of images, against open_clip's own classifier and counts made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import open_clip
import pytest
import tiny_vit
import torch
from PIL import Image

from fcclip_core.commands import evaluate_clip
from fcclip_core.datasets.catalog import DATASETS
from fcclip_core.datasets.class_folders import ClassFolders, imagenet
from fcclip_core.errors import DatasetError
from fcclip_core.evaluation.clips import Clip
from fcclip_core.evaluation.paper_clips import TABLE_9, TABLE_9_SIZES, TABLE_10, TABLE_10_SIZES, table_10
from fcclip_core.evaluation.patch_clips import load_patch_clip
from fcclip_core.evaluation.zero_shot import RESIZES, chosen, classify_images, imagenet_templates
from fcclip_core.inference.preprocess import PIXEL_MEAN, PIXEL_STD
from fcclip_core.vocabulary.text_embeddings import TextEncoder
from fcclip_core.weights.checkpoints import load_checkpoint

CPU = torch.device("cpu")
NAMES = ("red", "green", "blue", "dark red", "gray", "white", "black")
COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def color_clip(name: str = "colors") -> Clip:
    """Embeds an image by the mean of its channels, so that its color says which text row is nearest."""
    mean, std = (torch.tensor(values) / 255 for values in (PIXEL_MEAN, PIXEL_STD))

    def embed(image: torch.Tensor) -> torch.Tensor:
        return image.mean((2, 3)) * std + mean

    return Clip(name, None, embed, TextEncoder(lambda: None), 100.0, False, CPU)  # type: ignore[arg-type]


def color_rows() -> torch.Tensor:
    """The rows of dark red and the rest are near to red's, green's and none in this order."""
    rows = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0.2, 0.1], [1, 1, 0.9], [0.9, 1, 1], [1, 0.9, 1]]
    return torch.nn.functional.normalize(torch.tensor(rows), dim=-1)


def write(root: Path, **folders: list[tuple[int, int, int]]) -> Path:
    for folder, colors in folders.items():
        (root / folder).mkdir(parents=True)
        for number, color in enumerate(colors):
            Image.new("RGB", (40, 30), color).save(root / folder / f"{number}.png")
    return root


def test_accuracy_is_that_counted_by_hand(tmp_path: Path) -> None:
    """Of five images three are their folder's color, and one of the others has its own among the best five."""
    root = write(
        tmp_path,
        red=[COLORS["red"], COLORS["red"], COLORS["blue"]],  # blue's best five: blue, then three mixtures, dark red
        green=[COLORS["green"]],
        dark_red=[COLORS["red"]],  # red first, dark red second
    )
    rows = color_rows()
    order = (torch.tensor([0.0, 0.0, 1.0]) @ rows.T).argsort(descending=True).tolist()
    assert NAMES.index("red") not in order[:5] and order[0] == 2
    found = classify_images(ClassFolders.open(root, NAMES), [color_clip()], [rows], [32, 64], resize="crop", batch=2)
    assert found is not None
    for size in (32, 64):
        hits = found.hits["colors"][size]
        assert (hits.top1, hits.top5, hits.images) == (3, 4, 5)
        assert hits.scores() == {"top1": 60.0, "top5": 80.0}


def test_a_damaged_image_is_named_and_counts_nowhere(tmp_path: Path) -> None:
    root = write(tmp_path, red=[COLORS["red"]] * 2, green=[COLORS["green"]])
    (root / "green" / "broken.jpg").write_bytes(b"no image at all")
    whole = (root / "red" / "0.png").read_bytes()
    (root / "red" / "0.png").write_bytes(whole[: len(whole) // 2])
    found = classify_images(ClassFolders.open(root, NAMES), [color_clip()], [color_rows()], [32], resize="square")
    assert found is not None
    assert found.images == 2 == found.hits["colors"][32].top1
    assert {path.name for path, _ in found.unreadable} == {"broken.jpg", "0.png"}
    assert all(why for _, why in found.unreadable)


def test_square_shows_everything_and_crop_the_middle(tmp_path: Path) -> None:
    """A wide image, green in its middle half alone: the square's mean is red and green, the crop's is green."""
    (tmp_path / "green").mkdir()
    pixels = np.zeros((20, 80, 3), np.uint8)
    pixels[..., 0] = 255
    pixels[:, 20:60] = (0, 255, 0)
    Image.fromarray(pixels).save(tmp_path / "green" / "wide.png")
    folders = ClassFolders.open(tmp_path, NAMES)
    seen = []

    def embed(image: torch.Tensor) -> torch.Tensor:
        seen.append(image)
        return torch.zeros(len(image), 3)

    clip = Clip("c", None, embed, TextEncoder(lambda: None), 100.0, False, CPU)  # type: ignore[arg-type]
    for resize in ("square", "crop"):
        classify_images(folders, [clip], [color_rows()], [32], resize=resize)
    reds = [(image[0, 0] * PIXEL_STD[0] + PIXEL_MEAN[0]) for image in seen]
    assert [tuple(image.shape) for image in seen] == [(1, 3, 32, 32)] * 2
    assert reds[0].mean().item() == pytest.approx(255 / 2, abs=3) and reds[1].mean().item() == pytest.approx(0, abs=1)


def test_the_command_offers_every_way_to_resize() -> None:
    assert tuple(RESIZES) == evaluate_clip.RESIZES


def test_a_limit_takes_some_of_each_class() -> None:
    assert chosen(10, None) == list(range(10)) == chosen(10, 99)
    assert chosen(100, 4) == [0, 25, 50, 75]


@pytest.mark.parametrize("kind", ["vit", "convnext"])
def test_the_text_classifier_is_open_clips(kind: str, tmp_path: Path) -> None:
    """The same seeded weights in open_clip's own model, and its own builder of zero-shot classifiers."""
    names = ["tench", "goldfish", "great white shark", "sunglasses", "baluster / handrail"]
    if kind == "vit":
        patches = load_patch_clip(f"recipe:{tiny_vit.register(tmp_path)}")
        text, clip = patches.text, Clip.of_patches(patches, CPU)
    else:
        checkpoint = load_checkpoint("recipe:tiny")
        text, clip = checkpoint.text_tower(), Clip.of_checkpoint(checkpoint, CPU)

    class Theirs:
        @staticmethod
        def encode_text(tokens: torch.Tensor, normalize: bool) -> torch.Tensor:
            assert normalize and tokens.shape[1] == 77
            return torch.nn.functional.normalize(text(tokens), dim=-1)

    expected = open_clip.build_zero_shot_classifier(
        Theirs(), open_clip.get_tokenizer("ViT-L-14"), names, open_clip.OPENAI_IMAGENET_TEMPLATES
    )
    torch.testing.assert_close(clip.rows(names, imagenet_templates()), expected.T, rtol=1e-4, atol=1e-5)


def test_there_are_open_clips_eighty_prompts() -> None:
    ours = imagenet_templates()
    assert len(ours) == 80
    assert [template.format("cup {x}") for template in ours] == [
        template("cup {x}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES
    ]


@pytest.mark.parametrize("below", ["val", "."])
def test_imagenets_folders_go_by_wordnet_id_or_name(tmp_path: Path, below: str) -> None:
    root = write(tmp_path / below, n01440764=[(0, 0, 0)], great_white_shark=[(1, 1, 1)] * 2, n15075141=[(2, 2, 2)])
    (root / "n15075141" / "notes.txt").write_text("no image")
    (root / ".hidden").mkdir()
    found = imagenet(tmp_path)
    assert len(found) == 4 and len(found.class_names) == 1000
    names = [found.class_names[label] for label in found.labels]
    assert names == ["great white shark", "great white shark", "tench", "toilet paper"]
    assert (found.labels[2], found.labels[3]) == (0, 999)


def test_what_is_no_such_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="nowhere cannot be read: No such file"):
        imagenet(tmp_path / "nowhere")
    Image.new("RGB", (8, 8)).save(tmp_path / "ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(DatasetError, match="no folders of classes but 1 images; expected one folder for each class"):
        imagenet(tmp_path)
    (tmp_path / "n01440764").mkdir()
    with pytest.raises(DatasetError, match="hold no images"):
        imagenet(tmp_path)
    (tmp_path / "flying saucer").mkdir()
    with pytest.raises(DatasetError, match="'flying saucer' is no class.*such as n01440764 or tench"):
        imagenet(tmp_path)
    (tmp_path / "flying saucer").rename(tmp_path / "sunglasses")
    with pytest.raises(DatasetError, match="2 classes are called 'sunglasses'; name the folder n04355933 or n04356056"):
        imagenet(tmp_path)


def test_the_papers_tables_have_a_number_for_each_size() -> None:
    for dataset, table in TABLE_9.items():
        assert DATASETS[dataset].is_panoptic
        assert all(len(row) == len(TABLE_9_SIZES) for row in table.values())
    assert all(len(row) == len(TABLE_10_SIZES) for row in TABLE_10.values())
    assert table_10(color_clip("ViT-L-14"))[224] == 75.3 and table_10(color_clip()) == {}
