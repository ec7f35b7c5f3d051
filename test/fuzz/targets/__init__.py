"""The kinds of input.

Each module has `inputs()`, a strategy for bytes, and `read(data, folder)`, which reads one; some have `prepare()`.
"""

from __future__ import annotations

import importlib
from types import ModuleType

NAMES = ("image_messages", "vocabularies", "weight_files", "built_files", "bags")


def load(name: str) -> ModuleType:
    """The module of a target, made ready: what is slow the first time is no fault of the first input."""
    target = importlib.import_module(f"{__name__}.{name}")
    if hasattr(target, "prepare"):
        target.prepare()
    return target
