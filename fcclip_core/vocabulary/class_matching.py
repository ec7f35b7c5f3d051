"""Which class of a vocabulary is which class of a dataset or of another vocabulary: by name, by id, by position."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from fcclip_core.errors import VocabularyError
from fcclip_core.quoting import short
from fcclip_core.vocabulary.classes import Vocabulary, VocabularyClass

_SUFFIXES = ("merged", "other", "stuff")
"""Words at the end of COCO's names that say how a class was made, not what it is: "wall-other-merged"."""


@dataclass(frozen=True)
class Matching:
    """A list of classes with the classes of a vocabulary.

    Attributes:
        classes: For each name of the list, the vocabulary's class.
        how: By what they were matched, human-readable.
    """

    classes: tuple[VocabularyClass, ...]
    how: str


def match_classes(
    names: Sequence[str], vocabulary: Vocabulary, ids: Sequence[int] = (), known_ids: Sequence[int] = ()
) -> Matching | None:
    """Matches a list of classes with a vocabulary that may or may not be meant for it.

    By name; else by ids that are known to stand for the vocabulary's classes; else, where half of the names or more
    have a class, by name again, and the others go by their own names.

    Args:
        names: The list's names; "floor-wood", "wood floor" and "Wood Floor" are one.
        vocabulary: Of any order.
        ids: One a name.
        known_ids: One a class of the vocabulary.

    Returns:
        The matching; None where the vocabulary holds other classes.
    """
    by_name = _by_name(names, vocabulary)
    alone = [name for name, position in zip(names, by_name, strict=True) if position is None]
    if alone and known_ids and sorted(ids) == sorted(known_ids):
        position_of = {number: position for position, number in enumerate(known_ids)}
        order = [position_of[number] for number in ids]
        # A user's own ids may be the same numbers by chance: no name may contradict them.
        if all(named in (None, position) for named, position in zip(by_name, order, strict=True)):
            return Matching(tuple(vocabulary.classes[position] for position in order), "by the ids of its categories")
    if 2 * len(alone) > len(names):
        return None
    how = "by name"
    if alone:
        how += f"; by their own names alone: {', '.join(map(short, alone[:5]))}" + (", ..." if len(alone) > 5 else "")
    return Matching(
        tuple(
            VocabularyClass((name,)) if position is None else vocabulary.classes[position]
            for name, position in zip(names, by_name, strict=True)
        ),
        how,
    )


def match_in_order(names: Sequence[str], vocabulary: Vocabulary, whose: str) -> Matching:
    """Matches a list of classes with a vocabulary that is meant for it: by name, else by position.

    Args:
        names: The list's names; empty where it has none, which leaves the position.
        vocabulary: As many classes.
        whose: Whose list it is, for errors.

    Raises:
        VocabularyError: The numbers differ, or names that occur in both stand in other places while further names have
            no match.
    """
    count = len(vocabulary)
    if names and len(names) == count:
        by_name = _by_name(names, vocabulary)
        if None not in by_name:
            return Matching(tuple(vocabulary.classes[at] for at in by_name if at is not None), "by name")
        moved = [(name, at) for at, name in enumerate(names) if by_name[at] not in (None, at)]
        if moved:
            name, at = moved[0]
            alone = names[by_name.index(None)]
            raise VocabularyError(
                f"the vocabulary's classes stand in another order than {whose}: class {at + 1} there is "
                f"{short(name)}, here {short(vocabulary.names[at])}; they cannot be matched by name either, since "
                f"{short(alone)} is no name here: add it as a synonym, or put the classes into that order"
            )
        matched = count - by_name.count(None)
        return Matching(vocabulary.classes, f"by position; {matched} of {count} names agree")
    if names and len(names) != count:
        raise VocabularyError(
            f"the vocabulary has {count} classes, but {whose} has {len(names)}; give one class for each of them, with "
            "its name among the synonyms, or in its place"
        )
    return Matching(vocabulary.classes, "by position")


def _by_name(names: Sequence[str], vocabulary: Vocabulary) -> list[int | None]:
    """For each name the one class that it means, by its first name before its synonyms; None without or with two."""
    first = _owners([[item.name, item.synonyms[0]] for item in vocabulary.classes])
    any_ = _owners([[item.name, *item.synonyms] for item in vocabulary.classes])
    found: list[int | None] = []
    for name in names:
        # "road, route" is one name of ADE20K's.
        texts = [name, *name.split(",")] if "," in name else [name]
        candidates = (owners[key] for owners in (first, any_) for text in texts for key in _keys(text) if key in owners)
        found.append(next((next(iter(owner)) for owner in candidates if len(owner) == 1), None))
    counts = Counter(found)
    return [position if counts[position] == 1 else None for position in found]


def _owners(texts: Sequence[Sequence[str]]) -> dict[str, set[int]]:
    owners: dict[str, set[int]] = {}
    for position, names in enumerate(texts):
        for key in {key for name in names for key in _keys(name)}:
            owners.setdefault(key, set()).add(position)
    return owners


def _keys(name: str) -> tuple[str, ...]:
    """What equal names have in common: their words in any order, and the words written as one."""
    words = re.split(r"[\W_]+", unicodedata.normalize("NFKC", name).casefold())
    words = [word for word in words if word]
    while len(words) > 1 and words[-1] in _SUFFIXES:
        words.pop()
    return (" ".join(sorted(words)), "".join(words)) if words else ()
