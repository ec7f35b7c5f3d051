"""Text of others for a terminal."""

from __future__ import annotations


def plain(text: object) -> str:
    """A text without control characters, which could move the cursor or color a terminal; they are written out.

    Line breaks and tabs stay.
    """
    shown = str(text)
    if shown.isprintable():
        return shown
    return "".join(
        character if character.isprintable() or character in "\n\t" else repr(character)[1:-1] for character in shown
    )
