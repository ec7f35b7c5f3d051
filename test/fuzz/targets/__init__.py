"""The kinds of input. Each module has `inputs()`, a strategy for bytes, and `read(data, folder)`, which reads one."""

from __future__ import annotations

import importlib
from types import ModuleType

NAMES = ("image_messages", "vocabularies", "weight_files", "built_files", "bags")


def load(name: str) -> ModuleType:
    """The module of a target."""
    return importlib.import_module(f"{__name__}.{name}")
