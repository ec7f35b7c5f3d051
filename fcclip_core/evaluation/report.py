"""Results as a JSON document and as tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from fcclip_core.evaluation.runner import Evaluation
from fcclip_core.evaluation.scoreboard import Scores
from fcclip_core.settings import InferenceSettings

GROUPS = ("all", "things", "stuff", "seen", "unseen")
MEASURES = {
    "pq": "PQ",
    "sq": "SQ",
    "rq": "RQ",
    "ap": "AP (pycocotools)",
    "miou": "mIoU",
    "recall": "recall@0.5, masks",
    "segment_recall": "recall@0.5, segments",
}
SHARES = ("recall", "segment_recall")
"""Metrics between 0 and 1; the others are in per cent."""
UNITS = {
    "pq, sq, rq, ap, miou, grounding": "per cent",
    "recall, segment_recall": "share, 0 to 1",
}

PAPER_FPS = "the published images/s are of one V100"


def document(
    evaluation: Evaluation,
    class_names: Sequence[str],
    about: Mapping[str, Any],
    settings: InferenceSettings,
    paper: Mapping[str, float],
) -> dict[str, Any]:
    """The JSON document of an evaluation: each score under its flat name, and all of them nested under "details".

    Args:
        evaluation: The counts.
        class_names: C names.
        about: Description of the run: dataset, checkpoint and so on.
        settings: Settings of the main result.
        paper: The published results under our names; empty if none may stand beside ours.
    """
    scores = evaluation.scores()
    return {
        **about,
        "images": evaluation.images,
        "settings": asdict(settings),
        "units": UNITS | {"fps": evaluation.times.rule.about},
        **scores,
        "paper": dict(paper),
        "forms": {name: board.scores() for name, board in evaluation.forms.items()},
        "details": _nested(scores) | {"per_class": _per_class(evaluation, class_names)},
    }


def score_table(scores: Scores, paper: Mapping[str, float], paper_name: str, title: str) -> Table:
    """One row per metric, one column per group of classes, and a column with the published results, if there are."""
    caption = PAPER_FPS if "fps" in paper else None
    table = Table(*("", *GROUPS), box=SIMPLE, title=title, title_style="", caption=caption, caption_style="")
    if paper:
        table.add_column(paper_name)
    for column in table.columns[1:]:
        column.justify = "right"
    for measure, label in MEASURES.items():
        if f"{measure}.all" in scores:
            cells = [_cell(measure, scores.get(f"{measure}.{group}")) for group in GROUPS]
            table.add_row(label, *cells, *([_cell(measure, paper.get(f"{measure}.all"))] if paper else []))
    for name, label in (("grounding.pq", "grounding PQ"), ("grounding.miou", "grounding mIoU"), ("fps", "images/s")):
        if name in scores:
            published = [*("" for _ in GROUPS[1:]), _cell(name, paper[name])] if name in paper else []
            table.add_row(label, _cell(name, scores[name]), *published)
    return table


def forms_table(forms: Mapping[str, Scores], title: str) -> Table:
    """One row per variant, with columns for the main metrics of all, seen and unseen classes."""
    shown = [
        f"{measure}.{group}"
        for measure in ("pq", "miou")
        for group in ("all", "seen", "unseen")
        if any(f"{measure}.{group}" in scores for scores in forms.values())
    ]
    table = Table(box=SIMPLE, title=title, title_style="", padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for name in shown:
        measure, _, group = name.partition(".")
        table.add_column(f"{MEASURES[measure]} {group}", justify="right")
    for form, scores in forms.items():
        table.add_row(form, *(_cell(name, scores.get(name)) for name in shown))
    return table


def sizes_table(scores: Mapping[str, Mapping[str, Scores]], title: str) -> Table:
    """One row per input size and CLIP: percentage of correctly classified masks by group of classes, and PQ."""
    caption = "per cent of ground-truth masks that CLIP classifies correctly, by shorter image side"
    table = Table("side", "CLIP", *GROUPS, "PQ", box=SIMPLE, title=title, title_style="", caption=caption)
    table.caption_style = ""
    for column in table.columns[2:]:
        column.justify = "right"
    names = [*(f"accuracy.{group}" for group in GROUPS), "pq.all"]
    for size in next(iter(scores.values())):
        for clip, of_size in scores.items():
            table.add_row(size, clip, *(_cell(name, of_size[size][name]) for name in names))
    return table


def by_size_table(rows: Mapping[str, Mapping[int, float | None]], sizes: Sequence[int]) -> Table:
    """One column per input size, in pixels; a row without a value for a size has a dash there."""
    table = Table("", *map(str, sizes), box=SIMPLE)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, values in rows.items():
        table.add_row(name, *(_cell("", values.get(size)) for size in sizes))
    return table


def class_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    """One row per class, from the document's `details.per_class`."""
    rows = list(rows)
    measures = [name for name in ("pq", "sq", "rq", "ap", "iou") if name in rows[0]]
    table = Table("class", "", *(name.upper() for name in measures), box=SIMPLE)
    for row in rows:
        kind = f"{'thing' if row['is_thing'] else 'stuff'}, {'seen' if row['seen'] else 'unseen'}"
        table.add_row(row["name"], kind, *(_cell(name, row[name]) for name in measures))
    return table


def _cell(measure: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if measure in SHARES else f"{value:.1f}"


def _nested(scores: Scores) -> dict[str, Any]:
    """`{"pq.all": x}` as `{"pq": {"all": x}}`."""
    nested: dict[str, Any] = {}
    for name, value in scores.items():
        measure, _, group = name.partition(".")
        if group:
            nested.setdefault(measure, {})[group] = value
        else:
            nested[measure] = value
    return nested


def _per_class(evaluation: Evaluation, class_names: Sequence[str]) -> list[dict[str, Any]]:
    columns = evaluation.main.per_class()
    return [
        {"name": name, "is_thing": evaluation.things[index], "seen": evaluation.seen[index]}
        | {measure: values[index] for measure, values in columns.items()}
        for index, name in enumerate(class_names)
    ]
