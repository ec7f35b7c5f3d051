"""Which vocabulary competes, unseen, with the user's words: what `background` may be, in the node and in commands."""

from __future__ import annotations

from collections.abc import Sequence

from fcclip_core.errors import VocabularyError
from fcclip_core.model_zoo import AUTO
from fcclip_core.segmenter import Segmenter
from fcclip_core.vocabulary import Vocabulary

NONE = "none"


def background_from(words: Sequence[str], segmenter: Segmenter | None) -> Vocabulary | None:
    """The vocabulary whose classes compete as far as they do not overlap with the user's (`Vocabulary.background`).

    Args:
        words: "auto" alone for what suits the checkpoint, "none" alone or nothing for none, else what
            `Vocabulary.from_words` takes.
        segmenter: Knows the checkpoint; needed for "auto" alone.

    Raises:
        VocabularyError: The words cannot be used.
    """
    if tuple(words) == (AUTO,):
        if segmenter is None:
            raise VocabularyError("the background is auto, which needs a checkpoint")
        return segmenter.default_background()
    if not words or tuple(words) == (NONE,):
        return None
    return Vocabulary.from_words(words)
