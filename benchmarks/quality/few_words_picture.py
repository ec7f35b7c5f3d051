#!/usr/bin/env python3
"""Draws one frame of the simulated world, labeled with five general words without and with hidden competitors.

It takes the scene in which competitors remove the most false segments, among those in which they remove no right one
and some are left. Left without, right with them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from benchmarks.lib.arguments import make_parser
from benchmarks.lib.world import scene_frames
from benchmarks.quality.few_words import Tally, truth_of, word_lists
from fcclip_core import PanopticResult, Segmenter
from fcclip_core.images.image_files import write_image
from fcclip_core.segments.visualization import draw_overlay
from fcclip_core.vocabulary.snapshot import VocabularySnapshot

_GAP = 8
_LEFT = 2
"""Right segments that the picture shows, at least."""


def main() -> int:
    """Draws and writes the picture."""
    parser = make_parser(__doc__, "checkpoint", "seed", frames=12)
    parser.add_argument("output", type=Path, metavar="FILE.png")
    args = parser.parse_args()
    segmenter = Segmenter.from_checkpoint(args.checkpoint)
    words = word_lists(args.seed)["general"][0]
    ways = [words, words.with_background(segmenter.default_background())]
    snapshots = [segmenter.prepare_vocabulary(way) for way in ways]
    best, picture = -1, np.zeros((0, 0, 3), np.uint8)
    for frame in scene_frames(args.frames, args.seed, (640, 480)):
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
    write_image(args.output, picture, optimize=True)
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
