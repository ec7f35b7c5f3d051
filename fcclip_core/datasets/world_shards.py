"""Shards of the simulated world from `fcclip world render --shards`: .npz files of about 64 frames, kept in memory."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fcclip_core.datasets.records import ClassList, PanopticSample, TruthSegment, renumbered
from fcclip_core.errors import DatasetError
from fcclip_core.vocabulary.classes import Vocabulary


@dataclass(frozen=True)
class _Shard:
    """One shard: images `(F, H, W, 3)`, segment ids `(F, H, W)`, and each frame's `(id, class index)` pairs."""

    images: np.ndarray
    maps: np.ndarray
    segments: tuple[tuple[tuple[int, int], ...], ...]


class WorldShards:
    """Frames of all shards in a folder; a frame of 320 x 240 pixels takes about 0.4 MB of memory.

    Attributes:
        name: The dataset's name.
        classes: The classes of the vocabulary, in its order.
    """

    name = "world"

    def __init__(
        self,
        folder: Path,
        vocabulary: Vocabulary,
        limit: int | None = None,
        advance: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """Reads the shards.

        Args:
            folder: Folder of the shards.
            vocabulary: Defines the class indices; classes are matched by name.
            limit: Largest number of shards to read.
            advance: Called with (shards read, total shards).

        Raises:
            DatasetError: There is no shard, or one is damaged or has a class that is not in the vocabulary.
        """
        paths = sorted(folder.glob("shard-*.npz"))[:limit]
        if not paths:
            raise DatasetError(f"{folder} has no shard-*.npz; create them with `fcclip world render {folder} --shards`")
        self.classes = ClassList(vocabulary.names, vocabulary.things)
        self._shards = []
        for index, path in enumerate(paths):
            self._shards.append(_read(path, vocabulary))
            advance(index + 1, len(paths))
        self._places = [(shard, frame) for shard in self._shards for frame in range(len(shard.images))]

    def __len__(self) -> int:
        """Number of frames."""
        return len(self._places)

    def __getitem__(self, index: int) -> PanopticSample:
        """The frame at `index`, 0..len-1."""
        shard, frame = self._places[index]
        ids, classes = zip(*shard.segments[frame], strict=True) if shard.segments[frame] else ((), ())
        segments = tuple(TruthSegment(number, item) for number, item in enumerate(classes, 1))
        return PanopticSample(f"world {index}", shard.images[frame], renumbered(shard.maps[frame], ids), segments)


def _read(path: Path, vocabulary: Vocabulary) -> _Shard:
    try:
        with np.load(path, allow_pickle=False) as file:
            images, maps, names = file["images"], file["maps"], [str(name) for name in file["class_names"]]
            rows = np.stack([file[f"segment_{what}"] for what in ("frame", "id", "class")], -1).astype(int)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DatasetError(
            f"{path} is damaged or not a shard of the world ({error}); remove it and render again"
        ) from error
    number_of = {name: number for number, name in enumerate(vocabulary.names)}
    unknown = {names[index] for index in rows[:, 2]} - set(number_of)
    if unknown:
        raise DatasetError(
            f"{path} contains {min(unknown)!r}, which is not one of the {len(vocabulary)} training classes; render the "
            "scenes with --split train"
        )
    segments: list[list[tuple[int, int]]] = [[] for _ in images]
    for frame, value, index in rows.tolist():
        segments[frame].append((value, number_of[names[index]]))
    return _Shard(images, maps, tuple(map(tuple, segments)))
