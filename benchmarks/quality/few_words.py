#!/usr/bin/env python3
"""What do hidden competitors do for short lists of words?

Renders scenes of the simulated world and labels each frame with short lists of words, with and without competitors. The
lists are drawn anew for every seed: 3, 12 and 40 words of the world (three quarters things), 12 words that training saw
and 12 that it did not; and five general words that stand over many names ("ball" for balls of every color).

Truth is what the words mean: a segment of the world belongs to a word if that is its name or part of it, word by word.
All other pixels belong to nothing in the list, so that a segment there is a false one. PQ is that of the list's words.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.lib import machine
from fcclip_core import Segmenter, Vocabulary
from fcclip_core.datasets.records import PanopticSample, TruthSegment
from fcclip_core.evaluation.panoptic import PanopticQuality
from fcclip_core.files.atomic_write import atomic_write
from fcclip_core.results import PanopticResult
from fcclip_core.simulation.dataset import WorldPlan, render_scene
from fcclip_core.simulation.frames import Frame
from fcclip_core.simulation.names import train_vocabulary, world_vocabulary
from fcclip_core.simulation.render import Renderer
from fcclip_core.vocabulary.classes import BACKGROUND_MARGIN
from fcclip_core.vocabulary.snapshot import VocabularySnapshot
from fcclip_core.vocabulary.word_overlap import WordIndex

GENERAL = ("ball", "cone", "box", "floor", "wall")
_GENERAL_STUFF = ("floor", "wall")
COUNTS = (3, 12, 40)
_LISTS = 3
_GENERIC = Vocabulary.from_names(["object", "thing", "background", "surface", "other"])


@dataclass
class Tally:
    """What one way to compete made of one list of words.

    Attributes:
        words: The list.
        snapshot: What frames are labeled with.
        quality: Of the list's classes, and of "anything else" behind them.
    """

    words: Vocabulary
    snapshot: VocabularySnapshot
    quality: PanopticQuality = field(init=False)

    def __post_init__(self) -> None:
        """Starts with no frame."""
        self.quality = PanopticQuality(len(self.words) + 1)
        self._index_of = {row.item.name: index for index, row in enumerate(self.snapshot.published)}

    def add(self, sample: PanopticSample, result: PanopticResult) -> None:
        """Counts a frame."""
        labels = [self._index_of[segment.name] for segment in result.segments]
        self.quality.update(sample, result.segment_map, labels)

    def record(self) -> dict[str, Any]:
        """Counts and scores, as JSON-ready values."""
        count = len(self.words)
        things = np.array(self.words.things)
        quality = self.quality.per_class()[0][:count]
        matched, missed = self.quality.matched[:count], self.quality.missed[:count]
        return {
            "words": list(self.words.names),
            "pq": _mean(quality),
            "pq_of_class": dict(zip(self.words.names, map(_number, quality), strict=True)),
            "fp": int(self.quality.invented[:count].sum()),
            "found": int(matched[things].sum()),
            "truths": int((matched + missed)[things].sum()),
        }


def main() -> int:
    """Measures and prints."""
    args = _parser().parse_args()
    here = machine.describe()
    console = Console()
    console.print(machine.headline(here))
    segmenter = Segmenter.from_checkpoint(args.checkpoint, device=args.device, backend=args.backend)
    lists = word_lists(args.seed)
    tallies = {
        (kind, number, way): Tally(words, segmenter.prepare_vocabulary(vocabulary))
        for kind, rows in lists.items()
        for number, words in enumerate(rows)
        for way, vocabulary in _ways(words, segmenter, args).items()
    }
    for number, frame in enumerate(frames_of(args.frames, args.seed, tuple(args.size))):
        encoded = segmenter.encode(frame.image)
        truths = {
            (kind, index): truth_of(frame, words) for kind, rows in lists.items() for index, words in enumerate(rows)
        }
        for (kind, index, _), tally in tallies.items():
            tally.add(truths[kind, index], segmenter.decode(encoded, tally.snapshot))
        if (number + 1) % 10 == 0:
            print(f"{number + 1} frames", file=sys.stderr, flush=True)
    results = summary(tallies)
    console.print(_table(results, f"{args.checkpoint}, {args.frames} frames of seed {args.seed}"))
    if args.json:
        record = {"program": "few_words", "machine": here, "checkpoint": str(args.checkpoint), "seed": args.seed}
        record |= {"frames": args.frames, "margin": BACKGROUND_MARGIN, **_flat(results), "kinds": results}
        with atomic_write(args.json) as part:
            part.write_text(json.dumps(record, indent=1) + "\n")
    return 0


def word_lists(seed: int) -> dict[str, list[Vocabulary]]:
    """The lists of each kind; three quarters of their words are things."""
    rng = np.random.default_rng(seed)
    trained, world = train_vocabulary(), world_vocabulary()
    seen = Vocabulary(tuple(item for item in world.classes if item.name in trained.names))
    unseen = Vocabulary(tuple(item for item in world.classes if item.name not in trained.names))
    lists = {str(count): [_drawn(rng, world, count) for _ in range(_LISTS)] for count in COUNTS}
    lists["12 seen"] = [_drawn(rng, seen, 12) for _ in range(_LISTS)]
    lists["12 unseen"] = [_drawn(rng, unseen, 12) for _ in range(_LISTS)]
    lists["general"] = [Vocabulary.from_names(GENERAL, stuff=_GENERAL_STUFF)]
    return lists


def _drawn(rng: np.random.Generator, words: Vocabulary, count: int) -> Vocabulary:
    things = [item for item in words.classes if item.is_thing]
    stuff = [item for item in words.classes if not item.is_thing]
    surfaces = min(max(count // 4, 1), len(stuff))
    chosen = [*rng.permutation(len(things))[: count - surfaces]]
    return Vocabulary(
        (*(things[index] for index in chosen), *(stuff[index] for index in rng.permutation(len(stuff))[:surfaces]))
    )


def _ways(words: Vocabulary, segmenter: Segmenter, args: argparse.Namespace) -> dict[str, Vocabulary]:
    """What may compete, by name."""
    background, margins = segmenter.default_background(), args.margins
    ways = {"none": words, "auto": words.with_background(background)}
    if args.others:
        ways["everything else"] = words.with_background(world_vocabulary())
        ways["five generic words"] = words.with_background(_GENERIC)
    return ways | {f"margin {margin:g}": words.with_background(background, margin) for margin in margins}


def truth_of(frame: Frame, words: Vocabulary) -> PanopticSample:
    """The truth in the list's words; class C is all else. Stuff of one class is one segment."""
    index = WordIndex([name] for name in words.names)
    segment_map = np.zeros(frame.segment_map.shape, np.int32)
    segments: list[TruthSegment] = []
    stuff: dict[int, int] = {}
    for item in frame.segments:
        # The longest word that is part of the name: "traffic cone" before "cone".
        part_of = [number for number in index.overlapping(item.name) if _is_part(words.names[number], item.name)]
        number = max(part_of, key=lambda number: len(words.names[number]), default=len(words))
        together = number == len(words) or not words.things[number]
        if together and number in stuff:
            segment_map[frame.segment_map == item.id] = stuff[number]
            continue
        segments.append(TruthSegment(len(segments) + 1, number))
        segment_map[frame.segment_map == item.id] = len(segments)
        if together:
            stuff[number] = len(segments)
    return PanopticSample("frame", frame.image, segment_map, tuple(segments))


