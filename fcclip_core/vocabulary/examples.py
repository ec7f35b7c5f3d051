"""Classes taught by showing: embeddings of segments become text rows.

CLIP's embeddings of images and of texts lie apart (the modality gap): two segments of one class are much more alike
than a segment and its word. An example that competed with words as it is would win too often. So the mean of a class's
examples is moved and scaled first:

    row = mean of the text rows + gain * (mean of the examples - mean of all segments)

The gain makes a matching example as good as a matching word: it is the ratio of two averages, the excess of a segment's
cosine with its word, and that with another segment of its class. Both are measured on segments that the model itself
names, surely, with its training vocabulary; no picture needs a label.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from fcclip_core.errors import VocabularyError
from fcclip_core.quoting import short

MAX_EXAMPLES = 20
"""Examples of one class."""

WORD_WEIGHT = 10
"""Examples that a word counts as beside them; chosen by measurement (docs/reference/results.md)."""

MAX_DIMENSION = 8192
"""Numbers of an embedding; the largest CLIP's have 1280."""

FEW_SEGMENTS = 40
"""Below this number of segments a calibration is said to be rough."""

_UNIT = 1e-2
_LARGEST_SHIFT = 10.0
_GAINS = (0.01, 10.0)
_SURE = 0.5
"""Probability of a name from which on it counts."""
_SAME_VIEW = 0.98
"""Cosine from which on two segments are the same thing in nearly the same picture, which says nothing new."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """How embeddings of segments become rows beside text rows.

    Attributes:
        shift: float32 `(D,)`, what a row begins with: text mean minus gain times segment mean.
        gain: What the mean of examples is multiplied with.
        segments: Number of segments that it was measured on.
    """

    shift: np.ndarray
    gain: float
    segments: int


@dataclass(frozen=True, eq=False)
class Examples:
    """Examples of one class. Equal ones have equal numbers.

    Attributes:
        embeddings: float32 `(N, D)`, unit rows: out-of-vocabulary embeddings of segments, 1 to 20.
        model: Identity of the model that made them (`TextEmbeddings.model`).
        shift: See `Calibration`.
        gain: See `Calibration`.
    """

    embeddings: np.ndarray = field(repr=False)
    model: str
    shift: np.ndarray = field(repr=False)
    gain: float

    def __post_init__(self) -> None:
        """Checks every number.

        Raises:
            VocabularyError: Saying what is wrong and what was expected.
        """
        object.__setattr__(self, "embeddings", checked_embeddings(self.embeddings))
        if len(self.embeddings) > MAX_EXAMPLES:
            raise VocabularyError(
                f"there are {len(self.embeddings)} examples of a class; at most {MAX_EXAMPLES} are kept: choose those "
                "that differ most"
            )
        if not isinstance(self.model, str) or not 0 < len(self.model) <= 1000:
            raise VocabularyError(f"the model of the examples is {short(self.model)}; expected its identity as text")
        shift = _floats(self.shift)
        if shift is None or shift.shape != self.embeddings.shape[1:] or np.linalg.norm(shift) > _LARGEST_SHIFT:
            raise VocabularyError(
                f"the shift of the examples is not {self.embeddings.shape[1]} finite numbers of a length of at most "
                f"{_LARGEST_SHIFT:g}; teach the class again"
            )
        object.__setattr__(self, "shift", shift)
        if not isinstance(self.gain, float) or not _GAINS[0] <= self.gain <= _GAINS[1]:
            raise VocabularyError(
                f"the gain of the examples is {short(self.gain)}; expected a number between {_GAINS[0]:g} and "
                f"{_GAINS[1]:g}: teach the class again"
            )

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.embeddings)

    def __eq__(self, other: object) -> bool:
        """Whether all numbers are the same."""
        return isinstance(other, Examples) and self._digest == other._digest

    def __hash__(self) -> int:
        """Of the numbers."""
        return hash(self._digest)

    @functools.cached_property
    def _digest(self) -> bytes:
        parts = (self.model.encode(), self.embeddings.tobytes(), self.shift.tobytes(), repr(self.gain).encode())
        return hashlib.sha256(b"\0".join(parts)).digest()

    @property
    def row(self) -> np.ndarray:
        """What stands beside text rows for these examples: float32 `(D,)`, not of unit length."""
        row: np.ndarray = self.shift + np.float32(self.gain) * self.embeddings.mean(0)
        return row

    def share(self, is_wordless: bool) -> float:
        """How much of the class's rows comes from the examples, 0..1: all of it without words."""
        return 1.0 if is_wordless else len(self) / (len(self) + WORD_WEIGHT)

    def joined(self, embeddings: np.ndarray, calibration: Calibration) -> Examples:
        """These examples and further ones, under a newer calibration.

        Raises:
            VocabularyError: Too many, or of another length.
        """
        embeddings = checked_embeddings(embeddings)
        if embeddings.shape[1] != self.embeddings.shape[1]:
            raise VocabularyError(
                f"the new examples have {embeddings.shape[1]} numbers, the earlier ones {self.embeddings.shape[1]}; "
                "they are of different models: forget the earlier ones first"
            )
        if len(self) + len(embeddings) > MAX_EXAMPLES:
            raise VocabularyError(
                f"the class has {len(self)} examples, and {len(embeddings)} more are too many: at most {MAX_EXAMPLES} "
                "are kept; forget the class and teach those that differ most"
            )
        return Examples(np.concatenate((self.embeddings, embeddings)), self.model, calibration.shift, calibration.gain)


