"""Doubts about a vocabulary: what is legal but seldom meant."""

from __future__ import annotations

import pytest

from fcclip_core.vocabulary.checks import find_warnings, look_alike, summary
from fcclip_core.vocabulary.classes import Vocabulary


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (["floor", "Floor"], ["'floor', 'Floor' are read alike", "can tie"]),
        (["red mug", "red  mug"], ["read alike", "can tie"]),
        (["cup, glass", "bowl, glass"], ["'glass' stands in 2 places ('cup', 'bowl')", "can tie"]),
        (["fork, fork"], ["'fork' stands in 2 places ('fork')", "needed once"]),
        (["cup", "\u0441up"], ["'cup' (ASCII)", "with U+0441", "look alike"]),
        (["c\u03bfat", "coat"], ["with U+03BF", "look alike"]),
        (["c0at", "coat"], ["look alike"]),
        (["\uff43up", "cup"], ["with U+FF43", "look alike"]),
        (["he\u200dart", "heart"], ["with U+200D", "look alike"]),
        (["heart\ufe0f", "heart"], ["with U+FE0F", "look alike"]),
        (["red\u00a0mug", "redmug, red mug"], ["read alike"]),
        (["floor\u200b", "lamp"], ["contains the invisible character U+200B"]),
        (["caf\u00e9", "cafe\u0301"], ["'caf\u00e9' came twice", "it is one class"]),
        (["words.json", "cup"], ["'words.json' is called as a file is"]),
        (["a very " * 80 + "long name"], ["longer than CLIP reads"]),
    ],
)
def test_names_that_are_alike_give_a_warning(names: list[str], parts: list[str]) -> None:
    (warning,) = find_warnings(Vocabulary.from_names(names))
    assert all(part in warning for part in parts), warning


@pytest.mark.parametrize(
    "names", [["pail", "pall"], ["cafe", "caf\u00e9"], ["стол", "стул"], ["椅子", "桌子"], ["1", "2"]]
)
def test_names_that_only_resemble_each_other_give_no_warning(names: list[str]) -> None:
    assert find_warnings(Vocabulary.from_names(names)) == []


def test_stuff_that_is_no_class_gives_a_warning() -> None:
    words = Vocabulary.from_names(["cup, mug", "floor", "caf\u00e9"])
    assert find_warnings(words, ["floor", " cafe\u0301 "]) == []
    flor, mug, sky = find_warnings(words, ["flor", "mug", "sky"])
    assert "stuff names 'flor'" in flor and "did you mean 'floor'?" in flor
    assert "stuff names 'mug'" in mug and "did you mean 'cup'?" in mug
    assert "stuff names 'sky'" in sky and "first synonym" in sky


def test_many_warnings_are_said_in_a_few_words() -> None:
    words = Vocabulary.from_names([name for n in range(1_000) for name in (f"cup {n}", f"Cup {n}")])
    found = find_warnings(words)
    assert len(found) == 1_000
    assert "and 995 more warnings" in summary(found) and len(summary(found)) < 1_000
    assert summary([]) == ""
    (tie,) = find_warnings(Vocabulary.from_names([f"{n}, cup" for n in range(1_000)]))
    assert "and 995 more" in tie and len(tie) < 300


def test_a_look_has_no_script() -> None:
    assert look_alike("Р\u0430ll\u0435t") == look_alike("pallet") == look_alike("PALLET")
