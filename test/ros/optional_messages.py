"""Packages that are not on PyPI: the real ones where they are installed, else those of test/interfaces and stand_ins.

`make setup` builds the latter, with the same fields, into a folder that is on nobody's path: what a node does without
the packages is tested too.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

_PREFIX = Path(sys.prefix) / "test_interfaces"
_STAND_INS = Path(__file__).with_name("stand_ins")

# Imported once: whoever holds a message of an earlier import would not know the classes of a later one.
_modules: dict[str, ModuleType] = {}


@contextlib.contextmanager
def messages_of(package: str) -> Iterator[ModuleType]:
    """The package's module `msg`, for this process and those that it starts until the block ends."""
    installed = find_spec(package)
    # All stand-ins are in one folder, which one of them may have put on the path.
    if installed is not None and not str(installed.origin).startswith(str(_PREFIX)):
        yield importlib.import_module(f"{package}.msg")
        return
    library = _PREFIX / "lib"
    site = next(library.glob(f"python3*/site-packages/{package}"), None)
    if site is None:
        pytest.skip(f"{package} is not installed, and there is no stand-in for it in {_PREFIX}: run `make setup`")
    with pytest.MonkeyPatch.context() as patch:
        for name, folder in (("PYTHONPATH", site.parent), ("LD_LIBRARY_PATH", library)):
            patch.setenv(name, str(folder), prepend=os.pathsep)
        patch.syspath_prepend(str(site.parent))
        _load(library.glob(f"lib{package}__*.so"))
        sys.modules.update(_modules_of(package, _modules))
        try:
            yield importlib.import_module(f"{package}.msg")
        finally:
            for name, module in _modules_of(package, sys.modules).items():
                _modules[name] = module
                del sys.modules[name]


@contextlib.contextmanager
def package_of(name: str) -> Iterator[ModuleType]:
    """A Python package, for this process and those that it starts until the block ends."""
    if find_spec(name) is not None:
        yield importlib.import_module(name)
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(_STAND_INS), prepend=os.pathsep)
        patch.syspath_prepend(str(_STAND_INS))
        yield importlib.import_module(name)
    for module in _modules_of(name, sys.modules):
        del sys.modules[module]


def _modules_of(package: str, modules: dict[str, ModuleType]) -> dict[str, ModuleType]:
    return {name: module for name, module in modules.items() if name.partition(".")[0] == package}


def _load(libraries: Iterator[Path]) -> None:
    """Loads libraries, which need each other: this process does not look at LD_LIBRARY_PATH any more."""
    waiting = sorted(libraries)
    while waiting:
        failed = []
        for path in waiting:
            try:
                ctypes.CDLL(str(path))
            except OSError as error:
                failed.append((path, error))
        if len(failed) == len(waiting):
            raise failed[0][1]
        waiting = [path for path, _ in failed]
