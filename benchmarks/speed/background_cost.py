#!/usr/bin/env python3
"""What do 300 hidden competitors cost: in each frame, and when words change?

A frame is labeled with twelve words alone, and with competitors beside them, in turn; medians, and the difference as a
share of the whole frame. Then twenty words that no cache holds replace others, with and without competitors, whose rows
are known by then.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.lib import machine
from benchmarks.lib.pictures import Pictures, parse_size
from fcclip_core import InferenceSettings, Segmenter, Vocabulary
from fcclip_core.files.atomic_write import atomic_write
from fcclip_core.weights.model_zoo import EVERYDAY

WORDS = Vocabulary.from_names(
    ["person", "chair", "table", "cup", "bottle", "plant", "door", "book", "shoe", "floor", "wall", "ceiling"],
    stuff=["floor", "wall", "ceiling"],
)
_ADJECTIVES = ("tiny", "huge", "dusty", "shiny", "torn", "folded", "frozen", "rusty")


def main() -> int:
    """Measures and prints."""
    args = _parser().parse_args()
    here = machine.describe()
    console = Console()
    console.print(machine.headline(here))
    with tempfile.TemporaryDirectory() as cache:
        settings = InferenceSettings(shorter_side=args.shorter_side, num_threads=args.threads)
        segmenter = Segmenter.from_checkpoint(
            args.checkpoint, backend=args.backend, settings=settings, cache_dir=Path(cache)
        )
        record = {
            "program": "background_cost",
            "machine": here,
            "checkpoint": args.checkpoint,
            "frame": frame_cost(segmenter, args),
            "change": change_cost(segmenter, args),
        }
    frame, change = record["frame"], record["change"]
    table = Table("", "words alone", f"with {frame['competitors']} competitors", title=args.checkpoint)
    table.add_row("classify and merge, ms", f"{frame['alone_ms']:.1f}", f"{frame['beside_ms']:.1f}")
    table.add_row("more, share of a frame", "", f"{frame['share']:.1%}")
    table.add_row("20 new words, s", f"{change['alone_s']:.2f}", f"{change['beside_s']:.2f}")
    console.print(table)
    if args.json:
        with atomic_write(args.json) as part:
            part.write_text(json.dumps(record, indent=1) + "\n")
    return 0


def frame_cost(segmenter: Segmenter, args: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of classification and merging, and what competitors add as a share of the frame."""
    beside = WORDS.with_background(Vocabulary.load(EVERYDAY))
    snapshots = {"alone": segmenter.prepare_vocabulary(WORDS), "beside": segmenter.prepare_vocabulary(beside)}
    pictures = Pictures(*args.size)
    network: list[float] = []
    labels: dict[str, list[float]] = {name: [] for name in snapshots}
    for _ in range(args.frames + 1):
        began = time.perf_counter()
        encoded = segmenter.encode(pictures.next())
        network.append(time.perf_counter() - began)
        for name, snapshot in snapshots.items():
            began = time.perf_counter()
            segmenter.decode(encoded, snapshot)
            labels[name].append(time.perf_counter() - began)
    # The first frame also makes what later ones use.
    alone, with_others = (median(labels[name][1:]) for name in ("alone", "beside"))
    more = median(b - a for a, b in zip(labels["alone"][1:], labels["beside"][1:], strict=True))
    return {
        "competitors": len(beside) - len(WORDS),
        "network_ms": 1e3 * median(network[1:]),
        "alone_ms": 1e3 * alone,
        "beside_ms": 1e3 * with_others,
        "share": more / (median(network[1:]) + alone),
    }


def change_cost(segmenter: Segmenter, args: argparse.Namespace) -> dict[str, float]:
    """Seconds until twenty words that were never read are active, by turns."""
    others = Vocabulary.load(EVERYDAY)
    seconds: dict[str, list[float]] = {"alone": [], "beside": []}
    segmenter.set_vocabulary(WORDS.with_background(others))
    for turn in range(args.changes):
        for way in seconds:
            names = [f"{_ADJECTIVES[turn % len(_ADJECTIVES)]} {way} {number}" for number in range(20)]
            words = Vocabulary.from_names(names)
            began = time.perf_counter()
            segmenter.set_vocabulary(words if way == "alone" else words.with_background(others))
            seconds[way].append(time.perf_counter() - began)
    return {f"{way}_s": median(row) for way, row in seconds.items()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--checkpoint", default="demo", help="weights: a file, a bundled name, or recipe:NAME")
    parser.add_argument("--backend", default="auto", help="what runs the network")
    parser.add_argument("--shorter-side", type=int, default=0, help="test-time size in pixels; 0: the model's own")
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0 leaves torch's choice")
    parser.add_argument("--frames", type=int, default=20, help="pictures to label")
    parser.add_argument("--changes", type=int, default=5, help="changes of words, each way")
    parser.add_argument("--size", type=parse_size, default="640x480", metavar="WIDTHxHEIGHT", help="of the pictures")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result here")
    return parser


if __name__ == "__main__":
    sys.exit(main())
