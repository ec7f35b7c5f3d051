"""Values of others as our messages show them: quoted, escaped, and never longer than a line."""

from __future__ import annotations

import reprlib
from typing import Any

_LONGEST = 40


class _Repr(reprlib.Repr):
    """Looks at the beginning of a value only, so that a large one costs nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 2
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = 3
        self.maxlong = self.maxother = _LONGEST

    def repr_str(self, x: str, level: int) -> str:
        """A text's beginning."""
        return repr(x if len(x) <= _LONGEST else f"{x[:_LONGEST]}...")

    def repr_int(self, x: int, level: int) -> str:
        """A number, or how long it is: Python refuses to write out the longest ones."""
        return repr(x) if x.bit_length() <= 4 * _LONGEST else f"a number of {x.bit_length()} bits"

    def repr_bytes(self, x: bytes, level: int) -> str:
        """The beginning of some bytes."""
        return repr(x[:_LONGEST])


_REPR = _Repr()


def short(value: Any) -> str:
    """A value as an error shows it: quoted, with control characters escaped, and cut where it goes on for long."""
    try:
        text = _REPR.repr(value)
    except Exception:  # whatever a foreign object's own repr does
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 400 else f"{text[:400]}..."


def short_path(path: object) -> str:
    """A file's name as an error shows it: control characters escaped, and cut where it goes on for long."""
    text = str(path)
    if len(text) > 300:
        text = f"{text[:300]}..."
    return text if text.isprintable() else repr(text)[1:-1]
