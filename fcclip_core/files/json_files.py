"""Writes JSON files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fcclip_core.files.atomic_write import write_atomically


def json_line(document: Any) -> bytes:
    """A document on one line, with a line end, in UTF-8."""
    return _encoded(json.dumps(document, ensure_ascii=False))


def write_json(path: Path, document: Any) -> None:
    """Writes a document atomically.

    Raises:
        OSError: The file cannot be written.
    """
    write_atomically(path, _encoded(json.dumps(document, indent=1, ensure_ascii=False)))


def _encoded(text: str) -> bytes:
    # File names that are not UTF-8 contain lone surrogates, which are valid JSON as \udcXX escapes.
    return f"{text}\n".encode("utf-8", "backslashreplace")
