"""A class with the id and the color by which messages and label images name it."""

from __future__ import annotations

from dataclasses import dataclass

from fcclip_core.vocabulary.classes import VocabularyClass


@dataclass(frozen=True)
class ResolvedClass:
    """A class with what was resolved for it.

    Attributes:
        item: The class.
        id: Its stable id, from 1.
        color: (r, g, b), 0..255.
        seen: Whether the ensemble treats it as seen in training.
    """

    item: VocabularyClass
    id: int
    color: tuple[int, int, int]
    seen: bool
