#!/usr/bin/env python3
"""Draws one frame of the simulated world, labeled with five general words without and with hidden competitors.

Of some scenes the one is taken in which competitors take away most false segments, of those in which they take no right
one away and some are left. Left without, right with them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.quality.few_words import Tally, frames_of, truth_of, word_lists
from fcclip_core import PanopticResult, Segmenter
from fcclip_core.files.atomic_write import atomic_write
from fcclip_core.segments.visualization import draw_overlay
from fcclip_core.vocabulary.snapshot import VocabularySnapshot

_GAP = 8
_LEFT = 2
"""Right segments that the picture shows, at least."""


def main() -> int:
    """Draws and writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("output", type=Path, metavar="FILE.png")
    parser.add_argument("--checkpoint", default="demo", help="weights: a file, or a bundled name")
    parser.add_argument("--seed", type=int, default=0, help="of scenes")
    parser.add_argument("--frames", type=int, default=12, help="scenes to choose from")
    args = parser.parse_args()
    segmenter = Segmenter.from_checkpoint(args.checkpoint)
    words = word_lists(args.seed)["general"][0]
    ways = [words, words.with_background(segmenter.default_background())]
    snapshots = [segmenter.prepare_vocabulary(way) for way in ways]
    best, picture = -1, np.zeros((0, 0, 3), np.uint8)
    for frame in frames_of(args.frames, args.seed, (640, 480)):
        encoded, false, right = segmenter.encode(frame.image), [], []
        results = [segmenter.decode(encoded, snapshot) for snapshot in snapshots]
        for snapshot, result in zip(snapshots, results, strict=True):
            tally = Tally(words, snapshot)
            tally.add(truth_of(frame, words), result)
            false.append(int(tally.quality.invented.sum()))
            right.append(int(tally.quality.matched[: len(words)].sum()))
        if right[1] >= max(right[0], _LEFT) and false[0] - false[1] > best:
            best = false[0] - false[1]
            picture = _beside(frame.image, snapshots, results)
            print(f"{false[0]} false segments without competitors, {false[1]} with them")
    with atomic_write(args.output) as part:
        Image.fromarray(picture).save(part, "PNG", optimize=True)
    print(f"the words: {', '.join(words.names)}")
    return 0


def _beside(image: np.ndarray, snapshots: list[VocabularySnapshot], results: list[PanopticResult]) -> np.ndarray:
    gap = np.full((len(image), _GAP, 3), 255, np.uint8)
    drawn = [
        draw_overlay(image, result, {row.id: row.color for row in snapshot.published})
        for snapshot, result in zip(snapshots, results, strict=True)
    ]
    return np.concatenate((drawn[0], gap, drawn[1]), 1)


if __name__ == "__main__":
    sys.exit(main())
