"""Semantic formats, each written as published: first class, ignored values and bit depth differ between them."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcclip_core.commands.train import TRAINED_ON
from fcclip_core.datasets.ade20k import ade20k_150, ade20k_847
from fcclip_core.datasets.annotation_files import read_labels
from fcclip_core.datasets.catalog import DATASETS
from fcclip_core.datasets.cityscapes import cityscapes_semantic
from fcclip_core.datasets.mapillary import mapillary_semantic
from fcclip_core.datasets.pascal import pascal_context_59, pascal_context_459, pascal_voc_20, pascal_voc_21
from fcclip_core.datasets.records import IGNORE, SemanticSample, class_segments
from fcclip_core.errors import DatasetError
from fcclip_core.vocabulary.classes import Vocabulary

CITY = "munster_000001_000019"
# Reader, image file, annotation file, its number type, stored values, classes that they stand for.
FORMATS = {
    "ade20k_150": (
        ade20k_150,
        "images/validation/ADE_val_00000001.jpg",
        "annotations/validation/ADE_val_00000001.png",
        np.uint8,
        [0, 1, 2, 150],
        [IGNORE, 0, 1, 149],
    ),
    "ade20k_847": (
        ade20k_847,
        "images_detectron2/validation/ADE_val_00000001.jpg",
        "annotations_detectron2/validation/ADE_val_00000001.tif",
        np.uint16,
        [0, 255, 846, 65535],
        [0, 255, 846, IGNORE],
    ),
    "cityscapes_semantic": (
        cityscapes_semantic,
        f"leftImg8bit/val/munster/{CITY}_leftImg8bit.png",
        f"gtFine/val/munster/{CITY}_gtFine_labelTrainIds.png",
        np.uint8,
        [0, 11, 18, 255],
        [0, 11, 18, IGNORE],
    ),
    "mapillary_vistas_semantic": (
        mapillary_semantic,
        "validation/images/abc.jpg",
        "validation/labels/abc.png",
        np.uint8,
        [0, 1, 64, 65],
        [0, 1, 64, IGNORE],
    ),
    "pascal_context_59": (
        pascal_context_59,
        "images/validation/2008_000002.jpg",
        "annotations_ctx59/validation/2008_000002.png",
        np.uint8,
        [0, 1, 58, 255],
        [0, 1, 58, IGNORE],
    ),
    "pascal_context_459": (
        pascal_context_459,
        "images/validation/2008_000002.jpg",
        "annotations_ctx459/validation/2008_000002.tif",
        np.uint16,
        [0, 255, 458, 65535],
        [0, 255, 458, IGNORE],
    ),
    "pascal_voc_20": (
        pascal_voc_20,
        "JPEGImages/2007_000033.jpg",
        "SegmentationClass/2007_000033.png",
        np.uint8,
        [0, 1, 20, 255],
        [IGNORE, 0, 19, IGNORE],
    ),
    "pascal_voc_21": (
        pascal_voc_21,
        "JPEGImages/2007_000033.jpg",
        "SegmentationClass/2007_000033.png",
        np.uint8,
        [0, 1, 20, 255],
        [0, 1, 20, IGNORE],
    ),
}
every_format = pytest.mark.parametrize("name", FORMATS)


def write(root: Path, name: str, values: list[int] | None = None) -> None:
    _, image, annotation, kind, own_values, _ = FORMATS[name]
    labels = np.tile(np.array(own_values if values is None else values, kind), (3, 1))
    for path in (root / image, root / annotation):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((3, 4, 3), 120, np.uint8)).save(root / image)
    picture = Image.fromarray(labels)
    if name.startswith(("pascal_voc", "mapillary")):  # published with a palette
        picture.putpalette([3 * index % 256 for index in range(768)])
        assert picture.mode == "P"
    picture.save(root / annotation)
    if name.startswith("pascal_voc"):
        listing = root / "ImageSets/Segmentation/val.txt"
        listing.parent.mkdir(parents=True)
        listing.write_text("2007_000033\n")


@every_format
def test_values_become_classes(tmp_path: Path, name: str) -> None:
    reader, _, _, _, _, classes = FORMATS[name]
    write(tmp_path, name)
    dataset = DATASETS[name].open(tmp_path, DATASETS[name].split)
    assert [len(dataset), len(dataset.classes)] == [len(reader(tmp_path)), len(reader(tmp_path).classes)]
    sample = dataset[0]
    assert len(dataset) == 1 and not DATASETS[name].is_panoptic and dataset.name == name
    assert sample.image.shape == (3, 4, 3)
    assert sample.labels.dtype == np.int32
    assert sample.class_map().tolist() == [classes] * 3


@every_format
def test_unknown_value_names_file_and_value(tmp_path: Path, name: str) -> None:
    write(tmp_path, name, [0, 0, 0, 200 if FORMATS[name][3] == np.uint8 else 60000])
    reader, _, annotation, *_ = FORMATS[name]
    with pytest.raises(DatasetError, match="unknown class number (200|60000)") as caught:
        reader(tmp_path)[0]
    assert annotation in str(caught.value)


@every_format
def test_missing_image_is_named_when_the_dataset_is_opened(tmp_path: Path, name: str) -> None:
    write(tmp_path, name)
    reader, image, *_ = FORMATS[name]
    (tmp_path / image).unlink()
    with pytest.raises(DatasetError, match="is missing") as caught:
        reader(tmp_path)
    assert Path(image).stem in str(caught.value)


@every_format
def test_damaged_annotation_is_named(tmp_path: Path, name: str) -> None:
    write(tmp_path, name)
    reader, _, annotation, *_ = FORMATS[name]
    (tmp_path / annotation).write_bytes((tmp_path / annotation).read_bytes()[:40])
    with pytest.raises(DatasetError, match="damaged") as caught:
        reader(tmp_path)[0]
    assert annotation in str(caught.value)


@every_format
def test_missing_or_empty_folder_is_named(tmp_path: Path, name: str) -> None:
    reader, image, annotation, *_ = FORMATS[name]
    with pytest.raises(DatasetError, match="cannot (list|read)"):
        reader(tmp_path)
    write(tmp_path, name)
    (tmp_path / annotation).unlink()
    with pytest.raises(DatasetError, match="empty|missing|has no"):
        reader(tmp_path)


def test_voc_list_without_names_is_an_empty_dataset(tmp_path: Path) -> None:
    write(tmp_path, "pascal_voc_20")
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("\n")
    with pytest.raises(DatasetError, match="lists no image"):
        pascal_voc_20(tmp_path)


def test_sizes_must_agree(tmp_path: Path) -> None:
    write(tmp_path, "pascal_context_59")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / FORMATS["pascal_context_59"][2])
    with pytest.raises(DatasetError, match="9 x 9 .* 4 x 3"):
        pascal_context_59(tmp_path)[0]


def test_color_annotation_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "pascal_context_59")
    Image.fromarray(np.zeros((3, 4, 3), np.uint8)).save(tmp_path / FORMATS["pascal_context_59"][2])
    with pytest.raises(DatasetError, match="color image"):
        pascal_context_59(tmp_path)[0]


@every_format
def test_bundled_vocabulary_has_the_datasets_classes(tmp_path: Path, name: str) -> None:
    write(tmp_path, name)
    bundled = DATASETS[name].vocabulary
    if bundled is not None:
        assert len(Vocabulary.load(bundled)) == len(FORMATS[name][0](tmp_path).classes)


def test_labels_without_some_of_their_rows_are_refused(tmp_path: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    path = tmp_path / "labels.png"
    for rows in (6, 4):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", 5, 6, 8, 0, 0, 0, 0))
        data = chunk(b"IDAT", zlib.compress(bytes([0, 7, 7, 7, 7, 7]) * rows))
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b""))
        if rows == 6:
            assert (read_labels(path) == np.full((6, 5), 7)).all()
        else:
            with pytest.raises(DatasetError, match="labels.png is damaged or not an image: rows are missing"):
                read_labels(path)


@every_format
def test_each_class_region_is_a_target_of_training(tmp_path: Path, name: str) -> None:
    write(tmp_path, name)
    classes = FORMATS[name][5]
    sample = class_segments(DATASETS[name].open(tmp_path, DATASETS[name].split)[0])
    present = [label for label in classes if label != IGNORE]
    assert [(segment.id, segment.class_index) for segment in sample.segments] == list(enumerate(present, 1))
    assert (
        sample.segment_map.tolist() == [[0 if label == IGNORE else present.index(label) + 1 for label in classes]] * 3
    )
    assert name in TRAINED_ON


def test_a_class_in_two_places_is_one_target() -> None:
    labels = np.array([[7, 2, IGNORE, 7]], np.int32)
    sample = class_segments(SemanticSample("x", np.zeros((1, 4, 3), np.uint8), labels))
    assert sample.segment_map.tolist() == [[2, 1, 0, 2]]
    assert [segment.class_index for segment in sample.segments] == [2, 7]
