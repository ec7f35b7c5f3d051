"""Text of users, files and messages as terminals, logs and our messages may have it: escaped, quoted, cut."""

from __future__ import annotations

import re
import reprlib
from typing import Any

_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but line ends and tabs; what turns the direction of writing; halves of characters."""

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


def short_name(name: object) -> str:
    """A name as an error shows it, such as a file's: control characters escaped, and cut where it goes on for long."""
    text = str(name)
    if len(text) > 300:
        text = f"{text[:300]}..."
    return text if text.isprintable() else repr(text)[1:-1]


def first_line(said: object) -> str:
    """The beginning of what a library or a program said; the rest is a trace, or pages of advice."""
    return str(said).strip().partition("\n")[0][:300]


def printable(text: object) -> str:
    r"""The text with what a terminal would obey, or no encoding can write, as escapes such as `\x1b`."""
    return _UNSAFE.sub(lambda found: _escape(ord(found[0])), str(text))


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
