"""What `mkdocs build` adds: tables of parameters and modules, interfaces, help texts, links to the repository.

A page asks for generated text with a comment of its own line:

    <!-- generate: parameters perception -->
    <!-- generate: interfaces msg -->
    <!-- generate: modules fcclip_core -->
    <!-- generate: commands segment -->

This module needs no mkdocs, so that the tests can call it.
"""

from __future__ import annotations

import argparse
import ast
import functools
import importlib
import os
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
MARKER = re.compile(r"^<!-- generate: (\w+) (\w+) -->$", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?://|mailto:|#)([^)\s]+)\)")
# The module that declares a node's parameters.
DECLARATIONS = {
    "perception": "fcclip_ros.node.parameters",
    "object_memory": "fcclip_ros.memory.parameters",
    "image_source": "fcclip_ros.image_source",
    "sim_camera": "fcclip_ros.sim_camera",
}
SUFFIXES = {"msg": "msg", "srv": "srv", "action": "action"}


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Called by mkdocs with the text of each page."""
    return link_to_repository(generated(markdown), Path(page.file.src_path), config.repo_url)


def generated(markdown: str) -> str:
    """Puts generated text in the place of its markers."""
    makers = {
        "parameters": parameter_table,
        "interfaces": interface_files,
        "modules": module_tables,
        "commands": command_help,
    }
    return MARKER.sub(lambda match: makers[match[1]](match[2]), markdown)


def parameter_table(node: str) -> str:
    """The table of a node's parameters, made from their declarations."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    declarations = importlib.import_module(DECLARATIONS[node]).PARAMETERS
    rows = ["| name | type, default | range | live | what |", "| --- | --- | --- | --- | --- |"]
    for declaration in declarations:
        cells = (
            f"`{declaration.name}`",
            f"{_type_of(declaration)}, `{_shown(declaration.default)}`",
            _range_of(declaration),
            "live" if declaration.live else "at start" if declaration.read_only else "",
            declaration.description.replace("|", "\\|"),
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def interface_files(folder: str) -> str:
    """Each interface definition of a folder under a heading of its own."""
    files = sorted((ROOT / folder).glob(f"*.{SUFFIXES[folder]}"))
    return "\n\n".join(
        f"### fcclip_ros/{folder}/{path.stem}\n\n```text\n{path.read_text(encoding='utf-8').rstrip()}\n```"
        for path in files
    )


def module_tables(package: str) -> str:
    """A table for each folder of a package: its modules with the first lines of their docstrings."""
    tables = []
    for folder in sorted({path.parent for path in (ROOT / package).rglob("*.py")}):
        rows = [
            f"| `{path.name}` | {_first_line(path)} |"
            for path in sorted(folder.glob("*.py"))
            if path.name not in ("__init__.py", "__main__.py")
        ]
        if rows:
            title = folder.relative_to(ROOT).as_posix()
            tables.append("\n".join([f"### {title}/", "", "| module | what it holds |", "| --- | --- |", *rows]))
    return "\n\n".join(tables)


def command_help(name: str) -> str:
    """What `fcclip NAME --help` prints, and the same of each of its own subcommands."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    command = importlib.import_module(f"fcclip_core.commands.{name}")
    parser = argparse.ArgumentParser(prog="fcclip")
    command.add_parser(parser.add_subparsers())
    return "\n\n".join(f"```text\n{text.rstrip()}\n```" for text in _help_texts(_subparsers(parser)[name]))


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    actions = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return {name: found for action in actions for name, found in action.choices.items()}


def _help_texts(parser: argparse.ArgumentParser) -> list[str]:
    parser.formatter_class = functools.partial(argparse.HelpFormatter, width=110)
    below = [text for found in _subparsers(parser).values() for text in _help_texts(found)]
    return [parser.format_help(), *below]


def _first_line(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0].replace("|", "\\|").replace("*", "\\*")


def link_to_repository(markdown: str, page: Path, repository: str) -> str:
    """Lets links to files outside docs/ lead to the repository, where the site has no page for them."""

    def target(match: re.Match[str]) -> str:
        path, hash_mark, anchor = match[1].partition("#")
        resolved = Path(os.path.normpath(DOCS / page.parent / path))
        if resolved.is_relative_to(DOCS) or not resolved.is_relative_to(ROOT):
            return match[0]
        kind = "tree" if resolved.is_dir() else "blob"
        return f"]({repository}/{kind}/main/{resolved.relative_to(ROOT).as_posix()}{hash_mark}{anchor})"

    return LINK.sub(target, markdown)


def _type_of(declaration: Any) -> str:
    names = {bool: "bool", int: "integer", float: "double", str: "text", list: "list of texts"}
    name = names[type(declaration.default)]
    return f"{name} (others too)" if declaration.any_type else name


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else '""' if value == "" else str(value)


def _range_of(declaration: Any) -> str:
    if declaration.limits is not None:
        low, high = declaration.limits
        return f"{low:g} to {high:,}".replace(",", " ") if isinstance(high, int) else f"{low:g} to {high:g}"
    return ", ".join(str(choice) or '""' for choice in declaration.choices)
