"""Asking: words -> ranked objects with a probability, made as `~/find` makes it.

The out-of-vocabulary half of the ensemble: a softmax over the query's words and all that compete with them (words of
the frames' vocabularies, the background, and the query's own distractors), by CLIP's logit scale, of the object's mean
embedding and of its best views. The in-vocabulary half is gone with the frames; what is left of it is how often, and
how surely, frames called the object by one of the words while their vocabulary had it. Where it did, both halves are
joined (arithmetically, as a share may be 0); where no vocabulary had the word, the first half decides alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from fcclip_core.errors import SettingsError
from fcclip_core.memory.areas import Area
from fcclip_core.memory.objects import RememberedObject, State, View
from fcclip_core.memory.table import Columns
from fcclip_core.memory.words import TextRows
from fcclip_core.vocabulary.classes import BACKGROUND_MARGIN, normal_form
from fcclip_core.vocabulary.query import Query

MAX_ANSWERS = 1000

_SHORTLIST = 512
"""Objects whose mean embedding is compared with all words: those nearest to the question's words, and those that were
called by them. With fewer objects the ranking is exact."""

_FINALISTS = 64
"""Most probable ones of these, of which the best views are compared as well."""

_NAMED_WEIGHT = 0.6
"""Weight of what frames called an object: that of the in-vocabulary classifier for seen classes (1 - alpha)."""


@dataclass(frozen=True)
class Question:
    """What to look for, and where.

    Attributes:
        query: The words and their distractors (`Query.of(["red mug"])`).
        area: Only objects whose position is inside; None for everywhere.
        max_age: Only objects seen within this many seconds; None for any.
        min_probability: Less probable objects are no answers, 0..1.
        called: Only objects that frames or users called by one of these names; empty for any.
        states: Only objects of which this is believed.
        limit: Answers at most.
    """

    query: Query
    area: Area | None = None
    max_age: float | None = None
    min_probability: float = 0.1
    called: Collection[str] = ()
    states: tuple[State, ...] = (State.CONFIRMED,)
    limit: int = 10

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            SettingsError: Naming the value.
        """
        if self.max_age is not None and not (math.isfinite(self.max_age) and self.max_age >= 0):
            raise SettingsError(f"max_age is {self.max_age:g}; it must be a number of seconds, at least 0")
        if not 0 <= self.min_probability <= 1:
            raise SettingsError(f"min_probability is {self.min_probability:g}; it must be between 0 and 1")
        if not 1 <= self.limit <= MAX_ANSWERS:
            raise SettingsError(f"limit is {self.limit}; it must be between 1 and {MAX_ANSWERS}")


@dataclass(frozen=True)
class Answer:
    """An object that may be meant.

    Attributes:
        object: The object: position and covariance in the map, box, names, views, picture.
        probability: That the words name it, among all that compete with them, 0..1.
        age: Seconds since it was last seen.
    """

    object: RememberedObject
    probability: float
    age: float

    @property
    def approach(self) -> View | None:
        """Where the camera stood in its best view at manipulation distance; None if it never did."""
        return self.object.approach


@dataclass(frozen=True)
class Reply:
    """The answers to a question.

    Attributes:
        answers: The most probable first.
        best: The most probable object, also where it is not probable enough; None if no object passes the filters.
        sentence: The reply in words.
    """

    answers: tuple[Answer, ...]
    best: Answer | None
    sentence: str = field(compare=False)


