"""Pictures from folders, videos, webcams and bags, as RGB arrays."""

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

_CHOICE = "a folder of photographs, a photograph, a video, a bag or a webcam's number"
_MOTION_PERIOD = 120
"""Frames that one round of the simulated camera motion takes."""


class Source(Protocol):
    """Pictures in an order, again and again."""

    @property
    def description(self) -> str:
        """What it is, for people."""
        ...

    def frames(self) -> Iterator[np.ndarray | ImageError]:
        """Goes through the pictures once: uint8 RGB `(H, W, 3)`, or why one could not be read.

        Raises:
            ImageError: The source as a whole cannot be read.
        """
        ...


def open_source(text: str, bag_topic: str = "") -> Source:
    """Finds out what a text names.

    Args:
        text: A folder of photographs, one photograph, a video file, a ROS 2 bag (folder, .mcap or .db3), or a webcam's
            number.
        bag_topic: Topic to read from a bag; empty takes its only image topic.

    Raises:
        ImageError: There is nothing of that kind.
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
    """Photographs, upright as their EXIF data says."""

    paths: tuple[Path, ...]
    name: str

    @property
    def description(self) -> str:
        """The folder and how many there are."""
        return f"{self.name} ({len(self.paths)} photographs)"

    def frames(self) -> Iterator[np.ndarray | ImageError]:
        """See `Source.frames`."""
        for path in self.paths:
            try:
                yield read_photograph(path).pixels
            except ImageError as error:
                yield ImageError(f"{path} is no readable photograph: {error}")


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
    """A camera that the system numbers."""

    number: int

    @property
    def description(self) -> str:
        """Its number."""
        return f"webcam {self.number}"

    def frames(self) -> Iterator[np.ndarray | ImageError]:
        """See `Source.frames`."""
        complaint = f"webcam {self.number} gives no picture; is it there, and free?"
        yield from _captured(cv2.VideoCapture(self.number), complaint)


@dataclass(frozen=True)
class Bag:
    """The images of one topic of a ROS 2 bag, in the order they were recorded."""

    path: Path
    topic: str

    @property
    def description(self) -> str:
        """The bag and the topic."""
        return f"{self.path}{f', topic {self.topic}' if self.topic else ''}"

    def frames(self) -> Iterator[np.ndarray | ImageError]:
        """See `Source.frames`."""
        images, said = BagImages(self.path, self.topic), 0
        for frame in images.frames():
            yield from map(ImageError, images.left_out[said:])
            said = len(images.left_out)
            yield frame if isinstance(frame, ImageError) else frame.image
        yield from map(ImageError, images.left_out[said:])


def fit(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """Scales a picture so that it covers a frame and cuts off what sticks out on both sides.

    Args:
        picture: uint8 RGB `(H, W, 3)`.
        width: Of the frame, pixels.
        height: Of the frame, pixels.

    Returns:
        uint8 RGB `(height, width, 3)`.
    """
    if picture.shape[:2] == (height, width):
        return picture
    scale = max(width / picture.shape[1], height / picture.shape[0])
    size = (max(round(picture.shape[1] * scale), width), max(round(picture.shape[0] * scale), height))
    scaled = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    top, left = (scaled.shape[0] - height) // 2, (scaled.shape[1] - width) // 2
    return np.ascontiguousarray(scaled[top : top + height, left : left + width])


def move(picture: np.ndarray, amount: float, frame: int) -> np.ndarray:
    """What a camera sees that pans and zooms gently over a picture.

    Args:
        picture: uint8 RGB `(H, W, 3)`.
        amount: Share of the picture that is out of sight at the closest, 0 (none) to 0.5.
        frame: Number of the frame; the motion repeats after some seconds.

    Returns:
        uint8 RGB of the same shape.
    """
    if amount == 0:
        return picture
    height, width = picture.shape[:2]
    phase = 2 * math.pi * frame / _MOTION_PERIOD
    scale = 1 - amount * (0.75 + 0.25 * math.sin(phase))
    left = (width - width * scale) * (0.5 + 0.5 * math.sin(2 * phase))
    top = (height - height * scale) * (0.5 + 0.5 * math.cos(phase))
    view = np.array([[scale, 0, left], [0, scale, top]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(picture, view, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def _photos_in(folder: Path) -> tuple[Path, ...]:
    photos = sorted(path for path in folder.iterdir() if path.suffix.lower() in PHOTO_SUFFIXES)
    if not photos:
        raise ImageError(
            f"{folder} holds no photograph ({', '.join(PHOTO_SUFFIXES)}) and is no bag (no metadata.yaml, nor files "
            "of one recording)"
        )
    return tuple(photos)


def _captured(capture: cv2.VideoCapture, complaint: str) -> Iterator[np.ndarray]:
    """Frames of an OpenCV capture, which is released whatever happens."""
    try:
        height, width = (int(capture.get(side)) for side in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH))
        check_size(height, width, MAX_PIXELS, "make it smaller")
        good, frame = capture.read()
        if not good:
            raise ImageError(complaint)
        while good:
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            good, frame = capture.read()
    finally:
        capture.release()
