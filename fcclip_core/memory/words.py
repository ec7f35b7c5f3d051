"""The words that the memory knows: vocabularies that its frames were labeled with, and rows of text embeddings."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from fcclip_core.errors import VocabularyError
from fcclip_core.vocabulary.classes import Vocabulary, VocabularyClass
from fcclip_core.vocabulary.embedded_text import TextEmbeddings
from fcclip_core.vocabulary.word_overlap import WordIndex

MAX_VOCABULARIES = 256
"""Vocabularies known at most; beyond it the one that came first is dropped."""

MAX_WORDS = 2000
"""Words of a vocabulary at most; further ones are not known to the memory."""

_MAX_ROWS = 20_000
"""Text embeddings kept at most; beyond it all are dropped, and asked for again."""


class Vocabularies:
    """Words of the frames' vocabularies, by a key that objects refer to."""

    def __init__(self, known: Mapping[str, Sequence[str]] | None = None) -> None:
        """Starts with `known` vocabularies, words by key."""
        self._words: dict[str, tuple[str, ...]] = {}
        self._texts: tuple[str, ...] = ()
        self._index = WordIndex(())
        self._replace({key: tuple(words) for key, words in (known or {}).items()})

    def add(self, words: Sequence[str]) -> tuple[str, bool]:
        """The key of a vocabulary, and whether it is new; an empty key for no words."""
        if not words:
            return "", False
        words = tuple(words[:MAX_WORDS])
        key = key_of(words)
        if key in self._words:
            return key, False
        kept = list(self._words.items())[-MAX_VOCABULARIES + 1 :]
        self._replace({**dict(kept), key: words})
        return key, True

    def by_key(self) -> Mapping[str, Sequence[str]]:
        """All vocabularies; not to be written to."""
        return self._words

    def keys_with(self, words: Iterable[str]) -> frozenset[str]:
        """Keys of the vocabularies that have one of the words."""
        wanted = set(words)
        return frozenset(key for key, known in self._words.items() if not wanted.isdisjoint(known))

    def competitors(self, words: Sequence[str]) -> tuple[str, ...]:
        """All words that do not overlap with the given ones: those compete with them for an object."""
        overlapping = set().union(*map(self._index.overlapping, words))
        return tuple(text for number, text in enumerate(self._texts) if number not in overlapping and text not in words)

    def _replace(self, words: dict[str, tuple[str, ...]]) -> None:
        texts = tuple(dict.fromkeys(text for vocabulary in words.values() for text in vocabulary))
        self._words, self._texts, self._index = words, texts, WordIndex((text,) for text in texts)


class TextRows:
    """Rows of text embeddings of one text tower, by word."""

    def __init__(self, model: str = "") -> None:
        """Starts without rows.

        Args:
            model: The tower's identity; empty until the first rows come.
        """
        self.model = model
        self.logit_scale = 0.0
        self._rows: dict[str, np.ndarray] = {}

    def learn(self, names: Sequence[str], text: TextEmbeddings) -> None:
        """Adds rows.

        Raises:
            VocabularyError: They are of another model, do not fit the names, or are not unit vectors.
        """
        rows = np.asarray(text.rows, np.float32)
        if rows.ndim != 2 or len(rows) != len(names):
            raise VocabularyError(
                f"there are {len(names)} words and text embeddings of shape {rows.shape}; expected a row a word"
            )
        if not np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-2) or not 0 < text.logit_scale < 1e4:
            raise VocabularyError("the text embeddings are not unit vectors with a positive logit scale")
        if self.model and text.model != self.model:
            raise VocabularyError(
                f"the memory's words are embedded by the text tower {self.model[:12]!r}, these by {text.model[:12]!r}; "
                "ask with the checkpoint that the objects were seen with"
            )
        if len(self._rows) + len(names) > _MAX_ROWS:
            self._rows = {}
        self.model, self.logit_scale = text.model, float(text.logit_scale)
        self._rows = {**self._rows, **dict(zip(names, rows, strict=True))}

    def unknown(self, names: Iterable[str]) -> tuple[str, ...]:
        """The words without a row, each once."""
        return tuple(name for name in dict.fromkeys(names) if name not in self._rows)

    def rows(self, names: Sequence[str]) -> np.ndarray:
        """float32 `(N, D)`, a row for each word.

        Raises:
            VocabularyError: A word has none.
        """
        missing = self.unknown(names)
        if missing:
            raise VocabularyError(
                f"there is no text embedding of {missing[0]!r}; pass embed, or learn_words with unknown_words first"
            )
        return np.stack([self._rows[name] for name in names])


def groups_against(words: Sequence[str], background: Vocabulary | None) -> tuple[tuple[str, ...], ...]:
    """Synonyms of the background's classes that do not overlap with the words."""
    if background is None:
        return ()
    return tuple(
        item.synonyms for item in Vocabulary((VocabularyClass(tuple(words)),)).background(background).competing
    )


def key_of(words: Sequence[str]) -> str:
    """A short key of a list of words, the same for the same words in another order."""
    return hashlib.sha256("\n".join(sorted(words)).encode()).hexdigest()[:16]
