"""Text of users, files and messages as it may go to a terminal or a log."""

from __future__ import annotations

import re

_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but line ends and tabs; what turns the direction of writing; halves of characters."""


def printable(text: object) -> str:
    r"""The text with what a terminal would obey, or no encoding can write, as escapes such as `\x1b`."""
    return _UNSAFE.sub(lambda found: _escape(ord(found[0])), str(text))


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
