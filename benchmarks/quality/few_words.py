#!/usr/bin/env python3
"""What do hidden competitors do for short lists of words?

Renders scenes of the simulated world and labels each frame with short lists of words, with and without competitors. The
seed also draws the lists: 3, 12 and 40 words of the world (three quarters things), 12 words that training saw and 12
that it did not; and five general words that stand over many names ("ball" for balls of every color).

A segment of the world belongs to a word of the list if that is its name or part of it, word by word. All other pixels
belong to no word of the list, so a segment there is a false one. PQ is that of the list's words.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.lib.arguments import MODEL, make_parser, make_segmenter
from benchmarks.lib.report import Report, arguments_of, print_table, progress
from benchmarks.lib.world import scene_frames
from fcclip_core import Segmenter, Vocabulary
from fcclip_core.datasets.records import PanopticSample, TruthSegment
from fcclip_core.evaluation.panoptic import PanopticQuality
from fcclip_core.results import PanopticResult
from fcclip_core.simulation.frames import Frame
from fcclip_core.simulation.names import train_vocabulary, world_vocabulary
from fcclip_core.vocabulary.classes import BACKGROUND_MARGIN
from fcclip_core.vocabulary.snapshot import VocabularySnapshot
from fcclip_core.vocabulary.word_overlap import WordIndex

GENERAL = ("ball", "cone", "box", "floor", "wall")
_GENERAL_STUFF = ("floor", "wall")
COUNTS = (3, 12, 40)
_LISTS = 3
_GENERIC = Vocabulary.from_names(["object", "thing", "background", "surface", "other"])


class Tally:
    """The results of one list of words with one set of competitors.

    Attributes:
        words: The list.
        snapshot: What frames are labeled with.
        quality: Of the list's classes, and of "anything else" behind them.
    """

    def __init__(self, words: Vocabulary, snapshot: VocabularySnapshot) -> None:
        """Starts with no frame."""
        self.words, self.snapshot = words, snapshot
        self.quality = PanopticQuality(len(words) + 1)
        self._index_of = {row.item.name: index for index, row in enumerate(snapshot.published)}

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
            "pq_of_class": {name: _mean(value) for name, value in zip(self.words.names, quality, strict=True)},
            "fp": int(self.quality.invented[:count].sum()),
            "found": int(matched[things].sum()),
            "truths": int((matched + missed)[things].sum()),
        }


def main() -> int:
    """Measures and prints."""
    parser = make_parser(__doc__, *MODEL, "seed", frames=60, size="320x240")
    parser.add_argument("--margins", type=float, nargs="*", default=[], help="further margins to try, in logits")
    parser.add_argument("--others", action="store_true", help="try other competitors too")
    args = parser.parse_args()
    report = Report("few_words")
    segmenter = make_segmenter(args)
    lists = word_lists(args.seed)
    tallies = {
        (kind, number, way): Tally(words, segmenter.prepare_vocabulary(vocabulary))
        for kind, rows in lists.items()
        for number, words in enumerate(rows)
        for way, vocabulary in _ways(words, segmenter, args).items()
    }
    for number, frame in enumerate(scene_frames(args.frames, args.seed, args.size), 1):
        encoded = segmenter.encode(frame.image)
        truths = {
            (kind, index): truth_of(frame, words) for kind, rows in lists.items() for index, words in enumerate(rows)
        }
        for (kind, index, _), tally in tallies.items():
            tally.add(truths[kind, index], segmenter.decode(encoded, tally.snapshot))
        progress(f"{number} frames")
    results = summary(tallies)
    show(results, f"{args.checkpoint}, {args.frames} frames of seed {args.seed}")
    names = ("checkpoint", "seed", "frames")
    report.write(args.json, **arguments_of(args, *names), margin=BACKGROUND_MARGIN, **_flat(results), kinds=results)
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
    """The list with each set of competitors, by name."""
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
        part_of = [number for number in index.overlapping(item.name) if f" {words.names[number]} " in f" {item.name} "]
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
    """`none.pq`, `auto.fp`, ... of 12 words, and `general.auto.pq`, ..., for other programs."""
    flat = {f"{way}.{key}": results["12"][way][key] for way in ("none", "auto") for key in ("pq", "fp", "recall")}
    return flat | {
        f"general.{way}.{key}": results["general"][way][key] for way in ("none", "auto") for key in ("pq", "fp")
    }


def show(results: Mapping[str, Mapping[str, Mapping[str, Any]]], title: str) -> None:
    """Prints a row for each kind of list and way to compete."""
    columns = {"words": "", "competitors": "", "PQ": ".1f", "of the lists": "", "false segments": ""}
    rows = [
        (kind, way, row["pq"], "  ".join(f"{item['pq'] or 0:.1f}" for item in row["lists"]), row["fp"], row["recall"])
        for kind, ways in results.items()
        for way, row in ways.items()
    ]
    print_table(columns | {"recall of things": ".1f"}, rows, title)


def _mean(values: np.ndarray) -> float | None:
    return None if np.isnan(values).all() else float(np.nanmean(values))


if __name__ == "__main__":
    sys.exit(main())
