"""Vocabularies with examples on disk: a YAML file that names a safetensors file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fcclip_core.errors import VocabularyError
from fcclip_core.vocabulary.classes import Vocabulary, VocabularyClass
from fcclip_core.vocabulary.examples import Examples
from fcclip_core.vocabulary.saving import save_vocabulary


def example(count: int = 2) -> Examples:
    return Examples(np.eye(4, dtype=np.float32)[:count], "model", np.zeros(4, np.float32), 0.75)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    classes = (
        VocabularyClass(("mug", "cup"), examples=example()),
        VocabularyClass(("Küche/4711",), examples=example(1), wordless=True),
        VocabularyClass(("floor",), is_thing=False),
    )
    path = tmp_path / "mine.yaml"
    save_vocabulary(Vocabulary(classes, "my things"), path)
    return path


def test_what_is_saved_is_read_back(saved: Path) -> None:
    found = Vocabulary.load(saved)
    assert found.example_counts == (2, 1, 0)
    assert found.classes[0].examples == example()
    assert [item.wordless for item in found.classes] == [False, True, False]
    assert "examples: mine.examples.safetensors" in saved.read_text()


def test_without_examples_no_second_file_is_left(saved: Path) -> None:
    save_vocabulary(Vocabulary.from_names(["mug"]), saved)
    assert [path.name for path in saved.parent.iterdir()] == ["mine.yaml"]
    assert Vocabulary.load(saved).example_counts == (0,)


def test_text_alone_cannot_hold_examples(saved: Path) -> None:
    with pytest.raises(VocabularyError, match="examples, which YAML cannot hold"):
        Vocabulary.load(saved).to_yaml()
    with pytest.raises(VocabularyError, match="load the vocabulary from its own file"):
        Vocabulary.from_yaml(saved.read_text())


@pytest.mark.parametrize("name", ["../mine.examples.safetensors", "/etc/passwd", "mine.pt", "3"])
def test_only_files_beside_the_vocabulary_are_opened(saved: Path, name: str) -> None:
    saved.write_text(saved.read_text().replace("mine.examples.safetensors", name))
    with pytest.raises(VocabularyError, match=r"expected the name of a \.safetensors file in the folder"):
        Vocabulary.load(saved)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("embeddings/mug", np.full((1, 4), np.inf, np.float32), "class 'mug': the examples are no array"),
        ("embeddings/mug", np.ones((21, 4), np.float32) / 2, "at most 20"),
        ("shift/mug", np.zeros(5, np.float32), "shift of the examples"),
        ("gain/mug", np.zeros(2), "gain or model has another form"),
        ("model/mug", np.array([255, 254], np.uint8), "class 'mug'"),
        ("weights/mug", np.zeros(1), "expected embeddings, shift, gain, model"),
    ],
)
def test_damaged_examples_are_refused(saved: Path, key: str, value: np.ndarray, expected: str) -> None:
    beside = saved.with_name("mine.examples.safetensors")
    save_file(load_file(beside) | {key: value}, beside)
    with pytest.raises(VocabularyError, match=expected):
        Vocabulary.load(saved)


def test_a_file_that_is_missing_or_no_safetensors_file(saved: Path) -> None:
    beside = saved.with_name("mine.examples.safetensors")
    beside.write_bytes(b"\x80\x02 not this")
    with pytest.raises(VocabularyError, match="is no safetensors file, or is damaged"):
        Vocabulary.load(saved)
    beside.unlink()
    with pytest.raises(VocabularyError, match=r"examples.safetensors are missing; they belong beside"):
        Vocabulary.load(saved)
