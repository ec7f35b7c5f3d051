"""Inputs that are nearly valid."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

NUMBERS = (0, 1, 2, 3, 7, 255, 256, 4_096, 13_000, 65_535, 400_000, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)
"""Numbers at which sizes, counts and offsets go wrong."""

_WORDS = (
    "",
    "0",
    "-1",
    "1e999",
    "nan",
    "\x00",
    "\ufeff",
    "\x1b[2J",
    "../..",
    "[/]",
    "{}",
    "[]",
    "true",
    "~",
    "a" * 5_000,
)
_NESTED = (b"[" * 3_000, b'{"a":' * 3_000, b"- " * 3_000, b"!!bool x", b"&a [*a, *a]", b"<<: *a")


def _written(number: int) -> st.SearchStrategy[bytes]:
    """A number in the ways that file formats write it."""
    little, short = (number & 0xFFFFFFFF).to_bytes(4, "little"), (number & 0xFFFF).to_bytes(2, "big")
    return st.sampled_from([number.to_bytes(8, "little"), little, little[::-1], short])


_bytes = st.one_of(
    st.binary(max_size=16),
    st.sampled_from(NUMBERS).flatmap(_written),
    st.sampled_from(_WORDS).map(str.encode),
    st.sampled_from(_NESTED),
)


@st.composite
def mutated(draw: st.DrawFn, samples: Sequence[bytes], most: int = 6) -> bytes:
    """A sample with up to `most` edits: bytes written over, put in, left out or repeated, or the end cut off."""
    data = bytearray(draw(st.sampled_from(list(samples))))
    for _ in range(draw(st.integers(0, most))):
        # Beginnings hold the sizes, so they are edited more often.
        end = draw(st.sampled_from([16, 64, 1_024, len(data)]))
        at = draw(st.integers(0, min(end, len(data))))
        kind, piece = draw(st.sampled_from(["over", "in", "out", "again", "cut"])), draw(_bytes)
        length = draw(st.sampled_from([1, 4, 64, 1_000]))
        if kind == "over":
            data[at : at + len(piece)] = piece
        elif kind == "in":
            data[at:at] = piece
        elif kind == "out":
            del data[at : at + length]
        elif kind == "again":
            data[at:at] = data[at : at + length]
        elif draw(st.booleans()):  # a cut ends most inputs at once
            del data[at:]
    return bytes(data)


_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(NUMBERS),
    st.sampled_from([-1, -(2**63), 10**400, 0.5, float("inf")]),
    st.sampled_from(_WORDS),
    st.just([]),
    st.just({}),
)


@st.composite
def mutated_json(draw: st.DrawFn, sample: Any, most: int = 3) -> Any:
    """A JSON value in which up to `most` parts, however deep, are replaced, left out or doubled."""
    value = json.loads(json.dumps(sample))
    for _ in range(draw(st.integers(1, most))):
        value = _edited(draw, value)
    return value


def _edited(draw: st.DrawFn, value: Any) -> Any:
    if isinstance(value, dict) and value and draw(st.integers(0, 9)):
        key = draw(st.sampled_from(sorted(value)))
        how = draw(st.integers(0, 9))
        if how == 0:
            return {name: part for name, part in value.items() if name != key}
        if how == 1:
            return {**value, draw(st.sampled_from(_WORDS)): value[key]}
        return {**value, key: _edited(draw, value[key])}
    if isinstance(value, list) and value and draw(st.integers(0, 9)):
        index = draw(st.integers(0, len(value) - 1))
        return [*value[:index], _edited(draw, value[index]), *value[index + 1 :]]
    if isinstance(value, str) and draw(st.booleans()):
        # JSON inside a text: metadata of safetensors files.
        try:
            inner = json.loads(value)
        except ValueError:
            inner = None
        if isinstance(inner, (dict, list)):
            return json.dumps(_edited(draw, inner))
    return draw(_scalars)
