#!/usr/bin/env python3
"""What do 300 hidden competitors cost: in each frame, and when the vocabulary changes?

A frame is labeled with twelve words alone, and with competitors added, in turns; medians, and the difference as a share
of the whole frame. Then twenty words that no cache holds replace others, with and without competitors, whose rows are
known by then.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.lib.arguments import MODEL, make_parser, make_segmenter
from benchmarks.lib.pictures import Pictures
from benchmarks.lib.rates import timed
from benchmarks.lib.report import Report, arguments_of, print_table
from fcclip_core import Segmenter, Vocabulary
from fcclip_core.weights.model_zoo import EVERYDAY

WORDS = Vocabulary.from_names(
    ["person", "chair", "table", "cup", "bottle", "plant", "door", "book", "shoe", "floor", "wall", "ceiling"],
    stuff=["floor", "wall", "ceiling"],
)
_ADJECTIVES = ("tiny", "huge", "dusty", "shiny", "torn", "folded", "frozen", "rusty")


def main() -> int:
    """Measures and prints."""
    parser = make_parser(__doc__, *MODEL, "size", frames=20)
    parser.add_argument("--changes", type=int, default=5, help="changes of the vocabulary, each way")
    args = parser.parse_args()
    report = Report("background_cost")
    with tempfile.TemporaryDirectory() as cache:
        segmenter = make_segmenter(args, cache_dir=Path(cache))
        frame, change = frame_cost(segmenter, args), change_cost(segmenter, args)
    rows = [
        ("classify and merge, ms", f"{frame['alone_ms']:.1f}", f"{frame['beside_ms']:.1f}"),
        ("more, share of a frame", "", f"{frame['share']:.1%}"),
        ("20 new words, s", f"{change['alone_s']:.2f}", f"{change['beside_s']:.2f}"),
    ]
    print_table(dict.fromkeys((args.checkpoint, "words alone", f"with {frame['competitors']} competitors"), ""), rows)
    report.write(args.json, **arguments_of(args, "checkpoint"), frame=frame, change=change)
    return 0


def frame_cost(segmenter: Segmenter, args: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of classification and merging, and what competitors add as a share of the frame."""
    beside = WORDS.with_background(Vocabulary.load(EVERYDAY))
    snapshots = {"alone": segmenter.prepare_vocabulary(WORDS), "beside": segmenter.prepare_vocabulary(beside)}
    rows = []
    for picture in Pictures(*args.size).several(args.frames + 1):
        encoded, network = timed(segmenter.encode, picture)
        labels = {name: timed(segmenter.decode, encoded, snapshot)[1] for name, snapshot in snapshots.items()}
        rows.append((network, labels["alone"], labels["beside"]))
    # The first frame also pays for what later ones reuse.
    network, alone, with_others = (median(column) for column in zip(*rows[1:], strict=True))
    return {
        "competitors": len(beside) - len(WORDS),
        "network_ms": 1e3 * network,
        "alone_ms": 1e3 * alone,
        "beside_ms": 1e3 * with_others,
        "share": median(more - less for _, less, more in rows[1:]) / (network + alone),
    }


def change_cost(segmenter: Segmenter, args: argparse.Namespace) -> dict[str, float]:
    """Seconds until twenty words that were never encoded are active, with and without competitors in turns."""
    others = Vocabulary.load(EVERYDAY)
    seconds: dict[str, list[float]] = {"alone": [], "beside": []}
    segmenter.set_vocabulary(WORDS.with_background(others))
    for turn in range(args.changes):
        for way in seconds:
            names = [f"{_ADJECTIVES[turn % len(_ADJECTIVES)]} {way} {number}" for number in range(20)]
            words = Vocabulary.from_names(names)
            changed = words if way == "alone" else words.with_background(others)
            seconds[way].append(timed(segmenter.set_vocabulary, changed)[1])
    return {f"{way}_s": median(row) for way, row in seconds.items()}


if __name__ == "__main__":
    sys.exit(main())
