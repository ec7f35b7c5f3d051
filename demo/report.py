"""The demo's human-readable results: the table, while it runs and at the end, and report.md."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from demo.frame_log import FrameLog
from fcclip_core.files.atomic_write import atomic_write
from fcclip_core.vocabulary.classes import Vocabulary

QUALITY_GROUPS = ("all", "seen", "unseen", "things", "stuff")
_LATENCY = "latency "


@dataclass(frozen=True)
class VocabularyChange:
    """One call of ~/set_vocabulary, or the vocabulary that the node started with.

    Attributes:
        version: The version that became active.
        title: What it is about.
        vocabulary: The requested classes.
        seconds: How long the call took; 0 for the first vocabulary.
        labeled_meanwhile: Frames that were labeled between request and answer.
    """

    version: int
    title: str
    vocabulary: Vocabulary
    seconds: float = 0.0
    labeled_meanwhile: int = 0


def rows(log: FrameLog, diagnostics: Mapping[str, str]) -> list[tuple[str, str]]:
    """The table's lines: what was counted, by whom, and what it says."""
    said = defaultdict(lambda: "?", diagnostics)
    median, largest = log.latency()
    rate_in, rate_out = log.rates()
    versions = ", ".join(f"v{version}: {count}" for version, count in sorted(log.frames_of.items()))
    lines = [
        ("camera frames into the node", said["frames received"]),
        ("labeled by the node", said["frames labeled"]),
        ("dropped, a newer frame took their place", said["frames dropped"]),
        ("bad / failed", f"{said['frames bad']} / {said['frames failed']}"),
        ("camera frames seen by this process", f"{log.images}, {rate_in:.2f} Hz"),
        ("labeled frames received whole", f"{log.labeled}, {rate_out:.2f} Hz"),
        ("by vocabulary version", versions),
        ("segments in them", f"{log.segments} ({log.segments / max(1, log.labeled):.1f} a frame)"),
        ("stamp to segments here, median / largest", f"{median:.2f} / {largest:.2f} s"),
    ]
    lines += [(key, value) for key, value in diagnostics.items() if key.startswith(_LATENCY)]
    lines += [(f"PQ, vocabulary {version}", _quality_line(log, version)) for version in sorted(log.quality)]
    return [*lines, ("disagreements between outputs", str(len(log.problems)))]


def table(log: FrameLog, diagnostics: Mapping[str, str], title: str) -> Table:
    """The lines as a table for the terminal."""
    shown = Table(title=title, title_justify="left", show_header=False)
    for name, value in rows(log, diagnostics):
        shown.add_row(name, value)
    return shown


def write_report(
    path: Path,
    *,
    settings: Sequence[tuple[str, str]],
    changes: Sequence[VocabularyChange],
    log: FrameLog,
    diagnostics: Mapping[str, str],
    film: Path | None,
    stills: Mapping[int, Path],
    asked: Sequence[str],
    problems: Sequence[str],
) -> None:
    """Writes everything as Markdown, with the film, the pictures, and the lines about what was asked."""
    text = ["# fcclip_ros demo", "", *(f"- {name}: {value}" for name, value in settings), ""]
    if film is not None:
        text += [f"![the drive]({film.name})", "", "Left the camera's image, in the middle what the node published on"]
        text += ["`~/overlay`, right the truth in the vocabulary's colors: one color in both means a right name.", ""]
    text += [
        "## Against the truth",
        "",
        "Panoptic quality in percent over all labeled frames, from the topics.",
        "",
    ]
    text += ["| vocabulary | frames | " + " | ".join(QUALITY_GROUPS) + " |", "| --- " * (2 + len(QUALITY_GROUPS)) + "|"]
    for change in changes:
        if (quality := log.quality.get(change.version)) is not None:
            scores = quality.percent()
            cells = " | ".join(_percent(scores[f"pq.{group}"]) for group in QUALITY_GROUPS)
            text.append(f"| {change.version}: {change.title} | {quality.frames} | {cells} |")
    text += ["", *asked]
    text += ["", "## What was measured", "", "| | |", "| --- | --- |"]
    text += [f"| {name} | {value} |" for name, value in rows(log, diagnostics)]
    text += ["", "## Vocabularies", ""]
    for change in changes:
        call = "from the start"
        if change.seconds:
            call = f"service call {change.seconds:.2f} s, {change.labeled_meanwhile} frames labeled meanwhile"
        names = "; ".join(", ".join(item.synonyms) for item in change.vocabulary.classes)
        text += [f"### {change.version}: {change.title}", "", f"Active {call}.", "", names, ""]
        if change.version in stills:
            text += [f"![vocabulary {change.version}]({stills[change.version].name})", ""]
    text += ["## Checks", "", *(f"- {problem}" for problem in problems)]
    text += [] if problems else [f"All passed, on each of {log.labeled} labeled frames."]
    with atomic_write(path) as part:
        part.write_text("\n".join(text) + "\n", encoding="utf-8")


def quality_note(log: FrameLog, version: int) -> str:
    """One line for the film: which vocabulary, and how good so far."""
    return f"vocabulary {version}   PQ so far: {_quality_line(log, version)}"


def _quality_line(log: FrameLog, version: int) -> str:
    scores = log.quality[version].percent()
    named = ((group, scores[f"pq.{group}"]) for group in ("all", "seen", "unseen"))
    return ", ".join(f"{group} {value:.1f}" for group, value in named if value is not None) or "none yet"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
