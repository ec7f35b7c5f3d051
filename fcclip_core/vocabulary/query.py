"""What is looked for, in a frame or in the memory: words, and words that compete with them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fcclip_core.errors import VocabularyError
from fcclip_core.quoting import short
from fcclip_core.vocabulary.classes import VocabularyClass


@dataclass(frozen=True)
class Query:
    """A search query.

    Attributes:
        words: Synonyms of the object to find, at least one.
        distractors: Distractors in addition to the frame's vocabulary; synonyms of each.
    """

    words: tuple[str, ...]
    distractors: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def of(cls, words: Iterable[str], distractors: Iterable[str] = ()) -> Query:
        """Parses user input: commas separate synonyms, and surrounding blanks are ignored.

        Raises:
            VocabularyError: No words, or one is empty, too long or not printable.
        """
        words, distractors = (_listed(*pair) for pair in (("words", words), ("distractors", distractors)))
        wanted = tuple(dict.fromkeys(part for text in words for part in _synonyms("words", text)))
        if not wanted:
            raise VocabularyError('words is empty; pass what to look for, for example ["red mug"]')
        rivals = (_synonyms("distractors", text) for text in distractors)
        return cls(wanted, tuple(row for row in rivals if row))

    @property
    def names(self) -> tuple[str, ...]:
        """All words that need a text embedding."""
        return tuple(dict.fromkeys((*self.words, *(text for row in self.distractors for text in row))))


def _listed(what: str, texts: Iterable[str]) -> list[str]:
    """Checks that `texts` is a list: a single string would be iterated by characters."""
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable):
        raise VocabularyError(f'{what} is {short(texts)}; expected a list, for example ["red mug"]')
    return list(texts)


def _synonyms(what: str, text: str) -> tuple[str, ...]:
    if not isinstance(text, str):
        raise VocabularyError(f"{what} has {short(text)}; expected a string")
    try:
        return VocabularyClass(tuple(part.strip() for part in text.split(","))).synonyms
    except VocabularyError as error:
        raise VocabularyError(f"{what}: {error}") from error
