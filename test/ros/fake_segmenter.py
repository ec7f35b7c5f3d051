"""A segmenter without a model: answers after a fixed time, with segments that the test can predict."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from fcclip_core.errors import CheckpointError, DeviceLostError, VocabularyError
from fcclip_core.evidence import FrameEvidence
from fcclip_core.inference.classification import TextClassifier, Words
from fcclip_core.inference.preprocess import FrameGeometry
from fcclip_core.results import PanopticResult, Segment
from fcclip_core.settings import InferenceSettings
from fcclip_core.vocabulary.class_ids import ClassIds
from fcclip_core.vocabulary.classes import Vocabulary, VocabularyClass
from fcclip_core.vocabulary.embedded_text import TextEmbeddings
from fcclip_core.vocabulary.palette import class_color
from fcclip_core.vocabulary.snapshot import VocabularySnapshot

POISON = (255, 0, 255)
"""An image whose first pixel has this color makes the model fail."""

FATAL = (0, 255, 255)
"""One with this color makes it lose its device."""


@dataclass(frozen=True)
class FakeEncodedImage:
    """An image that went through the network, alone or with others."""

    image: np.ndarray
    timings: dict[str, float]


class Gate:
    """What comes to it waits while it is closed; it begins open.

    Attributes:
        reached: Set as soon as something has come since it was closed.
    """

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._opened = threading.Event()
        self._opened.set()

    def close(self) -> None:
        self.reached.clear()
        self._opened.clear()

    def open(self) -> None:
        self._opened.set()

    def pass_through(self) -> None:
        self.reached.set()
        self._opened.wait()


class FakeSegmenter:
    """Cuts an image into as many upright bands as there are classes, one segment each, and 0 where it is black.

    The network takes `seconds`, however many images it is given.

    Attributes:
        most_at_once: Batches of more images fail.
        batches: Sizes of the batches that went through.
        begun: Batches that were begun.
        prepared: What was to be made ready beside the stream: height, width, batches, whether somebody asked.
        gate: While it is cleared, a batch that was begun does not end.
        words_gate: New words pass through it while they are encoded.
        read: Words that were read together.
    """

    backend_description = "a fake model"
    backend_warning = ""
    device = torch.device("cpu")
    computes_in_background = False

    train_vocabulary = Vocabulary.from_names(["floor", "cup"], stuff=["floor"])

    def __init__(
        self,
        settings: InferenceSettings,
        seconds: float = 0.0,
        encoding_seconds: float = 0.0,
        words_gate: Gate | None = None,
    ) -> None:
        self.settings = settings
        self.vocabulary: VocabularySnapshot | None = None
        self.most_at_once = 64
        self.batches: list[int] = []
        self.begun = 0
        self.prepared: list[tuple[int, int, int, bool]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.words_gate = words_gate or Gate()
        self.read: list[tuple[str, ...]] = []
        self._seconds = seconds
        self._encoding_seconds = encoding_seconds
        self._ids = ClassIds()
        self._known: set[str] = set()

    def prepare_vocabulary(self, vocabulary: Vocabulary) -> VocabularySnapshot:
        self.learn_words(self.unknown_words(vocabulary.synonyms))
        return VocabularySnapshot(
            version=0,
            vocabulary=vocabulary,
            class_ids=self._ids.look_up(vocabulary),
            colors=tuple(item.color or class_color(item.name) for item in vocabulary.classes),
            seen=tuple(item.seen is not False for item in vocabulary.classes),
            words=_words(vocabulary),
        )

    def default_background(self) -> None:
        """Bands are few and narrow: nothing competes unless it is asked for."""

    def set_vocabulary(self, vocabulary: Vocabulary) -> VocabularySnapshot:
        return self.activate(self.prepare_vocabulary(vocabulary))

    def activate(self, prepared: VocabularySnapshot) -> VocabularySnapshot:
        version = self.vocabulary.version + 1 if self.vocabulary else 1
        self.vocabulary = replace(prepared, version=version, class_ids=self._ids.resolve(prepared.vocabulary))
        return self.vocabulary

    def unknown_words(self, words: Sequence[str]) -> list[str]:
        return [word for word in dict.fromkeys(words) if word not in self._known]

    def learn_words(self, words: Sequence[str]) -> None:
        time.sleep(self._encoding_seconds * len(words))
        if words:
            self.words_gate.pass_through()
        self._known |= set(words)
        self.read.append(tuple(words))

    def prepare_in_background(self, height: int, width: int, batches: int = 1, *, requested: bool = True) -> None:
        self.prepared.append((height, width, batches, requested))

    def close(self, timeout: float | None = None) -> bool:
        return True

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        return height, width

    def encode_batch(
        self, images: Sequence[np.ndarray], settings: InferenceSettings | None = None
    ) -> list[FakeEncodedImage]:
        if any(tuple(image[0, 0]) == FATAL for image in images):
            raise DeviceLostError("cuda is lost to this process")
        if any(tuple(image[0, 0]) == POISON for image in images) or len(images) > self.most_at_once:
            raise RuntimeError("CUDA out of memory")
        assert len({image.shape for image in images}) == 1
        self.begun += 1
        time.sleep(self._seconds)
        self.gate.wait()
        self.batches.append(len(images))
        return [FakeEncodedImage(image, {"preprocess": 0.0, "model": self._seconds}) for image in images]

    def encode(self, image: np.ndarray, settings: InferenceSettings | None = None) -> FakeEncodedImage:
        return self.encode_batch([image], settings)[0]

    def extend_vocabulary(
        self, snapshot: VocabularySnapshot, further: Sequence[VocabularyClass], without: Collection[str] = ()
    ) -> VocabularySnapshot:
        if not further and snapshot.words.minimum_scores is None:
            return snapshot
        vocabulary = Vocabulary((*snapshot.vocabulary.classes, *further))
        return replace(
            snapshot,
            version=0,
            vocabulary=vocabulary,
            class_ids=(*snapshot.class_ids, *(0 for _ in further)),
            colors=(*snapshot.colors, *((0, 0, 0) for _ in further)),
            seen=(*snapshot.seen, *(True for _ in further)),
            words=replace(_words(vocabulary), minimum_scores=None),
        )

    def embed_text(self, names: Sequence[str]) -> TextEmbeddings:
        """One-hot rows: the direction of a name follows from its length."""
        for name in names:
            VocabularyClass((name,))
        if not names:
            raise VocabularyError("there is no name to embed")
        self.learn_words(self.unknown_words(names))
        return TextEmbeddings(np.eye(4, dtype=np.float32)[[len(name) % 4 for name in names]], 100.0, "fake tower")

    def start_decoding(
        self,
        encoded: FakeEncodedImage,
        vocabulary: VocabularySnapshot | None = None,
        settings: InferenceSettings | None = None,
    ) -> Callable[[], PanopticResult]:
        return lambda: self.decode(encoded, vocabulary, settings)

    def decode(
        self,
        encoded: FakeEncodedImage,
        vocabulary: VocabularySnapshot | None = None,
        settings: InferenceSettings | None = None,
    ) -> PanopticResult:
        snapshot = vocabulary or self.vocabulary
        if snapshot is None:
            raise VocabularyError("no vocabulary")
        began = time.monotonic()
        stride = self.settings.output_stride
        segment_map, segments = _bands(encoded.image[::stride, ::stride], snapshot)
        merging = time.monotonic() - began
        return PanopticResult(
            segment_map=segment_map,
            segments=segments,
            vocabulary_version=snapshot.version,
            timings={**encoded.timings, "classify": 0.0, "merge": merging},
            evidence=_evidence(segment_map, segments, snapshot),
        )

    def __call__(self, image: np.ndarray, vocabulary: VocabularySnapshot | None = None) -> PanopticResult:
        return self.decode(self.encode_batch([image])[0], vocabulary)


def _evidence(segment_map: np.ndarray, segments: list[Segment], snapshot: VocabularySnapshot) -> FrameEvidence:
    """One query a segment, sure of nothing but its own class."""
    count, (height, width) = len(segments), segment_map.shape
    class_probs = torch.zeros(count, len(snapshot.class_ids) + 1)
    for query, segment in enumerate(segments):
        class_probs[query, segment.id - 1] = segment.score
    return FrameEvidence(
        mask_logits=torch.zeros(count, 1, 1),
        class_probs=class_probs,
        geometry=FrameGeometry.of(height, width, InferenceSettings()),
        queries=np.arange(count),
        class_ids=snapshot.class_ids,
        names=snapshot.vocabulary.names,
        is_thing=snapshot.vocabulary.things,
        top_k=100,
        is_distractor=snapshot.vocabulary.distractors,
    )


def _words(vocabulary: Vocabulary) -> Words:
    rows = torch.zeros(len(vocabulary.synonyms), 4)
    owners = torch.arange(len(vocabulary)).repeat_interleave(torch.tensor(vocabulary.synonym_counts))
    flags = torch.tensor(vocabulary.things)
    classifier = TextClassifier(rows, rows[:1], owners, flags, in_vocab_scale=1.0, out_vocab_scale=1.0)
    minimum = torch.tensor([2.0 if item.distractor else item.minimum_score for item in vocabulary.classes])
    return Words(classifier, flags, minimum if minimum.any() else None)


def _bands(image: np.ndarray, snapshot: VocabularySnapshot) -> tuple[np.ndarray, list[Segment]]:
    height, width = image.shape[:2]
    count = min(len(snapshot.class_ids), width)
    row = np.minimum(np.arange(width) * count // width, count - 1) + 1
    segment_map = np.where(image.any(axis=2), row[None, :], 0).astype(np.int32)
    segments = []
    minimum = snapshot.words.minimum_scores
    for index in range(count):
        columns = np.flatnonzero(row == index + 1)
        item = snapshot.vocabulary.classes[index]
        score = (index + 1) / (count + 1)
        if minimum is not None and score < minimum[index]:
            segment_map[segment_map == index + 1] = 0
            continue
        segments.append(
            Segment(
                id=index + 1,
                class_id=snapshot.class_ids[index],
                name="" if item.distractor else item.name,
                score=score,
                is_thing=item.is_thing,
                area=int((segment_map == index + 1).sum()),
                box=(int(columns[0]), 0, int(columns[-1]) + 1, height),
                embedding=np.zeros(4, np.float32),
            )
        )
    return segment_map, segments


def fake_loader(
    seconds: float = 0.0, encoding_seconds: float = 0.0, words_gate: Gate | None = None
) -> Callable[..., FakeSegmenter]:
    """Something to use instead of `Segmenter.from_checkpoint`; the checkpoint must be called "fake"."""

    def load(source: str, *, settings: InferenceSettings, **_: Any) -> FakeSegmenter:
        if source != "fake":
            raise CheckpointError(f"there is no checkpoint {source!r}; expected 'fake'")
        return FakeSegmenter(settings, seconds, encoding_seconds, words_gate)

    return load
