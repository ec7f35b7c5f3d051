"""Finding what words say in a frame that was labeled with other words.

Probabilities need competitors: with a vocabulary of one word, everything is that word. So what is wanted joins the
frame's own vocabulary, distractors included, for one labeling of the network's answer, which costs no second
inference, and a segment's score is the probability of what is wanted among all of them and void. Distractors that
overlap with what is wanted fall away, as they do beside a vocabulary's own words. The score counts whether or not it is
the segment's best class: a "blue cone" that is above all a "traffic cone" is still the bluest cone in sight.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from fcclip_core.errors import VocabularyError
from fcclip_core.quoting import short
from fcclip_core.results import PanopticResult, Segment
from fcclip_core.segmenter import EncodedImage
from fcclip_core.settings import InferenceSettings
from fcclip_core.vocabulary.classes import Vocabulary, VocabularyClass
from fcclip_core.vocabulary.snapshot import VocabularySnapshot

_SAME_SEGMENT = 0.5
"""Smallest intersection over union at which a segment found is one of the frame's own; two cannot both reach it."""


class Decoder(Protocol):
    """What finding asks of a segmenter; see `Segmenter`."""

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
        """See `Segmenter.label`."""
        ...


@dataclass(frozen=True)
class Query:
    """What is looked for.

    Attributes:
        words: Synonyms of what is wanted, at least one.
        distractors: Distractors beside the frame's vocabulary; synonyms of each.
    """

    words: tuple[str, ...]
    distractors: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def of(cls, words: Iterable[str], distractors: Iterable[str] = ()) -> Query:
        """Reads words as people write them: commas separate synonyms, blanks round them do not count.

        Raises:
            VocabularyError: No word, or one that is empty, too long or not printable.
        """
        words, distractors = (_listed(*pair) for pair in (("words", words), ("distractors", distractors)))
        wanted = tuple(dict.fromkeys(part for text in words for part in _synonyms("words", text)))
        if not wanted:
            raise VocabularyError('words is empty; say what to look for, for example ["red mug"]')
        rivals = (_synonyms("distractors", text) for text in distractors)
        return cls(wanted, tuple(row for row in rivals if row))

    @property
    def names(self) -> tuple[str, ...]:
        """Every word that needs a text row."""
        return tuple(dict.fromkeys((*self.words, *(text for row in self.distractors for text in row))))


@dataclass(frozen=True)
class ResolvedQuery:
    """A query put to one vocabulary.

    Attributes:
        snapshot: The vocabulary with what the query adds.
        wanted: Indices of the classes that are wanted; their probabilities add up.
    """

    snapshot: VocabularySnapshot
    wanted: tuple[int, ...]


@dataclass(frozen=True)
class Found:
    """A segment and how well it fits.

    Attributes:
        segment: Its `id` is the frame's own, 0 if the frame's labels have no such segment; its class is the best one in
            this frame, with id 0 if that is none of the frame's vocabulary, and without a name if it is a distractor.
        score: Probability that it is what is wanted, 0..1.
        mask: bool, the part of the frame that `segment.box` says.
    """

    segment: Segment
    score: float
    mask: np.ndarray = field(repr=False, compare=False)


def resolve(segmenter: Decoder, query: Query, snapshot: VocabularySnapshot) -> ResolvedQuery:
    """Puts a query to a vocabulary.

    A class that goes by one of the words is wanted as it is, with all its synonyms. The other words together become one
    class; where one of them is a further synonym of a class ("girl" of "person"), it is the query's for this once.

    Raises:
        VocabularyError: A word cannot be used.
    """
    further, words = _further(query, snapshot)
    kept = _that_may_compete(snapshot, further)
    base = snapshot if len(kept) == len(snapshot.vocabulary) else snapshot.only(kept)
    wanted = [index for index, item in enumerate(base.vocabulary.classes) if not _goes_by(item).isdisjoint(query.words)]
    wanted += [len(base.vocabulary)] if words else []
    return ResolvedQuery(segmenter.extend_vocabulary(base, further, frozenset(words)), tuple(wanted))


def _further(query: Query, snapshot: VocabularySnapshot) -> tuple[list[VocabularyClass], tuple[str, ...]]:
    """The classes that a query adds to a vocabulary, and the words of the first one, if that is what is wanted."""
    published = [row.item for row in snapshot.published]
    taken = frozenset().union(*map(_goes_by, published))
    words = tuple(word for word in query.words if word not in taken)
    further = [VocabularyClass(words)] if words else []
    known = taken | {text for item in published for text in item.synonyms} | set(query.words)
    for row in query.distractors:
        rivals = tuple(text for text in row if text not in known)
        known |= set(rivals)
        further += [VocabularyClass(rivals, distractor=True)] if rivals else []
    return further, words


def _that_may_compete(snapshot: VocabularySnapshot, further: Sequence[VocabularyClass]) -> list[int]:
    """Positions of a vocabulary's classes without the distractors that overlap with further classes."""
    classes = snapshot.vocabulary.classes
    if not further or not snapshot.distractors:
        return list(range(len(classes)))
    resolved = Vocabulary(tuple(replace(item, distractor=False) for item in further))
    fallen = {item for item, _ in resolved.background(snapshot.vocabulary).fallen if item.distractor}
    return [index for index, item in enumerate(classes) if item not in fallen]


def _goes_by(item: VocabularyClass) -> set[str]:
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
        segmenter: Labels the network's answer again, unless the query adds nothing to the vocabulary.
        query: What is wanted.
        encoded: The network's answer.
        shown: The frame's own labels.
        snapshot: The vocabulary that they were made with.

    Returns:
        The segments, best score first.
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
    # Whatever the tracks voted: scores are this frame's, and so are the classes beside them.
    found = [
        Found(replace(segment.unvoted(), id=number), float(score), _inside_box(result, segment))
        for segment, number, score in zip(result.segments, ids, scores, strict=True)
    ]
    return sorted(found, key=lambda item: -item.score)


def _ids_in(shown: PanopticResult, result: PanopticResult) -> list[int]:
    """For each segment of `result` the id that it has in `shown`, or 0."""
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


def _listed(what: str, texts: Iterable[str]) -> list[str]:
    """A list of texts; one text alone would be read letter by letter."""
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable):
        raise VocabularyError(f'{what} is {short(texts)}; expected a list, for example ["red mug"]')
    return list(texts)


def _synonyms(what: str, text: str) -> tuple[str, ...]:
    if not isinstance(text, str):
        raise VocabularyError(f"{what} has {short(text)}; expected text")
    try:
        return VocabularyClass(tuple(part.strip() for part in text.split(","))).synonyms
    except VocabularyError as error:
        raise VocabularyError(f"{what}: {error}") from error
