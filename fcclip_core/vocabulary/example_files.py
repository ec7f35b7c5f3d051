"""Examples of classes on disk: one safetensors file beside the vocabulary's YAML, which names it."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fcclip_core.errors import VocabularyError
from fcclip_core.files.atomic_write import atomic_write
from fcclip_core.files.regular_files import read_regular_file
from fcclip_core.quoting import short, short_name
from fcclip_core.vocabulary.examples import Examples

SUFFIX = ".safetensors"
MAX_FILE_SIZE = 64 << 20
"""Bytes that are read: hundreds of classes with twenty examples each."""

_PARTS = ("embeddings", "shift", "gain", "model")


def write_examples(path: Path, examples: Mapping[str, Examples]) -> None:
    """Writes the examples of classes, by the classes' names, atomically.

    Raises:
        VocabularyError: The file cannot be written.
    """
    tensors: dict[str, np.ndarray] = {}
    for name, item in examples.items():
        tensors[f"embeddings/{name}"] = np.ascontiguousarray(item.embeddings)
        tensors[f"shift/{name}"] = np.ascontiguousarray(item.shift)
        tensors[f"gain/{name}"] = np.array([item.gain], np.float64)
        tensors[f"model/{name}"] = np.frombuffer(item.model.encode(), np.uint8)
    try:
        with atomic_write(path) as part:
            part.write_bytes(save(tensors, {"format": "fcclip examples"}))
    except OSError as error:
        raise VocabularyError(f"cannot write {short_name(path)}: {error.strerror or error}") from error


def read_examples(path: Path) -> dict[str, Examples]:
    """Reads what `write_examples` wrote; nothing in the file is trusted.

    Raises:
        VocabularyError: Naming the file and what is wrong with it.
    """
    try:
        tensors = load(read_regular_file(path, MAX_FILE_SIZE))
    except FileNotFoundError as error:
        raise VocabularyError(
            f"the examples {short_name(path)} are missing; they belong beside the vocabulary that names them"
        ) from error
    except OSError as error:
        raise VocabularyError(f"cannot read {short_name(path)}: {error.strerror or error}") from error
    except (SafetensorError, ValueError, KeyError, TypeError, struct.error) as error:
        raise VocabularyError(f"{short_name(path)} is no safetensors file, or is damaged: {error}") from error
    classes: dict[str, dict[str, np.ndarray]] = {}
    for key, value in tensors.items():
        part, _, name = key.partition("/")
        if part not in _PARTS or not name:
            raise VocabularyError(f"{short_name(path)} has {short(key)}; expected {', '.join(_PARTS)} of classes")
        classes.setdefault(name, {})[part] = value
    return {name: _examples(path, name, parts) for name, parts in classes.items()}


def _examples(path: Path, name: str, parts: Mapping[str, np.ndarray]) -> Examples:
    where = f"{short_name(path)}, class {short(name)}"
    missing = next((part for part in _PARTS if part not in parts), None)
    if missing:
        raise VocabularyError(f"{where}: {missing} is missing; teach the class again")
    if parts["gain"].shape != (1,) or parts["model"].dtype != np.uint8:
        raise VocabularyError(f"{where}: gain or model has another form; teach the class again")
    try:
        model = parts["model"].tobytes().decode("utf-8")
        return Examples(parts["embeddings"], model, parts["shift"], float(parts["gain"][0]))
    except (VocabularyError, UnicodeError) as error:
        raise VocabularyError(f"{where}: {error}") from error
