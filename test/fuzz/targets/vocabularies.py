"""Vocabulary files of each kind; the first byte says which."""

from __future__ import annotations

from pathlib import Path

from hypothesis import strategies as st
from mutations import mutated

from fcclip_core.vocabulary.classes import Vocabulary

_SUFFIXES = (".yaml", ".txt", ".json")

_SAMPLES = (
    b"classes:\n- name: cup\n  synonyms: [mug, beaker]\n- name: floor\n  thing: false\n  color: [1, 2, 3]\n  id: 7\n",
    b"cup, mug\nfloor\n# a comment\nwall\n",
    b"1:cup, mug\n2:floor\n",
    b'{"classes": [{"name": "cup", "synonyms": ["mug"]}]}',
    b'["cup", "floor"]',
)


def inputs() -> st.SearchStrategy[bytes]:
    """A kind and a file."""
    return st.tuples(st.integers(0, 2), mutated(_SAMPLES)).map(lambda pair: bytes([pair[0]]) + pair[1])


def read(data: bytes, folder: Path) -> None:
    """Reads it; what was read is the same again after it was written."""
    path = folder / f"words{_SUFFIXES[data[0] % 3] if data else '.yaml'}"
    path.write_bytes(data[1:])
    vocabulary = Vocabulary.load(path)
    assert Vocabulary.from_yaml(vocabulary.to_yaml()) == vocabulary
