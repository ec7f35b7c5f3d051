"""Files of the cache that somebody else may have damaged: none is believed, none raises."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from hypothesis import strategies as st
from mutations import mutated

from fcclip_core.export.built_files import BuiltFiles

_NAME, _KEY, _CONTENT = "network.bin", {"model": "tiny", "height": 64, "width": 64}, bytes(range(256)) * 8


@functools.cache
def _sample() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        BuiltFiles(Path(folder)).keep(_NAME, _KEY, _CONTENT)
        return (Path(folder) / _NAME).read_bytes()


def inputs() -> st.SearchStrategy[bytes]:
    """Damage to a whole file."""
    return mutated([_sample()])


def read(data: bytes, folder: Path) -> None:
    """Reads it back: the content that was kept, or nothing."""
    (folder / _NAME).write_bytes(data)
    files = BuiltFiles(folder)
    assert files.kept(_NAME, _KEY) in (None, _CONTENT)
    files.is_current(_NAME, _KEY)
