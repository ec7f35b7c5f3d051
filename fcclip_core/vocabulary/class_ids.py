"""Stable class ids: what a label image's values mean does not change while a segmenter lives."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from fcclip_core.errors import VocabularyError
from fcclip_core.quoting import short
from fcclip_core.vocabulary.classes import MAX_CLASSES, Vocabulary


class ClassIds:
    """Gives classes their ids: a name keeps its id for the life of the object, no id ever changes hands.

    May be used from several threads.
    """

    def __init__(self) -> None:
        """Starts with no ids assigned."""
        self._lock = threading.Lock()
        self._id_of: dict[str, int] = {}

    def resolve(self, vocabulary: Vocabulary) -> tuple[int, ...]:
        """Finds the id of each class; ids that were assigned before stay.

        A name that was seen before keeps its id; ids that classes ask for are honored; the others get the smallest
        numbers that were never used. Distractors get none, though one that such a class asks for is kept for it.

        Args:
            vocabulary: Its classes' names and the ids they ask for.

        Returns:
            C ids: all different, each in 1..65535, but 0 for distractors.

        Raises:
            VocabularyError: A requested id was assigned to another name, or the ids are used up. Nothing has
                changed then.
        """
        with self._lock:
            self._id_of, ids = self._resolved(vocabulary)
            return ids

    def look_up(self, vocabulary: Vocabulary) -> tuple[int, ...]:
        """The ids that `resolve` would give now, without promising those that are new; errors as there."""
        with self._lock:
            return self._resolved(vocabulary)[1]

    def _resolved(self, vocabulary: Vocabulary) -> tuple[dict[str, int], tuple[int, ...]]:
        """All assignments, with those of a vocabulary, and its classes' ids."""
        id_of = dict(self._id_of)
        name_of = {number: name for name, number in id_of.items()}
        for item in vocabulary.classes:
            if item.id is not None:
                _claim(item.name, item.id, id_of, name_of)
        free = (number for number in range(1, MAX_CLASSES + 1) if number not in name_of)
        for item in vocabulary.classes:
            if item.name not in id_of and not item.distractor:
                id_of[item.name] = _next_id(free, item.name)
        return id_of, tuple(0 if item.distractor else id_of[item.name] for item in vocabulary.classes)


def _claim(name: str, number: int, id_of: dict[str, int], name_of: dict[int, str]) -> None:
    if id_of.get(name, number) != number:
        raise VocabularyError(
            f"class {short(name)} asks for id {number} but has had id {id_of[name]} since it was first used; ask for "
            "that one or for none"
        )
    if name_of.get(number, name) != name:
        raise VocabularyError(
            f"class {short(name)} asks for id {number}, which was given to {short(name_of[number])} and is never "
            "given to another name; ask for another id or for none"
        )
    id_of[name] = number
    name_of[number] = name


def _next_id(free: Iterator[int], name: str) -> int:
    number = next(free, None)
    if number is None:
        raise VocabularyError(
            f"no id is left for class {short(name)}: all {MAX_CLASSES} are assigned; start a new segmenter"
        )
    return number
