"""A prepared vocabulary: ids, colors, text rows and temperatures, resolved once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fcclip_core.errors import VocabularyError
from fcclip_core.inference.classification import TextClassifier, Words
from fcclip_core.model.fcclip import FCCLIP
from fcclip_core.quoting import short
from fcclip_core.vocabulary.class_ids import ClassIds
from fcclip_core.vocabulary.classes import Vocabulary, VocabularyClass
from fcclip_core.vocabulary.resolved_class import ResolvedClass
from fcclip_core.vocabulary.text_embeddings import Progress

_UNREACHED = 2.0
"""No score reaches it."""


@dataclass(frozen=True)
class VocabularySnapshot:
    """A prepared vocabulary; each frame is labeled with exactly one.

    Attributes:
        version: Grows by one with every `Segmenter.set_vocabulary`; 0 for a vocabulary that was never active.
        vocabulary: The classes.
        class_ids: Stable id of each class, from 1; 0 for distractors.
        colors: (r, g, b) of each class, 0..255.
        seen: Whether the ensemble treats each class as seen in training.
        words: Text rows, temperatures, thing flags and smallest scores, on the device.
    """

    version: int
    vocabulary: Vocabulary
    class_ids: tuple[int, ...]
    colors: tuple[tuple[int, int, int], ...]
    seen: tuple[bool, ...]
    words: Words

    @property
    def classifier(self) -> TextClassifier:
        """Text rows and temperatures."""
        return self.words.classifier

    @functools.cached_property
    def published(self) -> tuple[ResolvedClass, ...]:
        """The classes that frames are labeled with: all but distractors, in their order."""
        return tuple(row for row in self._rows() if not row.item.distractor)

    @functools.cached_property
    def distractors(self) -> tuple[ResolvedClass, ...]:
        """The classes that compete and are never published, with id 0."""
        return tuple(row for row in self._rows() if row.item.distractor)

    def only(self, classes: Sequence[int]) -> VocabularySnapshot:
        """Some of the classes; their ids, colors and text rows stay what they are.

        Args:
            classes: Their positions, 0..C-1, in rising order, at least one.
        """
        return VocabularySnapshot(
            version=self.version,
            vocabulary=replace(self.vocabulary, classes=tuple(self.vocabulary.classes[index] for index in classes)),
            class_ids=tuple(self.class_ids[index] for index in classes),
            colors=tuple(self.colors[index] for index in classes),
            seen=tuple(self.seen[index] for index in classes),
            words=self.words.only(classes),
        )

    def _rows(self) -> Iterator[ResolvedClass]:
        columns = (self.vocabulary.classes, self.class_ids, self.colors, self.seen)
        return map(ResolvedClass, *columns)


class SnapshotBuilder:
    """Prepares vocabularies for one model."""

    def __init__(
        self,
        model: FCCLIP,
        embed: Callable[[Sequence[str], Progress | None], Tensor],
        train_vocabulary: Vocabulary,
        class_ids: ClassIds,
        device: torch.device,
        model_id: str = "",
    ) -> None:
        """Builds classifiers on `device`.

        Args:
            model: Holds the temperatures.
            embed: Text rows of names, float32 `(N, D)`, unit length; its second argument receives the progress.
            train_vocabulary: Decides which classes count as seen.
            class_ids: Where ids are looked up.
            device: Where frames are labeled.
            model_id: Identity of the text tower: examples of other models are refused.
        """
        self._model_id = model_id
        self._model = model
        self._embed = embed
        self._train_synonyms = frozenset(train_vocabulary.synonyms)
        self._class_ids = class_ids
        self._device = device

    def prepare(
        self, vocabulary: Vocabulary, text_embeddings: np.ndarray | Tensor | None, progress: Progress | None
    ) -> VocabularySnapshot:
        """See `Segmenter.prepare_vocabulary`."""
        if text_embeddings is None:
            rows = self._embed(vocabulary.synonyms, progress)
        else:
            rows = self._checked_rows(vocabulary, text_embeddings)
        seen = vocabulary.seen_mask(self._train_synonyms)
        margin = torch.tensor([item.margin for item in vocabulary.classes])
        classifier = TextClassifier.build(
            self._model, rows, vocabulary.synonym_counts, torch.from_numpy(seen), self._device, margin
        )
        if any(vocabulary.example_counts):
            classifier = self._with_examples(classifier, vocabulary, rows)
        return VocabularySnapshot(
            version=0,
            vocabulary=vocabulary,
            class_ids=self._class_ids.look_up(vocabulary),
            colors=vocabulary.colors,
            seen=tuple(bool(flag) for flag in seen),
            words=self._words(classifier, vocabulary),
        )

    def extend(
        self, snapshot: VocabularySnapshot, further: Sequence[VocabularyClass], without: Collection[str]
    ) -> VocabularySnapshot:
        """See `Segmenter.extend_vocabulary`."""
        own, added = snapshot.vocabulary.classes, tuple(further)
        if not added and snapshot.words.minimum_scores is None:
            return snapshot
        kept = [index == 0 or text not in without for item in own for index, text in enumerate(item.synonyms)]
        extended = Vocabulary((*own, *added))
        names = [text for item in added for text in item.synonyms]
        seen = extended.seen_mask(self._train_synonyms)[len(own) :]
        rows = self._embed(names, None) if names else torch.zeros(0, snapshot.classifier.rows.shape[1])
        counts = extended.synonym_counts[len(own) :]
        classifier = snapshot.classifier.extended(kept, rows, counts, torch.from_numpy(seen))
        return VocabularySnapshot(
            version=0,
            vocabulary=extended,
            class_ids=(*snapshot.class_ids, *(0 for _ in added)),
            colors=(*snapshot.colors, *extended.colors[len(own) :]),
            seen=(*snapshot.seen, *map(bool, seen)),
            words=replace(self._words(classifier, extended), minimum_scores=None),
        )

    def _with_examples(self, classifier: TextClassifier, vocabulary: Vocabulary, rows: Tensor) -> TextClassifier:
        """The classifier whose taught classes have rows that lie between those of their words and their examples."""
        mixed, shares, start = rows.clone(), [], 0
        for item in vocabulary.classes:
            own, start = slice(start, start + len(item.synonyms)), start + len(item.synonyms)
            if item.examples is None:
                shares.append(0.0)
                continue
            self._require_own(item)
            share = item.examples.share(item.wordless)
            mixed[own] = (1 - share) * rows[own] + share * torch.from_numpy(item.examples.row)
            shares.append(share)
        return classifier.with_examples(mixed, torch.tensor(shares))

    def _require_own(self, item: VocabularyClass) -> None:
        assert item.examples is not None
        dimension, expected = item.examples.embeddings.shape[1], self._model.config.embed_dim
        if item.examples.model != self._model_id or dimension != expected:
            raise VocabularyError(
                f"the examples of {short(item.name)} were made by another model; teach the class again with this one, "
                "or load the checkpoint that it was taught with"
            )

    def _words(self, classifier: TextClassifier, vocabulary: Vocabulary) -> Words:
        things = torch.tensor(vocabulary.things, device=self._device)
        minimum = [_UNREACHED if item.distractor else item.minimum_score for item in vocabulary.classes]
        return Words(classifier, things, torch.tensor(minimum, device=self._device) if any(minimum) else None)

    def _checked_rows(self, vocabulary: Vocabulary, given: np.ndarray | Tensor) -> Tensor:
        rows = torch.as_tensor(given, dtype=torch.float32)
        expected = (len(vocabulary.synonyms), self._model.config.embed_dim)
        if tuple(rows.shape) != expected:
            raise VocabularyError(
                f"text_embeddings has shape {tuple(rows.shape)}; expected {expected}: one row a synonym, class by class"
            )
        if not torch.allclose(rows.norm(dim=-1), torch.ones(len(rows)), atol=1e-3):
            raise VocabularyError("text_embeddings holds rows that are not of unit length; divide each by its L2 norm")
        return rows
