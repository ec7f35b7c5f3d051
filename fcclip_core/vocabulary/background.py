"""Which vocabulary competes, unseen, with the user's words: what `background` may be, in the node and in commands."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fcclip_core.errors import VocabularyError
from fcclip_core.settings import AUTO
from fcclip_core.vocabulary.classes import Vocabulary

NONE = "none"


def background_from(words: Sequence[str], default: Callable[[], Vocabulary | None] | None) -> Vocabulary | None:
    """The vocabulary whose classes compete as far as they do not overlap with the user's (`Vocabulary.background`).

    Args:
        words: "auto" alone for what suits the checkpoint, "none" alone or nothing for none, else what
            `Vocabulary.from_words` takes.
        default: What suits the checkpoint, `Segmenter.default_background`; needed for "auto" alone.

    Raises:
        VocabularyError: The words cannot be used.
    """
    if tuple(words) == (AUTO,):
        if default is None:
            raise VocabularyError("the background is auto, which needs a checkpoint")
        return default()
    if not words or tuple(words) == (NONE,):
        return None
    return Vocabulary.from_words(words)
