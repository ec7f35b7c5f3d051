"""Reads the files of a dataset; every error names the file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from fcclip_core.errors import DatasetError, ImageError
from fcclip_core.images.image_files import read_image
from fcclip_core.images.picture_files import LARGEST, open_picture


def read_json(path: Path) -> Any:
    """Parses a JSON file.

    Raises:
        DatasetError: It is missing, unreadable or not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise DatasetError(f"cannot read the annotations {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is not valid JSON ({error}); download or write it again") from error


def read_labels(path: Path) -> np.ndarray:
    """Reads an annotation image without conversion: palette indices stay indices.

    Returns:
        uint8, uint16 or int32 `(H, W)`, or uint8 `(H, W, 3)` for color images.

    Raises:
        DatasetError: It is missing, damaged or not an image.
    """
    try:
        image, _ = open_picture(path, LARGEST)
        with image:
            labels = np.array(image)
    except FileNotFoundError as error:
        raise DatasetError(f"the annotation {path} is missing") from error
    except (OSError, SyntaxError, ValueError, MemoryError) as error:
        raise DatasetError(f"the annotation {path} is damaged or not an image: {error}") from error
    return labels.astype(np.uint8) if labels.dtype == bool else labels


def read_photograph(path: Path) -> np.ndarray:
    """Reads an image with its EXIF orientation applied: uint8 RGB `(H, W, 3)`.

    Raises:
        DatasetError: It is missing, damaged or not an image.
    """
    try:
        return read_image(path)
    except ImageError as error:
        raise DatasetError(f"cannot read the image {path}: {error}") from error


def require_same_size(image: np.ndarray, image_path: Path, labels: np.ndarray, labels_path: Path) -> None:
    """Checks that an annotation has the size of its image.

    Raises:
        DatasetError: The sizes differ.
    """
    if image.shape[:2] != labels.shape[:2]:
        (height, width), (label_height, label_width) = image.shape[:2], labels.shape[:2]
        raise DatasetError(
            f"{labels_path} is {label_width} x {label_height} pixels, but its image {image_path} is {width} x {height} "
            "(with its EXIF orientation applied)"
        )


def names_in(folder: Path) -> list[str]:
    """Sorted names of the files in a folder.

    Raises:
        DatasetError: The folder is missing or cannot be listed.
    """
    try:
        return sorted(entry.name for entry in os.scandir(folder) if not entry.name.startswith("."))
    except OSError as error:
        raise DatasetError(f"cannot list the folder {folder}: {error.strerror or error}") from error
