"""JSON as it is written to files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fcclip_core.files.atomic_write import write_atomically


def json_line(document: Any) -> bytes:
    """A document on one line, with its end, in UTF-8."""
    return _encoded(json.dumps(document, ensure_ascii=False))


def write_json(path: Path, document: Any) -> None:
    """Writes a document, whole or not at all.

    Raises:
        OSError: The disk refuses.
    """
    write_atomically(path, _encoded(json.dumps(document, indent=1, ensure_ascii=False)))


def _encoded(text: str) -> bytes:
    # A file name that is not UTF-8 holds lone surrogates. As \udcXX they are legal JSON, and give the name back.
    return f"{text}\n".encode("utf-8", "backslashreplace")
