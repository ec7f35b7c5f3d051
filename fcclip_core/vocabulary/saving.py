"""Saves vocabularies, with the examples of their classes in a file beside them."""

from __future__ import annotations

from pathlib import Path

from fcclip_core.errors import VocabularyError
from fcclip_core.files.atomic_write import atomic_write
from fcclip_core.quoting import short_name
from fcclip_core.vocabulary.classes import Vocabulary
from fcclip_core.vocabulary.example_files import SUFFIX, write_examples


def save_vocabulary(vocabulary: Vocabulary, path: Path) -> None:
    """Writes a vocabulary as YAML, and its examples, if it has any, to `NAME.examples.safetensors` beside it.

    Each file is complete or untouched.

    Raises:
        VocabularyError: `path` is not the name of a YAML file, or a file cannot be written.
    """
    if path.suffix.lower() not in (".yaml", ".yml"):
        raise VocabularyError(f"{short_name(path)} is not the name of a .yaml file")
    examples = {item.name: item.examples for item in vocabulary.classes if item.examples is not None}
    beside = path.with_name(f"{path.stem}.examples{SUFFIX}")
    text = vocabulary.to_yaml(beside.name if examples else "")
    if examples:
        write_examples(beside, examples)
    try:
        with atomic_write(path) as part:
            part.write_text(text, encoding="utf-8")
        if not examples:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise VocabularyError(f"cannot write {short_name(path)}: {error.strerror or error}") from error