@dataclass(frozen=True)
class Competition:
    """The words of a question as classes.

    Attributes:
        wanted: The query's words.
        named_in: Keys of the vocabularies that had one of them.
        rivals: Words of the frames' vocabularies, and the query's distractors; synonyms of each.
        background: Synonyms of the background's classes, which stand behind by a margin.
    """

    wanted: tuple[str, ...]
    named_in: frozenset[str]
    rivals: tuple[tuple[str, ...], ...]
    background: tuple[tuple[str, ...], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All words that need a text embedding."""
        groups = (*self.rivals, *self.background)
        return tuple(dict.fromkeys((*self.wanted, *(text for group in groups for text in group))))


def answer(
    question: Question,
    competition: Competition,
    rows: TextRows,
    columns: Columns,
    look_up: Callable[[int], RememberedObject | None],
    called: Callable[[str], Collection[int]],
    now: int,
) -> Reply:
    """Ranks the objects.

    Args:
        question: The question.
        competition: Its words as classes.
        rows: Text embeddings of all of these.
        columns: The objects to search.
        look_up: Gives an object by its id; None if it was forgotten meanwhile.
        called: Gives the ids of objects that frames or users called by a name.
        now: Nanoseconds, for ages.

    Raises:
        VocabularyError: A word has no text embedding.
    """
    chosen = _chosen(question, columns, called, now)
    by_name = {number for word in competition.wanted for number in called(word)}
    numbers = _shortlist(competition, rows, columns, chosen, by_name)
    objects = [item for number in numbers if (item := look_up(number)) is not None and item.state in question.states]
    if not objects:
        return Reply((), None, f"nothing is remembered that could be {_quoted(question.query)}")
    objects, probabilities = _ranked(objects, competition, rows, max(_FINALISTS, question.limit))
    ranked = [
        Answer(item, float(probability), item.age(now))
        for item, probability in zip(objects, probabilities, strict=True)
    ]
    found = tuple(item for item in ranked[: question.limit] if item.probability >= question.min_probability)
    return Reply(found, ranked[0], _sentence(question, found, ranked[0]))


def _chosen(question: Question, columns: Columns, called: Callable[[str], Collection[int]], now: int) -> np.ndarray:
    """Which objects pass the filters: bool `(N,)`."""
    chosen = columns.in_states(question.states)
    if question.max_age is not None:
        chosen &= np.maximum(now - columns.last_seen, 0) <= question.max_age * 1e9
    if question.area is not None:
        chosen &= question.area.contains(columns.positions)
    if question.called:
        chosen &= np.isin(columns.ids, [number for name in question.called for number in called(name)])
    return chosen


def _shortlist(
    competition: Competition, rows: TextRows, columns: Columns, chosen: np.ndarray, by_name: Collection[int]
) -> list[int]:
    """Ids of the objects that may be meant, at most twice `_SHORTLIST`."""
    if not chosen.any():
        return []
    cosines = columns.best_cosines(rows.rows(competition.wanted), chosen)
    count = min(_SHORTLIST, int(np.count_nonzero(chosen)))
    nearest = np.argpartition(-cosines, count - 1)[:count]
    if by_name:
        named = np.flatnonzero(chosen & np.isin(columns.ids, list(by_name)))
        nearest = np.union1d(nearest, named[np.argsort(-cosines[named])[:_SHORTLIST]])
    return [int(number) for number in columns.ids[nearest]]


def _ranked(
    objects: Sequence[RememberedObject], competition: Competition, rows: TextRows, count: int
) -> tuple[list[RememberedObject], np.ndarray]:
    """The `count` most probable objects, best first, and their probabilities, float64."""
    likeness = _out_of_vocabulary(np.stack([item.embedding for item in objects]), competition, rows)
    order = np.argsort(-_with_names(objects, likeness, competition), kind="stable")[:count]
    finalists = [objects[index] for index in order]
    # A mean blurs: half of the say is that of single views.
    owners = np.repeat(np.arange(len(finalists)), [len(item.views) for item in finalists])
    views = np.stack([view.embedding for item in finalists for view in item.views]).astype(np.float32)
    of_views = np.bincount(owners, _out_of_vocabulary(views, competition, rows)) / np.bincount(owners)
    probabilities = _with_names(finalists, (likeness[order] + of_views) / 2, competition)
    order = np.argsort(-probabilities, kind="stable")
    return [finalists[index] for index in order], probabilities[order]


def _out_of_vocabulary(embeddings: np.ndarray, competition: Competition, rows: TextRows) -> np.ndarray:
    """Softmax share of the query's words for each embedding `(N, D)`: float64 `(N,)`."""
    groups = (competition.wanted, *competition.rivals, *competition.background)
    texts = tuple(text for group in groups for text in group)
    logits = (embeddings @ rows.rows(texts).T).astype(np.float64) * rows.logit_scale
    starts = np.cumsum([0, *map(len, groups[:-1])])
    classes = np.maximum.reduceat(logits, starts, axis=1)
    if competition.background:
        classes[:, -len(competition.background) :] -= BACKGROUND_MARGIN
    shares = np.exp(classes - classes.max(1, keepdims=True))
    share: np.ndarray = shares[:, 0] / shares.sum(1)
    return share


def _with_names(objects: Sequence[RememberedObject], likeness: np.ndarray, competition: Competition) -> np.ndarray:
    """Probabilities `(N,)`, likeness to the words joined with what frames and users called the objects."""
    own = set(map(normal_form, competition.wanted))
    return np.array(
        [_joined(item, float(value), competition, own) for item, value in zip(objects, likeness, strict=True)]
    )


def _joined(item: RememberedObject, likeness: float, competition: Competition, own: Collection[str]) -> float:
    if item.own_name and normal_form(item.own_name) in own:
        return 1.0
    looks = sum(count for key, count in item.word_looks.items() if key in competition.named_in)
    if not looks:
        return likeness
    total = sum(item.names[word].score_sum for word in competition.wanted if word in item.names)
    return _NAMED_WEIGHT * min(total / looks, 1.0) + (1 - _NAMED_WEIGHT) * likeness


def _sentence(question: Question, found: Sequence[Answer], best: Answer) -> str:
    words = _quoted(question.query)
    what = found[0] if found else best
    x, y, z = what.object.position
    seen = (
        f"{what.object.name or 'something unnamed'} (object {what.object.id}) at ({x:.2f}, {y:.2f}, {z:.2f}) m, "
        f"probability {what.probability:.2f}, seen {_ago(what.age)}"
    )
    if found:
        further = f", and {len(found) - 1} more" if len(found) > 1 else ""
        return f"{words}: {seen}{further}"
    return f"nothing like {words} is remembered; the best is {seen}"


def _quoted(query: Query) -> str:
    return f'"{", ".join(query.words)}"'


def _ago(seconds: float) -> str:
    for unit, length in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
