"""YAML of others: plain data, each key once, at the cost of its bytes."""

from __future__ import annotations

import math

import pytest

from fcclip_core.errors import YamlError
from fcclip_core.files.yaml_text import MAX_DEPTH, MAX_VALUES, read_yaml


def test_plain_data_reads_as_yaml_does() -> None:
    text = "a: [x, no, 0x1F, ~, '7', 1_000]\nb: {c: 1.5, d: -.inf}\ne: ! 7\nf: !!str no\ng: 2001-09-09\nh: <<\n"
    assert read_yaml(text) == {
        "a": ["x", False, 31, None, "7", 1000],
        "b": {"c": 1.5, "d": -math.inf},
        "e": "7",
        "f": "no",
        "g": "2001-09-09",
        "h": "<<",
    }
    assert read_yaml("") is None
    assert read_yaml("\ufeffa: 1") == {"a": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x 1\nb: *x", "line 1: anchors and aliases"),
        ("&x [*x]", "line 1: anchors and aliases"),
        ("a: 1\nb: *x", "line 2: anchors and aliases"),
        ("a: &x {b: 1}\nc: {<<: *x}", "anchors"),
        ("<<: {a: 1}", "line 1: merge keys"),
        ("- !!bool x", "the tag .*:bool"),
        ("- !!timestamp 2001-99-99", "the tag .*:timestamp"),
        ("- !!binary aGk=", "the tag .*:binary"),
        ("- !!set {a}", "the tag .*:set"),
        ("- !own x", "the tag '!own'"),
        ("!!python/object/apply:os.system [id]", "the tag .*python"),
        ("a: 1\nb: 2\na: 3", "line 3: duplicate key 'a', first in line 1"),
        ("- {a: 1, b: {c: 1, c: 2}}", "duplicate key 'c'"),
        ('{"a": 1,\n "a": 2}', "line 2: duplicate key 'a'"),
        ("a: 1\n7: b", "line 2: a key is 7; expected a string"),
        ("no: 1", "a key is False; expected a string"),
        (": 1", "line 1"),
        ("? [a]\n: 1", r"a key is \[\]; expected a string"),
        ("[" * (MAX_DEPTH + 1), "nested more than 20 levels"),
        ("[" * 100_000, "line 1"),
        ("- " * 3_000, "nested more than 20 levels"),
        ('{"a":' * 3_000, "nested more than 20 levels"),
        ("1" * 5_000, "a number has 5000 digits"),
        ("0x_", "looks like a number"),
        ("[" + "[]," * (MAX_VALUES + 1) + "]", "more than 1,500,000 values"),
        ("a\n---\nb", "line 2: a second document"),
        ("a: [1", "line 2, column 1"),
        ("\ta: 1", "line 1, column 1"),
        ("a\0", "control characters"),
        ("\ud800", "not a character"),
        ("%YAML 9.9\n---\na", "incompatible"),
    ],
)
def test_what_is_no_plain_data_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(YamlError, match=message) as caught:
        read_yaml(text)
    assert len(str(caught.value)) < 300


def test_aliases_that_stand_for_gigabytes_cost_nothing() -> None:
    levels = "".join(f"l{n}: &l{n} [{','.join([f'*l{n - 1}'] * 9)}]\n" for n in range(1, 30))
    with pytest.raises(YamlError, match="anchors and aliases"):
        read_yaml(f"l0: &l0 [cup]\n{levels}")