def checked_embeddings(given: object) -> np.ndarray:
    """Embeddings of segments as float32 `(N, D)`, read-only.

    Raises:
        VocabularyError: They are no such array, not finite, or not of unit length.
    """
    rows = _floats(given)
    if rows is None or rows.ndim != 2 or not len(rows) or not 0 < rows.shape[1] <= MAX_DIMENSION:
        raise VocabularyError(
            "the examples are no array of finite numbers of shape (examples, dimension); expected the embeddings of "
            "segments, one a row"
        )
    if not np.allclose(np.linalg.norm(rows, axis=1), 1.0, atol=_UNIT):
        raise VocabularyError("an example is not of unit length; divide each embedding by its L2 norm")
    return rows


def distinct(embeddings: np.ndarray) -> np.ndarray:
    """Unit rows `(N, D)` without those that are nearly an earlier one: a robot that stands still sees nothing new."""
    kept: np.ndarray = np.empty_like(embeddings)
    count = 0
    for row in embeddings:
        if not count or (kept[:count] @ row).max() < _SAME_VIEW:
            kept[count] = row
            count += 1
    return kept[:count]


def calibrate(segments: np.ndarray, text_rows: np.ndarray, class_of_row: Sequence[int], scale: float) -> Calibration:
    """Measures how far embeddings of segments lie from those of texts, and how much more alike they are.

    Args:
        segments: float32 `(N, D)`, unit embeddings of any segments, the more and the more different the better.
        text_rows: float32 `(T, D)`, unit text rows of the training vocabulary.
        class_of_row: The class of each text row.
        scale: CLIP's logit scale.

    Raises:
        VocabularyError: No segment, or of another dimension than the texts.
    """
    found = distinct(checked_embeddings(segments))
    if found.shape[1] != text_rows.shape[1]:
        raise VocabularyError(
            f"the segments have {found.shape[1]} numbers and the texts {text_rows.shape[1]}; they are of different "
            "models"
        )
    segment_mean, text_mean = found.mean(0), text_rows.mean(0)
    logits = scale * found @ text_rows.T
    odds = np.exp(logits - logits.max(1, keepdims=True))
    best = logits.argmax(1)
    names = np.asarray(class_of_row)[best]
    same_name = names[:, None] == np.asarray(class_of_row)[None]
    sure = (odds * same_name).sum(1) > _SURE * odds.sum(1)
    if not sure.any():
        sure[:] = True
    named, names, best = found[sure], names[sure], best[sure]
    to_word = float((named * (text_rows[best] - text_mean)).sum(1).mean())
    alike = named @ (named - segment_mean).T
    pairs = (names[:, None] == names[None]) & ~np.eye(len(names), dtype=bool)
    # Without two segments of one name, a segment is compared with itself: more alike than any pair, so that the
    # examples win too seldom rather than too often.
    to_other = float(alike[pairs].mean() if pairs.any() else alike.diagonal().mean())
    gain = float(np.clip(to_word / to_other, *_GAINS)) if to_other > 0 < to_word else 1.0
    shift = (text_mean - gain * segment_mean).astype(np.float32)
    return Calibration(shift, gain, len(found))


def _floats(given: object) -> np.ndarray | None:
    """A read-only float32 copy; None if it is no array of finite numbers."""
    try:
        rows = np.array(given, np.float32)
    except (TypeError, ValueError):
        return None
    if not np.isfinite(rows).all():
        return None
    rows.flags.writeable = False
    return rows
