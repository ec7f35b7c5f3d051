"""README and docs: their form, their links, and that the messages that they quote are those of the code."""

from __future__ import annotations

import ast
import functools
import importlib.util
import os
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from checkout import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
README = ROOT / "README.md"
ALSO = (
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "benchmarks" / "README.md",
    ROOT / "docker" / "README.md",
)
FILES = (README, *ALSO, *PAGES)
WIDTH = 120


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def unfenced(path: Path) -> Iterator[tuple[int, str]]:
    """Lines outside fenced blocks, with their numbers."""
    inside = False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith("```"):
            inside = not inside
        elif not inside:
            yield number, line


def is_prose(line: str) -> bool:
    """Whether a line is neither of a table nor of an indented block, and no image, link or command alone."""
    alone = re.fullmatch(r"(!?\[[^]]*\]\([^)]*\)|`[^`]*`)[.,:;]?", line.strip())
    return not (alone or line.lstrip().startswith("|") or line.startswith("    "))


@functools.cache
def anchors(path: Path) -> frozenset[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    headings = [re.sub(r"^#+ ", "", line) for _, line in unfenced(path) if re.match(r"#+ ", line)]
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return frozenset(re.sub(r" +", "-", heading.strip()) for heading in plain)


@functools.cache
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "_hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 120


@pytest.mark.parametrize("path", FILES, ids=named)
def test_no_line_of_prose_is_wider_than_the_page(path: Path) -> None:
    assert [f"{number}: {line}" for number, line in unfenced(path) if len(line) > WIDTH and is_prose(line)] == []


@pytest.mark.parametrize("path", FILES, ids=named)
def test_every_relative_link_leads_to_a_file_and_a_heading(path: Path) -> None:
    broken = []
    for number, line in unfenced(path):
        for target in re.findall(r"\]\((?!https?://|mailto:)([^)\s]+)\)", line):
            name, _, anchor = target.partition("#")
            file = Path(os.path.normpath(path.parent / name)) if name else path
            if not file.exists() or (anchor and anchor not in anchors(file)):
                broken.append(f"{number}: {target}")
    assert broken == []


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_lists_and_tables_begin_after_a_blank_line(path: Path) -> None:
    """GitHub does without, the site's Markdown does not."""
    lines = [line for _, line in unfenced(path)]
    starts = (r"([-*]|\d+\.) ", r"\|")
    assert [
        line
        for before, line in pairwise(lines)
        for start in starts
        if re.match(start, line) and before.strip() and not re.match(rf"{start}|\s", before)
    ] == []


@functools.cache
def files_here() -> frozenset[str]:
    """Names of all Python files of the checkout, and their paths below its packages."""
    bases = [ROOT, *(ROOT / name for name in ("fcclip_core", "fcclip_ros", "benchmarks", "test"))]
    folders = [ROOT / name for name in ("fcclip_core", "fcclip_ros", "benchmarks", "demo", "test", "cmake", "launch")]
    found = [*ROOT.glob("*.py"), *(path for folder in folders for path in folder.rglob("*.py"))]
    paths = {path.relative_to(base).as_posix() for path in found for base in bases if path.is_relative_to(base)}
    return frozenset(paths | {path.name for path in found})


# Programs of the datasets' authors, and names that stand for any.
ELSEWHERE = ("createPanopticImgs.py", "createTrainIdLabelImgs.py")


@pytest.mark.parametrize("path", FILES, ids=named)
def test_every_module_that_is_named_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    files = [name for name in re.findall(r"`([\w/]+\.py)`", text) if "NAME" not in name and name not in ELSEWHERE]
    dotted = re.findall(
        r"-m ((?:fcclip_core|fcclip_ros|benchmarks|demo)(?:\.\w+)*)|from (fcclip_core[.\w]*) import", text
    )
    modules = [name.replace(".", "/") for pair in dotted for name in pair if name]
    assert [name for name in files if name not in files_here()] == []
    assert [name for name in modules if not ((ROOT / f"{name}.py").exists() or (ROOT / name).is_dir())] == []


def site() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def test_every_page_is_in_the_navigation() -> None:
    def pages(entry: Any) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        else:
            for value in entry.values() if isinstance(entry, dict) else entry:
                yield from pages(value)

    assert sorted(pages(site()["nav"])) == sorted(path.relative_to(DOCS).as_posix() for path in PAGES)


def test_the_site_is_strict() -> None:
    settings = site()
    assert settings["strict"] is True
    assert set(settings["validation"]["links"].values()) == {"warn"}


@pytest.mark.parametrize("node", ["perception", "object_memory", "image_source", "sim_camera"])
def test_the_generated_table_has_a_row_for_every_parameter(node: str) -> None:
    declarations = importlib.import_module(hooks().DECLARATIONS[node]).PARAMETERS
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table_of(node).splitlines()[2:]]
    assert {len(row) for row in rows} == {5}
    live = {row[0].strip("`"): row[3] for row in rows}
    assert [name for name, what in live.items() if what == "live"] == [item.name for item in declarations if item.live]
    assert list(live) == [item.name for item in declarations]


