"""The packages keep their layers: what may import what is written down in pyproject.toml, under import-linter."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from graphlib import TopologicalSorter

import pytest

from checkout import ROOT


def test_imports_keep_the_layers() -> None:
    pytest.importorskip("importlinter")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}  # else an installed package would be looked at
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_module_imports_itself_through_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)  # else an installed copy, whose generated messages import themselves
    grimp = pytest.importorskip("grimp")
    graph = grimp.build_graph("fcclip_core", "fcclip_ros", "benchmarks", "demo")
    # Raises CycleError, which names the modules of the circle.
    tuple(
        TopologicalSorter(
            {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
        ).static_order()
    )


@pytest.mark.parametrize(("package", "most"), [("fcclip_core", 12), ("fcclip_ros", 10)])
def test_the_top_level_stays_small(package: str, most: int) -> None:
    modules = sorted(path.stem for path in (ROOT / package).glob("*.py"))
    assert len(modules) <= most, f"{modules}; a new module belongs into a package of {package}"


@pytest.mark.parametrize("package", ["fcclip_core", "fcclip_ros", "benchmarks", "demo"])
def test_every_folder_with_modules_is_a_package(package: str) -> None:
    """Without __init__.py it would be left out of wheels without a word."""
    folders = {path.parent for path in (ROOT / package).rglob("*.py")}
    assert not [folder for folder in folders if not (folder / "__init__.py").is_file()]


def test_no_two_test_modules_share_a_name() -> None:
    """pytest imports them by their names alone, and collects none of the second."""
    names = Counter(path.name for path in (ROOT / "test").rglob("*.py") if path.name.startswith("test_"))
    assert [name for name, count in names.items() if count > 1] == []


def test_what_identifies_a_graph_hashes_files_that_exist() -> None:
    from fcclip_core.export import identity

    assert all(list(identity._PACKAGE.glob(pattern)) for pattern in identity._SOURCES)
