"""The COCO panoptic format: a JSON file, a folder of PNGs with segment ids as colors, and a folder of images.

COCO, ADE20K, Cityscapes, Mapillary Vistas and the simulated world use it, with different folder layouts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fcclip_core.datasets.annotation_files import names_in, read_json, read_labels, read_photograph, require_same_size
from fcclip_core.datasets.records import ClassList, PanopticSample, TruthSegment
from fcclip_core.errors import DatasetError

ImagePath = Callable[[str], str]
"""Image id -> path of the image below the image folder."""


@dataclass(frozen=True)
class SegmentRecord:
    """A segment in the JSON file.

    Attributes:
        id: Its color in the PNG: red + 256 green + 65536 blue.
        class_index: Index of its category in the JSON's list.
        is_crowd: Whether it is a group of objects.
    """

    id: int
    class_index: int
    is_crowd: bool


@dataclass(frozen=True)
class ImageRecord:
    """One annotated image: `image` and `annotation` are paths below their folders."""

    name: str
    image: str
    annotation: str
    segments: tuple[SegmentRecord, ...]


class CocoPanoptic:
    """A dataset in the COCO panoptic format.

    The whole JSON is validated when the dataset is opened, so an invalid record is reported before hours of work.
    Images and PNGs are read one by one.
    """

    def __init__(
        self, name: str, annotations: Path, png_folder: Path, image_folder: Path, image_path: ImagePath | None = None
    ) -> None:
        """Opens the dataset.

        Args:
            name: The dataset's name on the command line.
            annotations: The JSON file.
            png_folder: Folder of the PNGs.
            image_folder: Folder of the images.
            image_path: Returns an image's path below `image_folder`, for datasets whose JSON does not contain it; None:
                the `file_name` in the JSON's `images`.

        Raises:
            DatasetError: A file is missing, or the JSON is inconsistent; names the file and the record.
        """
        self.name = name
        self._annotations, self._png_folder, self._image_folder = annotations, png_folder, image_folder
        document = read_json(annotations)
        try:
            index_of_category, self.classes = _categories(document)
            self._records = _records(document, index_of_category, image_path)
        except DatasetError as error:
            raise DatasetError(f"{annotations}: {error}") from error
        if not self._records:
            raise DatasetError(f"{annotations} has no annotated image; the dataset is empty")
        self._require_files()

    def __len__(self) -> int:
        """Number of annotated images."""
        return len(self._records)

    def class_indices(self, index: int) -> tuple[int, ...]:
        """Classes of the segments of the image at `index`, without crowds and without reading the image."""
        return tuple(segment.class_index for segment in self._records[index].segments if not segment.is_crowd)

    def __getitem__(self, index: int) -> PanopticSample:
        """Reads the image at `index` and its ground truth; segments without pixels are dropped.

        Raises:
            DatasetError: A file is missing or damaged, sizes differ, or the PNG has an id that is not in the JSON.
        """
        record = self._records[index]
        image_path, png_path = self._image_folder / record.image, self._png_folder / record.annotation
        image, colors = read_photograph(image_path), read_labels(png_path)
        require_same_size(image, image_path, colors, png_path)
        if colors.ndim != 3 or colors.dtype != np.uint8:
            raise DatasetError(f"{png_path} is not a color image; panoptic PNGs encode segment ids as RGB colors")
        segment_map, segments = self._segments(record, colors, png_path)
        return PanopticSample(record.name, image, segment_map, segments)

    def _segments(
        self, record: ImageRecord, colors: np.ndarray, png_path: Path
    ) -> tuple[np.ndarray, tuple[TruthSegment, ...]]:
        """Numbers the segments with pixels 1, 2, ..., in the order of the JSON."""
        channels = colors[..., :3].astype(np.int32)
        ids = channels[..., 0] + 256 * channels[..., 1] + 65536 * channels[..., 2]
        present, inverse = np.unique(ids, return_inverse=True)
        unknown = set(present.tolist()) - {0, *(segment.id for segment in record.segments)}
        if unknown:
            raise DatasetError(
                f"{png_path} has segment id {min(unknown)}, which is missing in record {record.name!r} of "
                f"{self._annotations}"
            )
        found = set(present.tolist())
        kept = [segment for segment in record.segments if segment.id in found]
        number_of = {segment.id: number for number, segment in enumerate(kept, 1)}
        table = np.array([number_of.get(value, 0) for value in present.tolist()], np.int32)
        return table[inverse].reshape(ids.shape), tuple(
            TruthSegment(number, segment.class_index, segment.is_crowd) for number, segment in enumerate(kept, 1)
        )

    def _require_files(self) -> None:
        """Checks that all files exist, by listing folders, which is faster than checking single files."""
        for folder, paths, what in (
            (self._png_folder, [record.annotation for record in self._records], "annotation"),
            (self._image_folder, [record.image for record in self._records], "image"),
        ):
            present = {
                str(parent / name)
                for parent in {Path(path).parent for path in paths}
                for name in names_in(folder / parent)
            }
            missing = [path for path in paths if path not in present]
            if missing:
                raise DatasetError(
                    f"the {what} {folder / missing[0]} is missing"
                    + (f", and {len(missing) - 1} more" if len(missing) > 1 else "")
                    + f"; {self._annotations} lists {'it' if len(missing) == 1 else 'them'}"
                )


def coco_panoptic(root: Path, split: str = "val2017") -> CocoPanoptic:
    """COCO's own layout.

    `annotations/panoptic_SPLIT.json`, `panoptic_SPLIT/*.png`, `SPLIT/*.jpg`; the PNGs may also be in
    `annotations/panoptic_SPLIT`, where COCO's archive unpacks them.

    Raises:
        DatasetError: See `CocoPanoptic`.
    """
    png_folder = root / f"panoptic_{split}"
    if not png_folder.is_dir():
        png_folder = root / "annotations" / f"panoptic_{split}"
    return CocoPanoptic("coco", root / "annotations" / f"panoptic_{split}.json", png_folder, root / split)


def panoptic_folder(root: Path, split: str = "") -> CocoPanoptic:
    """The layout of `fcclip world render`, also the simplest one for a user's own dataset.

    `panoptic.json`, `panoptic/*.png`, `images/*`; a split is a subfolder with these.

    Raises:
        DatasetError: See `CocoPanoptic`.
    """
    root = root / split
    return CocoPanoptic("folder", root / "panoptic.json", root / "panoptic", root / "images")


def _categories(document: Any) -> tuple[dict[int, int], ClassList]:
    """Category id -> index, and the classes."""
    entries = _field(document, "categories", list, "the file")
    if not entries:
        raise DatasetError("'categories' is empty; expected one entry per class")
    index_of: dict[int, int] = {}
    for position, entry in enumerate(entries):
        number = _field(entry, "id", int, f"category {position + 1}")
        if number in index_of:
            raise DatasetError(f"two categories have the id {number}")
        index_of[number] = position
    names = tuple(str(_field(entry, "name", str, f"category {entry['id']}")) for entry in entries)
    things = tuple(_flag(entry, "isthing", f"category {entry['id']}") for entry in entries)
    return index_of, ClassList(names, things, tuple(index_of))


def _records(document: Any, index_of: Mapping[int, int], image_path: ImagePath | None) -> tuple[ImageRecord, ...]:
    file_names: dict[Any, str] = {}
    for position, entry in enumerate(_field(document, "images", list, "the file"), 1):
        where = f"image {position}"
        file_names[_field(entry, "id", (int, str), where)] = _field(entry, "file_name", str, where)
    records = []
    for position, entry in enumerate(_field(document, "annotations", list, "the file"), 1):
        image_id = _field(entry, "image_id", (int, str), f"annotation {position}")
        where = f"the annotation of image {image_id!r}"
        if image_id not in file_names:
            raise DatasetError(f"{where} refers to an image that 'images' does not list")
        image = file_names[image_id] if image_path is None else image_path(str(image_id))
        segments = _segment_records(_field(entry, "segments_info", list, where), index_of, where)
        records.append(ImageRecord(str(image_id), image, _field(entry, "file_name", str, where), segments))
    return tuple(records)


def _segment_records(entries: Sequence[Any], index_of: Mapping[int, int], where: str) -> tuple[SegmentRecord, ...]:
    segments: dict[int, SegmentRecord] = {}
    for entry in entries:
        number = _field(entry, "id", int, f"a segment in {where}")
        category = _field(entry, "category_id", int, f"segment {number} in {where}")
        if not 0 < number < 2**24 or number in segments:
            raise DatasetError(f"segment id {number} in {where} is repeated or outside 1..{2**24 - 1}")
        if category not in index_of:
            raise DatasetError(f"segment {number} in {where} has the unknown category id {category}")
        is_crowd = _flag(entry, "iscrowd", f"segment {number} in {where}") if "iscrowd" in entry else False
        segments[number] = SegmentRecord(number, index_of[category], is_crowd)
    return tuple(segments.values())


def _field(entry: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """A required field of a JSON object, checked by type."""
    if not isinstance(entry, dict) or key not in entry:
        raise DatasetError(f"{where} has no {key!r}")
    if not isinstance(entry[key], kind):
        raise DatasetError(f"{where}: {key!r} is {str(entry[key])[:40]!r}; expected {_kind_name(kind)}")
    return entry[key]


def _flag(entry: Any, key: str, where: str) -> bool:
    """A field that is 0 or 1; a string "0" would be truthy."""
    value = _field(entry, key, object, where)
    if not isinstance(value, int) or value not in (0, 1):
        raise DatasetError(f"{where}: {key!r} is {str(value)[:40]!r} of type {type(value).__name__}; expected 0 or 1")
    return bool(value)


def _kind_name(kind: type | tuple[type, ...]) -> str:
    names = {list: "a list", int: "an integer", str: "a string"}
    return " or ".join(names[item] for item in (kind if isinstance(kind, tuple) else (kind,)))
