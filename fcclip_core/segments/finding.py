"""Open-vocabulary search: finds segments of a frame by words that are not in its vocabulary.

Probabilities are relative: with a vocabulary of one word, every segment has that class. The query's words are therefore
added to the frame's vocabulary, including distractors, and the network's output is decoded once more without a second
inference. A segment's score is the probability of the query's classes among all of these and void. Distractors that
overlap with the query's words are removed, as in a vocabulary. The score need not be that of the segment's best class:
a "blue cone" that is most likely a "traffic cone" is still the best match for "blue cone".
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from fcclip_core.results import PanopticResult, Segment
from fcclip_core.segmenter import EncodedImage
from fcclip_core.settings import InferenceSettings
from fcclip_core.vocabulary.classes import Vocabulary, VocabularyClass
from fcclip_core.vocabulary.query import Query
from fcclip_core.vocabulary.snapshot import VocabularySnapshot

_SAME_SEGMENT = 0.5
"""Intersection over union above which a found segment is one of the frame's own; at most one segment can exceed it."""


class Decoder(Protocol):
    """The part of a `Segmenter` that searching needs."""

    def extend_vocabulary(
        self, snapshot: VocabularySnapshot, further: Sequence[VocabularyClass], without: Collection[str]
    ) -> VocabularySnapshot:
        """See `Segmenter.extend_vocabulary`."""
        ...

    def decode(
        self,
        encoded: EncodedImage,
        vocabulary: VocabularySnapshot | None = None,
        settings: InferenceSettings | None = None,
    ) -> PanopticResult:
        """See `Segmenter.decode`."""
        ...


@dataclass(frozen=True)
class ResolvedQuery:
    """A query resolved against a vocabulary.

    Attributes:
        snapshot: The vocabulary extended by the query.
        wanted: Indices of the query's classes; their probabilities are added.
    """

    snapshot: VocabularySnapshot
    wanted: tuple[int, ...]


@dataclass(frozen=True)
class Found:
    """A segment with its score for a query.

    Attributes:
        segment: Its `id` is that of the same segment in the frame's result, 0 if there is none. Its class is the best
            one in this frame, with id 0 if it is not in the frame's vocabulary, and without a name if it is a
            distractor.
        score: Probability that it matches the query, 0..1.
        mask: bool, the segment's mask inside `segment.box`.
    """

    segment: Segment
    score: float
    mask: np.ndarray = field(repr=False, compare=False)


def resolve(segmenter: Decoder, query: Query, snapshot: VocabularySnapshot) -> ResolvedQuery:
    """Resolves a query against a vocabulary.

    A class named by one of the words is used with all its synonyms. The other words together become a new class; if one
    of them is a secondary synonym of a class ("girl" of "person"), it belongs to the new class in this search.

    Raises:
        VocabularyError: A word is invalid.
    """
    further, words = _further(query, snapshot)
    kept = _without_overlapping_distractors(snapshot, further)
    base = snapshot if len(kept) == len(snapshot.vocabulary) else snapshot.only(kept)
    wanted = [
        index for index, item in enumerate(base.vocabulary.classes) if not _names_of(item).isdisjoint(query.words)
    ]
    wanted += [len(base.vocabulary)] if words else []
    return ResolvedQuery(segmenter.extend_vocabulary(base, further, frozenset(words)), tuple(wanted))


def _further(query: Query, snapshot: VocabularySnapshot) -> tuple[list[VocabularyClass], tuple[str, ...]]:
    """The classes that a query adds to a vocabulary, and the words of its new class (empty if there is none)."""
    published = [row.item for row in snapshot.published]
    taken = frozenset().union(*map(_names_of, published))
    words = tuple(word for word in query.words if word not in taken)
    further = [VocabularyClass(words)] if words else []
    known = taken | {text for item in published for text in item.synonyms} | set(query.words)
    for row in query.distractors:
        rivals = tuple(text for text in row if text not in known)
        known |= set(rivals)
        further += [VocabularyClass(rivals, distractor=True)] if rivals else []
    return further, words


def _without_overlapping_distractors(snapshot: VocabularySnapshot, further: Sequence[VocabularyClass]) -> list[int]:
    """Indices of a vocabulary's classes without the distractors that overlap with `further` classes."""
    classes = snapshot.vocabulary.classes
    if not further or not snapshot.distractors:
        return list(range(len(classes)))
    resolved = Vocabulary(tuple(replace(item, distractor=False) for item in further))
    fallen = {item for item, _ in resolved.background(snapshot.vocabulary).fallen if item.distractor}
    return [index for index, item in enumerate(classes) if item not in fallen]


def _names_of(item: VocabularyClass) -> set[str]:
    return set() if item.distractor else {item.name, item.synonyms[0]}


def find(
    segmenter: Decoder,
    query: Query,
    encoded: EncodedImage,
    shown: PanopticResult,
    snapshot: VocabularySnapshot,
) -> list[Found]:
    """Scores every segment of a frame.

    Args:
        segmenter: Decodes the network's output again, unless the query adds nothing to the vocabulary.
        query: The query.
        encoded: The network's output.
        shown: The frame's result.
        snapshot: The vocabulary of that result.

    Returns:
        The segments, sorted by descending score.
    """
    resolved = resolve(segmenter, query, snapshot)
    same = resolved.snapshot is snapshot
    result = shown if same else segmenter.decode(encoded, resolved.snapshot)
    if not same and shown.ignored is not None:
        result = result.without_pixels(shown.ignored)
    if not result.segments:
        return []
    scores = result.probabilities()[:, resolved.wanted].sum(1)
    ids = [item.id for item in result.segments] if same else _ids_in(shown, result)
    # Scores and classes are those of this frame, without the votes of tracks.
    found = [
        Found(replace(segment.unvoted(), id=number), float(score), _inside_box(result, segment))
        for segment, number, score in zip(result.segments, ids, scores, strict=True)
    ]
    return sorted(found, key=lambda item: -item.score)


def _ids_in(shown: PanopticResult, result: PanopticResult) -> list[int]:
    """For each segment of `result` its id in `shown`, or 0."""
    sizes = [max((item.id for item in one.segments), default=0) + 1 for one in (result, shown)]
    pairs = result.segment_map.astype(np.int64) * sizes[1] + shown.segment_map
    together = np.bincount(pairs.ravel(), minlength=sizes[0] * sizes[1]).reshape(sizes)
    together[:, 0] = 0
    areas = {item.id: item.area for item in shown.segments}
    ids = []
    for segment in result.segments:
        best = int(together[segment.id].argmax())
        both = int(together[segment.id, best])
        ids.append(best if both > _SAME_SEGMENT * (segment.area + areas.get(best, 0) - both) else 0)
    return ids


def _inside_box(result: PanopticResult, segment: Segment) -> np.ndarray:
    x_min, y_min, x_max, y_max = segment.box
    return result.segment_map[y_min:y_max, x_min:x_max] == segment.id
