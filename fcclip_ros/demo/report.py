"""What the demo tells people: the table, while it runs and at the end, and report.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from fcclip_core.vocabulary import Vocabulary
from fcclip_core.whole_file import whole_file
from fcclip_ros.demo.ledger import Ledger

_LATENCY = "latency "


@dataclass(frozen=True)
class VocabularyChange:
    """One call of ~/set_vocabulary, or the vocabulary that the node started with.

    Attributes:
        version: The version that came into force.
        vocabulary: The classes that were asked for.
        seconds: How long the call took; 0 for the first vocabulary.
        labelled_meanwhile: Frames that were labelled between request and answer.
    """

    version: int
    vocabulary: Vocabulary
    seconds: float = 0.0
    labelled_meanwhile: int = 0


def rows(ledger: Ledger, diagnostics: Mapping[str, str]) -> list[tuple[str, str]]:
    """The table's lines: what was counted, by whom, and what it says."""
    median, largest = ledger.latency()
    rate_in, rate_out = ledger.rates()
    versions = ", ".join(f"v{version}: {count}" for version, count in sorted(ledger.frames_of.items()))
    lines = [
        ("camera frames into the node", _said(diagnostics, "frames received")),
        ("labelled by the node", _said(diagnostics, "frames labelled")),
        ("dropped, a newer frame took their place", _said(diagnostics, "frames dropped")),
        ("bad / failed", f"{_said(diagnostics, 'frames bad')} / {_said(diagnostics, 'frames failed')}"),
        ("camera frames seen by this process", f"{ledger.photos}, {rate_in:.2f} Hz"),
        ("labelled frames received whole", f"{ledger.labelled}, {rate_out:.2f} Hz"),
        ("by vocabulary version", versions),
        ("segments in them", f"{ledger.segments} ({ledger.segments / max(1, ledger.labelled):.1f} a frame)"),
        ("stamp to segments here, median / largest", f"{median:.2f} / {largest:.2f} s"),
    ]
    lines += [(key, value) for key, value in diagnostics.items() if key.startswith(_LATENCY)]
    return [*lines, ("disagreements between outputs", str(len(ledger.problems)))]


def table(ledger: Ledger, diagnostics: Mapping[str, str], title: str) -> Table:
    """The lines as a table for the terminal."""
    shown = Table(title=title, title_justify="left", show_header=False)
    for name, value in rows(ledger, diagnostics):
        shown.add_row(name, value)
    return shown


def write_report(
    path: Path,
    *,
    settings: Sequence[tuple[str, str]],
    changes: Sequence[VocabularyChange],
    ledger: Ledger,
    diagnostics: Mapping[str, str],
    pictures: Mapping[tuple[str, int], Path],
    problems: Sequence[str],
) -> None:
    """Writes everything as Markdown, with the pictures."""
    text = ["# fcclip_ros demo", "", *(f"- {name}: {value}" for name, value in settings), ""]
    text += ["## What was measured", "", "| | |", "| --- | --- |"]
    text += [f"| {name} | {value} |" for name, value in rows(ledger, diagnostics)]
    text += ["", "## Vocabularies", "", "| version | classes | service call | frames labelled during the call |"]
    text += ["| --- | --- | --- | --- |"]
    for change in changes:
        names = "; ".join(", ".join(item.synonyms) for item in change.vocabulary.classes)
        call = (f"{change.seconds:.2f} s", str(change.labelled_meanwhile)) if change.seconds else ("at start", "")
        text.append(f"| {change.version} | {names} | {call[0]} | {call[1]} |")
    text += ["", "## Checks", "", *(f"- {problem}" for problem in problems)]
    text += [] if problems else [f"All passed, on each of {ledger.labelled} labelled frames."]
    text += ["", "## Pictures", "", "Left the photograph, right what the node published on `~/overlay`.", ""]
    for (scene, version), picture in pictures.items():
        text += [f"{scene}, vocabulary {version}", "", f"![{scene}, vocabulary {version}]({picture.name})", ""]
    with whole_file(path) as part:
        part.write_text("\n".join(text), encoding="utf-8")


def _said(diagnostics: Mapping[str, str], key: str) -> str:
    return diagnostics.get(key, "?")