def _is_part(word: str, name: str) -> bool:
    return f" {word} " in f" {name} "


def summary(tallies: Mapping[tuple[str, int, str], Tally]) -> dict[str, dict[str, dict[str, Any]]]:
    """For each kind of list and each way: PQ (mean over lists), false segments (sum), recall of things (of all)."""
    results: dict[str, dict[str, dict[str, Any]]] = {}
    for (kind, _, way), tally in tallies.items():
        results.setdefault(kind, {}).setdefault(way, {"lists": []})["lists"].append(tally.record())
    for ways in results.values():
        for row in ways.values():
            row["pq"] = _mean(np.array([item["pq"] for item in row["lists"]], float))
            row["fp"] = sum(item["fp"] for item in row["lists"])
            truths = sum(item["truths"] for item in row["lists"])
            row["recall"] = 100 * sum(item["found"] for item in row["lists"]) / truths if truths else None
    return results


def _flat(results: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """`none.pq`, `auto.fp`, ... of 12 words, and `general.auto.pq`, ...: what others read."""
    flat = {f"{way}.{key}": results["12"][way][key] for way in ("none", "auto") for key in ("pq", "fp", "recall")}
    return flat | {
        f"general.{way}.{key}": results["general"][way][key] for way in ("none", "auto") for key in ("pq", "fp")
    }


def _table(results: Mapping[str, Mapping[str, Mapping[str, Any]]], title: str) -> Table:
    shown = Table("words", "competitors", "PQ", "of the lists", "false segments", "recall of things", title=title)
    for kind, ways in results.items():
        for way, row in ways.items():
            each = "  ".join(f"{item['pq'] or 0:.1f}" for item in row["lists"])
            recall = "" if row["recall"] is None else f"{row['recall']:.1f}"
            shown.add_row(kind, way, f"{row['pq']:.1f}", each, str(row["fp"]), recall)
    return shown


def frames_of(count: int, seed: int, size: tuple[int, int]) -> Iterator[Frame]:
    """One picture each of `count` scenes, (width, height) pixels."""
    plan = WorldPlan(count, seed, "all", size, 1)
    with Renderer() as renderer:
        for scene in range(count):
            yield from render_scene(renderer, plan, scene)


def _mean(values: np.ndarray) -> float | None:
    return None if np.isnan(values).all() else float(np.nanmean(values))


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--checkpoint", default="demo", help="weights: a file, or a bundled name")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--backend", default="auto", help="what runs the network")
    parser.add_argument("--seed", type=int, default=0, help="of scenes and lists")
    parser.add_argument("--frames", type=int, default=60, help="scenes to render, one picture each")
    parser.add_argument("--size", type=int, nargs=2, default=(320, 240), metavar=("WIDTH", "HEIGHT"), help="pixels")
    parser.add_argument("--margins", type=float, nargs="*", default=[], help="further margins to try, in logits")
    parser.add_argument("--others", action="store_true", help="try other competitors too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result here")
    return parser


if __name__ == "__main__":
    sys.exit(main())
