"""A segmenter without a model: answers after a fixed time, with segments that the test can predict."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from fcclip_core.class_ids import ClassIds
from fcclip_core.errors import CheckpointError, VocabularyError
from fcclip_core.palette import class_color
from fcclip_core.results import PanopticResult, Segment
from fcclip_core.segmenter import VocabularySnapshot
from fcclip_core.settings import InferenceSettings
from fcclip_core.vocabulary import Vocabulary

POISON = (255, 0, 255)
"""An image whose first pixel has this colour makes the model fail."""


class FakeSegmenter:
    """Cuts an image into as many upright bands as there are classes, one segment each, and 0 where it is black."""

    backend_description = "a fake model"
    device = torch.device("cpu")

    def __init__(self, settings: InferenceSettings, seconds: float = 0.0, encoding_seconds: float = 0.0) -> None:
        self.settings = settings
        self.vocabulary: VocabularySnapshot | None = None
        self._seconds = seconds
        self._encoding_seconds = encoding_seconds
        self._ids = ClassIds()
        self._known: set[str] = set()

    def prepare_vocabulary(self, vocabulary: Vocabulary) -> VocabularySnapshot:
        new = set(vocabulary.synonyms) - self._known
        time.sleep(self._encoding_seconds * len(new))
        self._known |= new
        return VocabularySnapshot(
            version=0,
            vocabulary=vocabulary,
            class_ids=self._ids.resolve(vocabulary),
            colors=tuple(item.color or class_color(item.name) for item in vocabulary.classes),
            seen=tuple(item.seen is not False for item in vocabulary.classes),
            classifier=None,
        )

    def set_vocabulary(self, vocabulary: Vocabulary) -> VocabularySnapshot:
        version = self.vocabulary.version + 1 if self.vocabulary else 1
        self.vocabulary = replace(self.prepare_vocabulary(vocabulary), version=version)
        return self.vocabulary

    def __call__(self, image: np.ndarray, vocabulary: VocabularySnapshot | None = None) -> PanopticResult:
        snapshot = vocabulary or self.vocabulary
        if snapshot is None:
            raise VocabularyError("no vocabulary")
        if tuple(image[0, 0]) == POISON:
            raise RuntimeError("CUDA out of memory")
        time.sleep(self._seconds)
        segment_map, segments = _bands(image, snapshot)
        return PanopticResult(
            segment_map=segment_map,
            segments=segments,
            vocabulary_version=snapshot.version,
            timings={"preprocess": 0.0, "model": self._seconds, "classify": 0.0, "merge": 0.0},
            _semantic=lambda: segment_map,
            _instances=lambda: None,
        )


def _bands(image: np.ndarray, snapshot: VocabularySnapshot) -> tuple[np.ndarray, list[Segment]]:
    height, width = image.shape[:2]
    count = min(len(snapshot.class_ids), width)
    row = np.minimum(np.arange(width) * count // width, count - 1) + 1
    segment_map = np.where(image.any(axis=2), row[None, :], 0).astype(np.int32)
    segments = []
    for index in range(count):
        columns = np.flatnonzero(row == index + 1)
        item = snapshot.vocabulary.classes[index]
        segments.append(
            Segment(
                id=index + 1,
                class_id=snapshot.class_ids[index],
                name=item.name,
                score=(index + 1) / (count + 1),
                is_thing=item.is_thing,
                area=int((segment_map == index + 1).sum()),
                box=(int(columns[0]), 0, int(columns[-1]) + 1, height),
                embedding=np.zeros(4, np.float32),
            )
        )
    return segment_map, segments


def fake_loader(seconds: float = 0.0, encoding_seconds: float = 0.0) -> Callable[..., FakeSegmenter]:
    """Something to use instead of `Segmenter.from_checkpoint`; the checkpoint must be called "fake"."""

    def load(source: str, *, settings: InferenceSettings, **_: Any) -> FakeSegmenter:
        if source != "fake":
            raise CheckpointError(f"there is no checkpoint {source!r}; expected 'fake'")
        return FakeSegmenter(settings, seconds, encoding_seconds)

    return load
