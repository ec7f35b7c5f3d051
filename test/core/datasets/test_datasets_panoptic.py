"""The COCO panoptic format in the layouts of COCO, ADE20K, Cityscapes and Mapillary, each written as published."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcclip_core.datasets.ade20k import ade20k_panoptic
from fcclip_core.datasets.catalog import DATASETS
from fcclip_core.datasets.cityscapes import cityscapes_panoptic
from fcclip_core.datasets.coco_panoptic import CocoPanoptic, coco_panoptic, panoptic_folder
from fcclip_core.datasets.mapillary import mapillary_panoptic
from fcclip_core.datasets.records import IGNORE, TruthSegment
from fcclip_core.errors import DatasetError

HEIGHT, WIDTH = 4, 6
# Ids that need the green and the blue channel, and category ids with gaps, as COCO has them.
CATEGORIES = [
    {"id": 1, "name": "person", "isthing": 1},
    {"id": 44, "name": "bottle", "isthing": 1},
    {"id": 184, "name": "tree-merged", "isthing": 0},
]
SEGMENTS = [
    {"id": 7, "category_id": 184, "iscrowd": 0, "area": 8, "bbox": [0, 0, 2, 4]},
    {"id": 3_000_001, "category_id": 1, "iscrowd": 0, "area": 8, "bbox": [2, 0, 2, 4]},
    {"id": 300, "category_id": 44, "iscrowd": 1, "area": 4, "bbox": [4, 0, 1, 4]},
]


def colors_of(columns: list[int]) -> np.ndarray:
    """One segment id a column."""
    ids = np.tile(np.array(columns), (HEIGHT, 1))
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)


COLORS = colors_of([7, 7, 3_000_001, 3_000_001, 300, 0])


def save(path: Path, pixels: np.ndarray, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def photograph() -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), (200, 100, 50), np.uint8)


def document(image_id: int | str, image: str, annotation: str, **changes: object) -> dict:
    return {
        "images": [{"id": image_id, "file_name": image, "height": HEIGHT, "width": WIDTH}],
        "annotations": [{"image_id": image_id, "file_name": annotation, "segments_info": SEGMENTS}],
        "categories": CATEGORIES,
    } | changes


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_coco(root: Path) -> None:
    write_json(root / "annotations/panoptic_val2017.json", document(139, "000000000139.jpg", "000000000139.png"))
    save(root / "panoptic_val2017/000000000139.png", COLORS)
    save(root / "val2017/000000000139.jpg", photograph())


def write_ade20k(root: Path) -> None:
    name = "ADE_val_00000001"
    write_json(root / "ade20k_panoptic_val.json", document(name, f"{name}.jpg", f"{name}.png"))
    save(root / f"ade20k_panoptic_val/{name}.png", COLORS)
    save(root / f"images/validation/{name}.jpg", photograph())


def write_cityscapes(root: Path) -> None:
    name = "frankfurt_000000_000294"
    # As createPanopticImgs.py writes it: an image name that no file has.
    record = document(name, f"{name}_gtFine_leftImg8bit.png", f"{name}_gtFine_panoptic.png")
    write_json(root / "gtFine/cityscapes_panoptic_val.json", record)
    save(root / f"gtFine/cityscapes_panoptic_val/{name}_gtFine_panoptic.png", COLORS)
    save(root / f"leftImg8bit/val/frankfurt/{name}_leftImg8bit.png", photograph())


def write_mapillary(root: Path) -> None:
    record = document("_1Gn_xkw7sa_i9GU4mkxxQ", "_1Gn_xkw7sa_i9GU4mkxxQ.jpg", "_1Gn_xkw7sa_i9GU4mkxxQ.png")
    write_json(root / "validation/panoptic/panoptic_2018.json", record)
    save(root / "validation/panoptic/_1Gn_xkw7sa_i9GU4mkxxQ.png", COLORS)
    save(root / "validation/images/_1Gn_xkw7sa_i9GU4mkxxQ.jpg", photograph())


def write_folder(root: Path) -> None:
    write_json(root / "panoptic.json", document(1, "a photo.JPG", "a photo.png"))
    save(root / "panoptic/a photo.png", COLORS)
    save(root / "images/a photo.JPG", photograph())


@pytest.mark.parametrize(
    ("write", "open_dataset"),
    [
        (write_folder, panoptic_folder),
        (write_coco, coco_panoptic),
        (write_ade20k, ade20k_panoptic),
        (write_cityscapes, cityscapes_panoptic),
        (write_mapillary, mapillary_panoptic),
    ],
)
def test_each_layout_gives_image_segments_and_classes(tmp_path: Path, write: object, open_dataset: object) -> None:
    write(tmp_path)
    dataset = open_dataset(tmp_path)
    assert len(dataset) == 1
    entry = DATASETS[dataset.name]
    assert entry.is_panoptic and len(entry.open(tmp_path, entry.split)) == 1
    assert dataset.classes.names == ("person", "bottle", "tree-merged")
    assert dataset.classes.things == (True, True, False)
    assert dataset.class_indices(0) == (2, 0), "crowds are left out"

    sample = dataset[0]
    assert sample.image.shape == (HEIGHT, WIDTH, 3) and sample.image.dtype == np.uint8
    assert abs(sample.image.astype(int) - (200, 100, 50)).max() < 8, "RGB order"
    assert sample.segment_map.dtype == np.int32
    assert sample.segment_map.tolist() == [[1, 1, 2, 2, 3, 0]] * HEIGHT
    assert sample.segments == (TruthSegment(1, 2), TruthSegment(2, 0), TruthSegment(3, 1, is_crowd=True))
    assert sample.class_map().tolist() == [[2, 2, 0, 0, 1, IGNORE]] * HEIGHT


def test_pngs_may_lie_where_cocos_archive_unpacks_them(tmp_path: Path) -> None:
    write_coco(tmp_path)
    (tmp_path / "panoptic_val2017").rename(tmp_path / "annotations/panoptic_val2017")
    assert len(coco_panoptic(tmp_path)[0].segments) == 3


def test_segments_without_pixels_are_left_out(tmp_path: Path) -> None:
    write_coco(tmp_path)
    save(tmp_path / "panoptic_val2017/000000000139.png", colors_of([0, 0, 0, 300, 300, 300]))
    sample = coco_panoptic(tmp_path)[0]
    assert sample.segments == (TruthSegment(1, 1, is_crowd=True),)
    assert sample.segment_map.tolist() == [[0, 0, 0, 1, 1, 1]] * HEIGHT


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    write_coco(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "val2017/000000000139.jpg", photograph().transpose(1, 0, 2), exif=exif)
    assert coco_panoptic(tmp_path)[0].image.shape == (HEIGHT, WIDTH, 3)


JSON = "annotations/panoptic_val2017.json"
PNG = "panoptic_val2017/000000000139.png"
JPEG = "val2017/000000000139.jpg"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change(root: Path, **changes: object) -> None:
    write_json(root / JSON, document(139, "000000000139.jpg", "000000000139.png", **changes))


def with_segment(**changes: object) -> dict:
    record = {"image_id": 139, "file_name": "000000000139.png", "segments_info": [SEGMENTS[0] | changes]}
    return {"annotations": [record]}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda root: (root / JSON).unlink(), [JSON, "No such file"]),
        (lambda root: truncate(root / JSON), [JSON, "not valid JSON"]),
        (lambda root: write_json(root / JSON, [1]), [JSON, "the file has no 'categories'"]),
        (lambda root: change(root, annotations=[]), [JSON, "empty"]),
        (lambda root: change(root, categories=[]), [JSON, "'categories' is empty"]),
        (lambda root: change(root, categories=[*CATEGORIES, CATEGORIES[0]]), ["two categories have the id 1"]),
        (lambda root: change(root, categories=[{"id": 1, "name": "a"}]), ["category 1 has no 'isthing'"]),
        (lambda root: change(root, images=[]), [JSON, "image 139", "does not list"]),
        (lambda root: change(root, **with_segment(category_id=999)), [JSON, "image 139", "unknown category id 999"]),
        (lambda root: change(root, **with_segment(iscrowd="0")), ["segment 7", "'iscrowd' is '0' of type str"]),
        (lambda root: change(root, **with_segment(iscrowd=2)), ["segment 7", "'iscrowd' is '2'", "expected 0 or 1"]),
        (lambda root: change(root, **with_segment(iscrowd=None)), ["segment 7", "'iscrowd' is 'None'"]),
        (
            lambda root: change(root, categories=[{"id": 1, "name": "a", "isthing": "0"}]),
            ["category 1", "'isthing' is '0' of type str"],
        ),
        (
            lambda root: change(root, **with_segment(category_id="1")),
            ["segment 7", "'category_id' is '1'", "an integer"],
        ),
        (lambda root: change(root, **with_segment(id=0)), ["segment id 0", "image 139"]),
        (lambda root: (root / PNG).unlink(), ["annotation", PNG, "is missing", JSON]),
        (lambda root: (root / JPEG).unlink(), ["image", JPEG, "is missing", JSON]),
        (lambda root: shutil.rmtree(root / "val2017"), ["cannot list the folder", "val2017"]),
    ],
)
def test_bad_annotations_are_named_when_the_dataset_is_opened(tmp_path: Path, spoil: object, words: list[str]) -> None:
    write_coco(tmp_path)
    spoil(tmp_path)
    with pytest.raises(DatasetError) as caught:
        coco_panoptic(tmp_path)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda root: truncate(root / PNG), [PNG, "damaged"]),
        (lambda root: truncate(root / JPEG), [JPEG, "cannot read the image"]),
        (lambda root: save(root / PNG, COLORS[:2]), [PNG, "6 x 2", JPEG, "6 x 4"]),
        (lambda root: save(root / PNG, COLORS[..., 0]), [PNG, "not a color image"]),
        (lambda root: save(root / PNG, colors_of([7, 8, 8, 8, 0, 0])), [PNG, "segment id 8", "139", JSON]),
    ],
)
def test_bad_pixels_are_named_when_the_sample_is_read(tmp_path: Path, spoil: object, words: list[str]) -> None:
    write_coco(tmp_path)
    spoil(tmp_path)
    dataset = coco_panoptic(tmp_path)
    with pytest.raises(DatasetError) as caught:
        dataset[0]
    for word in words:
        assert word in str(caught.value)


def test_unknown_ade20k_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="training or validation"):
        ade20k_panoptic(tmp_path, "val")


def test_images_are_read_only_when_asked_for(tmp_path: Path) -> None:
    write_coco(tmp_path)
    truncate(tmp_path / JPEG)
    assert isinstance(coco_panoptic(tmp_path), CocoPanoptic)