def table_of(node: str) -> str:
    return hooks().generated(f"<!-- generate: parameters {node} -->")


def test_the_generated_reference_has_every_interface() -> None:
    page = hooks().generated((DOCS / "reference" / "messages.md").read_text(encoding="utf-8"))
    for folder in ("msg", "srv", "action"):
        for path in (ROOT / folder).iterdir():
            assert f"### fcclip_ros/{folder}/{path.stem}\n" in page
            assert path.read_text(encoding="utf-8").rstrip() in page


@pytest.mark.parametrize(
    ("name", "title", "code", "least"),
    [("topics", "### Diagnostics", "node", 20), ("object-memory", "## Diagnostics", "memory", 15)],
)
def test_the_page_has_every_key_of_the_diagnostics(name: str, title: str, code: str, least: int) -> None:
    page = (DOCS / "reference" / f"{name}.md").read_text(encoding="utf-8").split(f"\n{title}\n")[1].split("\n## ")[0]
    named_keys = set(
        re.findall(r"`([^`]+)`", "".join(line.split("|")[1] for line in page.splitlines() if line[:3] == "| `"))
    )
    tree = ast.parse((ROOT / "fcclip_ros" / code / "diagnostics.py").read_text(encoding="utf-8"))
    keys = {
        key.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(key, ast.Constant) and isinstance(key.value, str)
    }
    assert len(keys) > least
    assert keys - named_keys == set()


# Messages in the page on troubleshooting are held against the literal parts of the code's own texts. What is put into
# a text stands between two literals; in the page it is a number, a name, a path or a quoted word.
GAP = "\0"
TOKEN = re.compile(f"{GAP}|'[^' ]+'|[\\w./~<>-]*\\w[\\w/]*|[^\\w\\s]")
VALUE = re.compile(r"\d|^'|[/_.\\~<]|^[A-Z][A-Z_]*$|^\W+$")
# What the page's examples put in: words, states, types and errors of Python, and what the system says.
INSERTED = {
    "ValueError",
    "bool",
    "carry",
    "changed",
    "device",
    "front",
    "photos",
    "publishers",
    "reliable",
    "rows",
    "str",
}
SYSTEM = ("No such file or directory", "No space left on device")


def tokens(text: str) -> list[str]:
    return TOKEN.findall(text)


def texts(path: Path) -> Iterator[str]:
    """Every text in a Python file, a gap for what an f-string puts in."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else GAP for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.sub(r"\{\w*\}|%[sd]", GAP, node.value)


@functools.cache
def source() -> str:
    """All texts of the code, token by token, each text between two gaps."""
    folders = ("fcclip_core", "fcclip_ros", "launch")
    files = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    found = GAP.join(text for path in files for text in texts(path))
    return f" {GAP} {' '.join(tokens(found))} {GAP} "


def quoted_messages() -> list[str]:
    """What stands in backticks in the first column of the page's tables and looks like a sentence."""
    page = (DOCS / "how-to" / "troubleshooting.md").read_text(encoding="utf-8")
    cells = [re.split(r"(?<!\\)\|", line)[1] for line in page.splitlines() if line.startswith("| ")]
    return [
        text
        for cell in cells
        for text in re.findall(r"`([^`]+)`", cell)
        if len(text.split()) > 2 and not text.startswith("ros2 ")
    ]


def is_literal(words: list[str]) -> bool:
    """Whether the code has these tokens in a row: three or more anywhere, fewer beside something that is put in."""
    text = f" {' '.join(words)} "
    return text in source() and (len(words) > 2 or f"{GAP}{text}" in source() or f"{text}{GAP}" in source())


def unknown_words(message: str) -> list[str]:
    """The fewest words of a message that no literal of the code accounts for, and that do not look like a value."""
    for said in SYSTEM:
        message = message.replace(said, "...")
    return [word for part in message.split("...") for word in _unknown(tokens(part))]


def _unknown(words: list[str]) -> list[str]:
    best: list[list[str]] = [[]]
    for end in range(1, len(words) + 1):
        word = words[end - 1]
        known = VALUE.search(word) or word in INSERTED
        found = best[end - 1] + ([] if known else [word])
        for begin in range(end):
            if len(best[begin]) < len(found) and is_literal(words[begin:end]):
                found = best[begin]
        best.append(found)
    return best[-1]


def test_the_page_on_troubleshooting_quotes_many_messages() -> None:
    assert len(quoted_messages()) > 100


@pytest.mark.parametrize("message", quoted_messages())
def test_a_quoted_message_is_one_of_the_code(message: str) -> None:
    assert unknown_words(message) == []


@pytest.mark.parametrize(
    "drifted",
    [
        "64 requests wait for their letters already",
        "the parameters stuff and publish_only alter no active class",
    ],
)
def test_a_message_that_drifted_is_noticed(drifted: str) -> None:
    assert unknown_words(drifted) != []
