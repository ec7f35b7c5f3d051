"""Whether two names may mean the same thing, by their words alone: "mug" and "mugs", "ball" and "red ball"."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator

MOST_WORDS = 8
"""Words of a name that are compared; what follows them does not count."""

_IRREGULAR = {
    "buses": "bus",
    "children": "child",
    "feet": "foot",
    "heroes": "hero",
    "knives": "knife",
    "leaves": "leaf",
    "loaves": "loaf",
    "men": "man",
    "mice": "mouse",
    "people": "person",
    "potatoes": "potato",
    "scarves": "scarf",
    "shelves": "shelf",
    "teeth": "tooth",
    "tomatoes": "tomato",
    "wolves": "wolf",
    "women": "woman",
}
_NO_PLURAL = ("ss", "us", "is")
_LONG_PLURAL = ("sses", "shes", "ches", "xes", "zzes")


class WordIndex:
    """Groups of names, and which of them overlap with another name: are it, contain it, or are contained in it."""

    def __init__(self, groups: Iterable[Iterable[str]]) -> None:
        """Reads the names, such as the synonyms of one class after the other."""
        self._whole: dict[tuple[str, ...], set[int]] = defaultdict(set)
        self._parts: dict[tuple[str, ...], set[int]] = defaultdict(set)
        for number, names in enumerate(groups):
            for words in filter(None, map(words_of, names)):
                self._whole[words].add(number)
                for run in _runs(words):
                    self._parts[run].add(number)

    def overlapping(self, name: str) -> set[int]:
        """The numbers, from 0, of the groups with a name that overlaps with this one, word by word."""
        words = words_of(name)
        found = set(self._parts.get(words, ()))
        return found.union(*(self._whole[run] for run in _runs(words) if run in self._whole))


def words_of(name: str) -> tuple[str, ...]:
    """The words of a name, at most `MOST_WORDS`: letters and digits, without capitals, in the singular."""
    plain = unicodedata.normalize("NFKC", name).casefold()
    return tuple(map(_singular, re.findall(r"[^\W_]+", plain)[:MOST_WORDS]))


def _singular(word: str) -> str:
    """An English word without its plural's ending, as far as that can be told from its letters."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) < 4 or not word.endswith("s") or word.endswith(_NO_PLURAL):
        return word
    if word.endswith("ies") and len(word) > 4:
        return f"{word[:-3]}y"
    return word[:-2] if word.endswith(_LONG_PLURAL) else word[:-1]


def _runs(words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """All runs of neighboring words, the words as a whole among them."""
    for start in range(len(words)):
        for stop in range(start + 1, len(words) + 1):
            yield words[start:stop]
