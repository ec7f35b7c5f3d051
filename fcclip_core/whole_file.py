"""Files that are whole or not there: written beside their place and moved into it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives the path of a hidden file beside `path` to write to, and moves it there when the block succeeds.

    Whatever stops the block, Ctrl-C too, `path` is either complete or untouched.
    """
    part = path.with_name(f".{path.stem}.{os.getpid()}.{threading.get_ident()}{path.suffix}")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
