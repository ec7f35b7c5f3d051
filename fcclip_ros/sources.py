"""Image sources: folders, videos, webcams and bags -> RGB arrays."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from fcclip_core.errors import ImageError
from fcclip_core.files.bag_paths import is_bag
from fcclip_core.files.paths import expanded
from fcclip_core.images.encoded_images import check_size
from fcclip_core.images.image_files import read_photograph
from fcclip_core.images.image_limits import MAX_PIXELS
from fcclip_core.images.video_files import plainly_named
from fcclip_ros.bags.bag_segmentation import BagImages

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")

_CHOICE = "a folder of images, an image, a video, a bag or the number of a webcam"
_MOTION_PERIOD = 120
"""Period of the simulated camera motion in frames."""


class Source(Protocol):
    """A sequence of images that can be iterated repeatedly."""

    @property
    def description(self) -> str:
        """Human-readable description."""
        ...

    def frames(self) -> Iterator[np.ndarray | ImageError]:
        """Iterates over the images: uint8 RGB `(H, W, 3)`, or the error for an image that cannot be read.

        Raises:
            ImageError: The source as a whole cannot be read.
        """
        ...


def open_source(text: str, bag_topic: str = "") -> Source:
    """Opens the source that a text names.

    Args:
        text: A folder of images, an image, a video, a ROS 2 bag (folder, .mcap or .db3), or the number of a webcam.
        bag_topic: Topic to read from a bag; empty for its only image topic.

    Raises:
        ImageError: There is no such source.
    """
    if not text:
        raise ImageError(f"the parameter source is empty; set it to {_CHOICE}")
    path = expanded(text, ImageError)
    if text.isdecimal() and not path.exists():
        return Webcam(int(text))
    if not path.exists():
        raise ImageError(f"{path} does not exist; expected {_CHOICE}")
    if is_bag(path):
        return Bag(path, bag_topic)
    if path.is_dir():
        return Photos(_photos_in(path), str(path))
    if path.suffix.lower() in PHOTO_SUFFIXES:
        return Photos((path,), str(path))
    return Video(path)


@dataclass(frozen=True)
class Photos:
    """Image files, rotated according to their EXIF data."""

    paths: tuple[Path, ...]
    name: str

    @property
    def description(self) -> str:
        """The folder and the number of images."""
        return f"{self.name} ({len(self.paths)} images)"

    def frames(self) -> Iterator[np.ndarray | ImageError]:
        """See `Source.frames`."""
        for path in self.paths:
            try:
                yield read_photograph(path).pixels
            except ImageError as error:
                yield ImageError(f"{path} is not a readable image: {error}")


@dataclass(frozen=True)
class Video:
    """A video file."""

    path: Path

    @property
    def description(self) -> str:
        """The file."""
        return str(self.path)

    def frames(self) -> Iterator[np.ndarray | ImageError]:
        """See `Source.frames`."""
        with plainly_named(self.path) as name:
            yield from _captured(cv2.VideoCapture(name), f"{self.path} cannot be read; expected {_CHOICE}")


@dataclass(frozen=True)
class Webcam:
    """A webcam, by its device number."""

    number: int

    @property
    def description(self) -> str:
        """Its number."""
        return f"webcam {self.number}"

    def frames(self) -> Iterator[np.ndarray | ImageError]:
        """See `Source.frames`."""
        error = f"webcam {self.number} delivers no image; check that it is connected and not in use"
        yield from _captured(cv2.VideoCapture(self.number), error)


@dataclass(frozen=True)
class Bag:
    """The images of a topic of a ROS 2 bag, in the order of recording."""

    path: Path
    topic: str

    @property
    def description(self) -> str:
        """The bag and the topic."""
        return f"{self.path}{f', topic {self.topic}' if self.topic else ''}"

    def frames(self) -> Iterator[np.ndarray | ImageError]:
        """See `Source.frames`."""
        images, reported = BagImages(self.path, self.topic), 0
        for frame in images.frames():
            yield from map(ImageError, images.left_out[reported:])
            reported = len(images.left_out)
            yield frame if isinstance(frame, ImageError) else frame.image
        yield from map(ImageError, images.left_out[reported:])


def fit(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Scales an image to cover a frame and crops it symmetrically.

    Args:
        image: uint8 RGB `(H, W, 3)`.
        width: Width of the frame in pixels.
        height: Height of the frame in pixels.

    Returns:
        uint8 RGB `(height, width, 3)`.
    """
    if image.shape[:2] == (height, width):
        return image
    scale = max(width / image.shape[1], height / image.shape[0])
    size = (max(round(image.shape[1] * scale), width), max(round(image.shape[0] * scale), height))
    scaled = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    top, left = (scaled.shape[0] - height) // 2, (scaled.shape[1] - width) // 2
    return np.ascontiguousarray(scaled[top : top + height, left : left + width])


def move(image: np.ndarray, amount: float, frame: int) -> np.ndarray:
    """Simulates a camera that slowly pans and zooms over an image.

    Args:
        image: uint8 RGB `(H, W, 3)`.
        amount: Largest share of the image that is outside of the view, 0 (no motion) to 0.5.
        frame: Frame number; the motion is periodic.

    Returns:
        uint8 RGB of the same shape.
    """
    if amount == 0:
        return image
    height, width = image.shape[:2]
    phase = 2 * math.pi * frame / _MOTION_PERIOD
    scale = 1 - amount * (0.75 + 0.25 * math.sin(phase))
    left = (width - width * scale) * (0.5 + 0.5 * math.sin(2 * phase))
    top = (height - height * scale) * (0.5 + 0.5 * math.cos(phase))
    view = np.array([[scale, 0, left], [0, scale, top]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, view, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def _photos_in(folder: Path) -> tuple[Path, ...]:
    photos = sorted(path for path in folder.iterdir() if path.suffix.lower() in PHOTO_SUFFIXES)
    if not photos:
        raise ImageError(
            f"{folder} has no images ({', '.join(PHOTO_SUFFIXES)}) and is not a bag (no metadata.yaml, and no .mcap or "
            ".db3 files of a single recording)"
        )
    return tuple(photos)


def _captured(capture: cv2.VideoCapture, error: str) -> Iterator[np.ndarray]:
    """Frames of an OpenCV capture, which is released at the end; ImageError with `error` if there is none."""
    try:
        height, width = (int(capture.get(side)) for side in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH))
        check_size(height, width, MAX_PIXELS, "make it smaller")
        good, frame = capture.read()
        if not good:
            raise ImageError(error)
        while good:
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            good, frame = capture.read()
    finally:
        capture.release()
