"""Files and folders that are whole or not there: written beside their place and moved into it."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
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


class WholeFolder(contextlib.AbstractContextManager[Path]):
    """Gives a new folder to fill, which takes the place of `path` when the block succeeds.

    Whatever stops the block, what was at `path` is either replaced as a whole or untouched. The new folder has the name
    that it is going to have, in a hidden one beside its place.
    """

    def __init__(self, path: Path) -> None:
        """Prepares; nothing is made before the `with` block."""
        self._path = path

    def __enter__(self) -> Path:
        """Makes the folder."""
        self._hidden = Path(tempfile.mkdtemp(prefix=f".{self._path.name}.", dir=self._path.parent))
        folder = self._hidden / self._path.name
        folder.mkdir()
        return folder

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Moves it to its place, or removes it."""
        try:
            if error is None:
                old = self._hidden / "old"
                if self._path.exists():
                    self._path.rename(old)
                try:
                    (self._hidden / self._path.name).rename(self._path)
                except OSError:
                    if old.exists():
                        old.rename(self._path)
                    raise
        finally:
            shutil.rmtree(self._hidden, ignore_errors=True)
