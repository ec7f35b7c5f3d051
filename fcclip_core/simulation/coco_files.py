"""Writes frames of the world as a COCO panoptic folder with depth and camera poses; see docs/reference/world.md."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fcclip_core.files.atomic_write import atomic_write
from fcclip_core.images.image_files import write_image
from fcclip_core.simulation import names
from fcclip_core.simulation.frames import Frame

ANNOTATIONS = "panoptic.json"
FOLDERS = ("images", "panoptic", "depth")
DEPTH_LIMIT = 65.535
"""Largest depth in meters that 16-bit millimeters can store; farther points and the sky are 0 in depth PNGs."""


def make_folders(out: Path) -> None:
    """Creates the folders that `save_frame` writes to."""
    for folder in FOLDERS:
        (out / folder).mkdir(parents=True, exist_ok=True)


def save_frame(out: Path, stem: str, number: int, frame: Frame) -> dict[str, Any]:
    """Writes a frame's three images.

    Args:
        out: The dataset folder, with subfolders.
        stem: File name without suffix.
        number: The image's id in the annotations, from 1.
        frame: The frame.

    Returns:
        The frame's records for `save_annotations`.
    """
    millimeters = np.where(frame.depth < DEPTH_LIMIT, frame.depth * 1000 + 0.5, 0).astype(np.uint16)
    for folder, pixels in zip(FOLDERS, (frame.image, _as_rgb(frame.segment_map), millimeters), strict=True):
        write_image(out / folder / f"{stem}.png", pixels, compress_level=3)
    return _record(number, stem, frame)


def save_annotations(out: Path, records: Sequence[dict[str, Any]], description: str) -> None:
    """Writes panoptic.json.

    Args:
        out: The dataset folder.
        records: The results of `save_frame` for all frames.
        description: Description of the dataset.
    """
    vocabulary = names.world_vocabulary()
    document = {
        "info": {"description": description},
        "images": [record["image"] for record in records],
        "annotations": [record["annotation"] for record in records],
        "categories": [
            {"id": number, "name": item.name, "isthing": int(item.is_thing), "supercategory": ""}
            for number, item in enumerate(vocabulary.classes, 1)
        ],
    }
    with atomic_write(out / ANNOTATIONS) as part:
        part.write_text(json.dumps(document))


def _as_rgb(segment_map: np.ndarray) -> np.ndarray:
    """COCO's panoptic PNG: id = r + 256 g + 65536 b."""
    return np.stack([segment_map >> shift & 255 for shift in (0, 8, 16)], -1).astype(np.uint8)


def _record(number: int, stem: str, frame: Frame) -> dict[str, Any]:
    category = {name: index for index, name in enumerate(names.class_names("all"), 1)}
    height, width = frame.segment_map.shape
    image = {
        "id": number,
        "file_name": f"{stem}.png",
        "width": width,
        "height": height,
        "depth_file_name": f"{stem}.png",
        "intrinsics": frame.intrinsics.tolist(),
        "pose": frame.pose.tolist(),
    }
    segments = []
    for segment in frame.segments:
        rows, columns = np.nonzero(frame.segment_map == segment.id)
        x, y = int(columns.min()), int(rows.min())
        box = [x, y, int(columns.max()) - x + 1, int(rows.max()) - y + 1]
        record = {"id": segment.id, "category_id": category[segment.name], "area": len(rows), "bbox": box, "iscrowd": 0}
        segments.append(record)
    annotation = {"image_id": number, "file_name": f"{stem}.png", "segments_info": segments}
    return {"image": image, "annotation": annotation}
