"""Text of others reaches a terminal as text."""

from __future__ import annotations

from fcclip_core.quoting import printable


def test_terminal_escapes_in_names_are_written_out() -> None:
    assert printable("a\x1b[31mred\x07\u202e") == "a\\x1b[31mred\\x07\\u202e"
    assert printable("two\nlines\tand 工具箱") == "two\nlines\tand 工具箱"
