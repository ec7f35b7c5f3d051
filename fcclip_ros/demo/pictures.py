"""Keeps one picture for every scene and vocabulary: the photograph, the node's overlay, and a legend below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from fcclip_core.errors import FcclipError
from fcclip_core.visualization import draw_legend
from fcclip_core.whole_file import whole_file
from fcclip_ros.demo.ledger import Frame, PublishedClass

_THUMBNAIL = (16, 16)
_JPEG_QUALITY = 92
_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})


class Album:
    """The newest labelled frame of each scene under each vocabulary.

    Attributes:
        scenes: Names of the photographs, in the order in which they are shown.
    """

    def __init__(self, photos: Path) -> None:
        """Learns to recognise the photographs of a folder.

        Raises:
            FcclipError: The folder holds no JPEG or PNG.
        """
        if not photos.is_dir():
            raise FcclipError(f"--photos {photos} is no folder; give one with JPEG or PNG photographs")
        files = sorted(path for path in photos.iterdir() if path.suffix.lower() in _SUFFIXES)
        if not files:
            raise FcclipError(f"--photos {photos} holds no JPEG or PNG")
        self._thumbnails = {path.stem: _thumbnail(np.asarray(Image.open(path).convert("RGB"))) for path in files}
        self._frames: dict[tuple[str, int], Frame] = {}

    @property
    def scenes(self) -> tuple[str, ...]:
        """Names of the photographs."""
        return tuple(self._thumbnails)

    def put(self, frame: Frame) -> None:
        """Keeps a frame that has its photo, segments and overlay, instead of an older one of its scene."""
        assert frame.photo is not None and frame.segments is not None
        self._frames[self.scene_of(frame.photo), frame.segments.version] = frame

    def scene_of(self, photo: np.ndarray) -> str:
        """The photograph that a camera frame (uint8 RGB) shows; the stream may have scaled or compressed it."""
        thumbnail = _thumbnail(photo)
        return min(self._thumbnails, key=lambda name: float(np.abs(self._thumbnails[name] - thumbnail).mean()))

    def missing(self, version: int) -> list[str]:
        """Scenes without a picture under a vocabulary version."""
        return [scene for scene in self.scenes if (scene, version) not in self._frames]

    def save(self, folder: Path, vocabularies: Mapping[int, Sequence[PublishedClass]]) -> dict[tuple[str, int], Path]:
        """Writes SCENE_vVERSION.jpg for every frame kept.

        Args:
            folder: Where to.
            vocabularies: The classes of each version, for the legends.

        Returns:
            The files by scene and version.
        """
        written = {}
        for (scene, version), frame in sorted(self._frames.items(), key=lambda item: (item[0][1], item[0][0])):
            path = folder / f"{scene}_v{version}.jpg"
            with whole_file(path) as part:
                Image.fromarray(_compose(frame, vocabularies.get(version, ()))).save(part, quality=_JPEG_QUALITY)
            written[scene, version] = path
        return written


def _thumbnail(image: np.ndarray) -> np.ndarray:
    return cv2.resize(image, _THUMBNAIL, interpolation=cv2.INTER_AREA).astype(np.float32)


def _compose(frame: Frame, classes: Sequence[PublishedClass]) -> np.ndarray:
    assert frame.photo is not None and frame.overlay is not None
    pair = np.hstack([frame.photo, np.full((len(frame.photo), 4, 3), 255, np.uint8), frame.overlay])
    legend = draw_legend([(item.name, item.color) for item in classes], pair.shape[1])
    return np.vstack([pair, legend])
