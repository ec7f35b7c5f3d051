#!/usr/bin/env python3
"""Draws what a frozen and a trained CLIP call the same masks (Figure 4): left the frozen one, right the trained one.

Both pictures have the mask proposals of the frozen model, named by the out-of-vocabulary classifier alone, once with
the frozen tower and once with the trained one. It takes the scene in which the trained tower loses the most right names
of classes that training did not show.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from benchmarks.lib.arguments import make_parser
from benchmarks.lib.report import say
from fcclip_core import InferenceSettings, PanopticResult, Segmenter
from fcclip_core.datasets.records import PanopticSample
from fcclip_core.datasets.world import WorldScenes
from fcclip_core.images.image_files import write_image
from fcclip_core.segments.visualization import draw_caption, draw_overlay
from fcclip_core.simulation.dataset import WorldPlan
from fcclip_core.simulation.names import world_vocabulary
from fcclip_core.vocabulary.snapshot import VocabularySnapshot
from fcclip_core.weights.checkpoints import load_checkpoint
from fcclip_core.weights.mask_tower import with_own_tower

_GAP = 8
_SIZE = (640, 480)


def main() -> int:
    """Draws and writes the picture."""
    parser = make_parser(__doc__, threads=1, seed=11, scenes=20)
    parser.add_argument("frozen", type=Path, help="checkpoint that was trained with CLIP frozen")
    parser.add_argument("trained", type=Path, help="checkpoint whose CLIP was trained too")
    parser.add_argument("output", type=Path, metavar="FILE.png")
    args = parser.parse_args()
    frozen = load_checkpoint(args.frozen)
    settings = InferenceSettings(shorter_side=0, ensemble="out_of_vocabulary", num_threads=args.threads)
    models = {
        f"named by CLIP, {name}": Segmenter(checkpoint, device="cpu", backend="eager", settings=settings)
        for name, checkpoint in {
            "frozen": frozen,
            "trained on other classes": with_own_tower(frozen, load_checkpoint(args.trained)),
        }.items()
    }
    snapshots = [model.set_vocabulary(world_vocabulary()) for model in models.values()]
    best, picture = -1, np.zeros((0, 0, 3), np.uint8)
    scenes = WorldScenes(WorldPlan(args.scenes, args.seed, "all", _SIZE, 1))
    for number in range(len(scenes)):
        sample = scenes[number]
        named = zip(models.values(), snapshots, strict=True)
        results = [model.decode(model.encode(sample.image), snapshot) for model, snapshot in named]
        right = [right_names(sample, result, snapshots[0]) for result in results]
        if right[0] - right[1] > best:
            best = right[0] - right[1]
            picture = beside(sample.image, list(models), snapshots, results)
            say(f"scene {number}: {right[0]} unseen segments named right by the frozen tower, {right[1]} by the other")
    write_image(args.output, picture, optimize=True)
    return 0


def right_names(sample: PanopticSample, result: PanopticResult, snapshot: VocabularySnapshot) -> int:
    """Truth segments of unseen classes that a segment of the right name overlaps by more than half."""
    right = 0
    for truth in sample.segments:
        if snapshot.seen[truth.class_index]:
            continue
        inside = sample.segment_map == truth.id
        for segment in result.segments:
            if segment.class_id == snapshot.class_ids[truth.class_index]:
                found = result.segment_map == segment.id
                right += bool(2 * (inside & found).sum() > (inside | found).sum())
    return right


def beside(
    image: np.ndarray, captions: list[str], snapshots: list[VocabularySnapshot], results: list[PanopticResult]
) -> np.ndarray:
    """The overlays next to each other, each below its caption."""
    drawn = []
    for caption, snapshot, result in zip(captions, snapshots, results, strict=True):
        overlay = draw_overlay(image, result, {row.id: row.color for row in snapshot.published})
        drawn.append(np.concatenate((draw_caption(caption, overlay.shape[1]), overlay)))
    gap = np.full((len(drawn[0]), _GAP, 3), 255, np.uint8)
    return np.concatenate((drawn[0], gap, drawn[1]), 1)


if __name__ == "__main__":
    sys.exit(main())
