#!/usr/bin/env python3
"""Which rule should label a mask that vanishes at stride 32, where CLIP's features are? Three on the same world scenes.

The out-of-vocabulary classifier pools stride-32 features over the mask. A mask that has no cell there is pooled over
nothing; the published ResNets leave it to the in-vocabulary classifier, the published ConvNeXt-L uses the embedding of
nothing. The third rule pools its best cell. The scenes are those of `fcclip evaluate world` with the same
seed. A false positive is a segment that matches no truth segment of its class (IoU above one half); recall is the share
of truth segments that are matched so.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.lib.arguments import MODEL, make_parser, make_segmenter
from benchmarks.lib.rates import timed
from benchmarks.lib.report import Report, arguments_of, print_table, say
from fcclip_core import PanopticResult, Segmenter
from fcclip_core.commands.evaluation_data import WORLD_SIZE
from fcclip_core.datasets.records import PanopticSample, Sample
from fcclip_core.datasets.world import WorldScenes
from fcclip_core.evaluation.overlaps import segment_overlaps
from fcclip_core.evaluation.recall import MaskRecall
from fcclip_core.evaluation.scoreboard import Scoreboard
from fcclip_core.settings import BEST_CELL, PUBLISHED, VANISHED_MASKS
from fcclip_core.simulation.dataset import WorldPlan
from fcclip_core.simulation.names import world_vocabulary
from fcclip_core.vocabulary.snapshot import VocabularySnapshot

IN_VOCABULARY, NOTHING = "in-vocabulary alone", "embedding of nothing"
RULES: dict[str, tuple[str, bool]] = {
    IN_VOCABULARY: (PUBLISHED, True),
    NOTHING: (PUBLISHED, False),
    BEST_CELL: (BEST_CELL, False),
}
"""Rule -> `vanished_masks` of the network and `valid_mask_only` of the ensemble."""
COLUMNS = {
    **dict.fromkeys(("pq.all", "pq.seen", "pq.unseen", "miou.all"), ".2f"),
    "false_positives": "",
    **dict.fromkeys(("recall", "segment_recall.all"), ".3f"),
}


def main() -> int:
    """Measures and prints."""
    size = "{}x{}".format(*WORLD_SIZE)
    defaults = {"backend": "eager", "threads": 1, "seeds": [31, 47, 59], "scenes": 150, "size": size}
    args = make_parser(__doc__, *MODEL, **defaults).parse_args()
    report = Report("vanished_masks")
    networks = {form: make_segmenter(args, vanished_masks=form) for form in VANISHED_MASKS}
    snapshots = {form: network.set_vocabulary(world_vocabulary()) for form, network in networks.items()}
    seeds: dict[str, Any] = {}
    for seed in args.seeds:
        scenes = WorldScenes(WorldPlan(args.scenes, seed, "all", args.size, 1))
        result = seeds[str(seed)] = measure(networks, snapshots, scenes)
        rows = ([rule, *(scores.get(name) for name in COLUMNS)] for rule, scores in result["rules"].items())
        title = f"{args.checkpoint}, {args.scenes} scenes of seed {seed}"
        print_table({"vanished masks are labeled by": ""} | COLUMNS, rows, title)
        say(
            f"{result['vanished_queries']:.1%} of the object queries vanish; CPU time of the network with the best "
            f"cell: {result['cpu_seconds_best_cell_over_published']:.3f} times the published one's"
        )
    report.write(args.json, **arguments_of(args, "checkpoint", "size", "scenes"), seeds=seeds)
    return 0


class Tally(Scoreboard):
    """Quality, false positives and recall of one rule."""

    def __init__(self, snapshot: VocabularySnapshot) -> None:
        """Starts with no image; `snapshot` is the world's vocabulary."""
        super().__init__(snapshot.class_ids, world_vocabulary().things, snapshot.seen)
        self._recall = MaskRecall(len(snapshot.class_ids))

    def update(self, number: int, sample: Sample, result: PanopticResult) -> None:
        """Adds an image, whose truth is panoptic."""
        super().update(number, sample, result)
        assert isinstance(sample, PanopticSample)
        self._recall.update(sample, segment_overlaps(sample, result.segment_map, len(result.segments)))

    def scores(self) -> dict[str, float | None]:
        """PQ and mIoU in percent, false positives counted, recall 0..1."""
        quality = self._panoptic
        assert quality is not None
        matched, missed = int(quality.matched.sum()), int(quality.missed.sum())
        return {
            **super().scores(),
            **self._recall.scores("segment_recall", self._groups),
            "false_positives": int(quality.invented.sum()),
            "recall": matched / (matched + missed) if matched + missed else None,
        }


def measure(
    networks: Mapping[str, Segmenter], snapshots: Mapping[str, VocabularySnapshot], scenes: WorldScenes
) -> dict[str, Any]:
    """Labels the same scenes by every rule, and times the two forms of the network in turns."""
    tallies = {rule: Tally(snapshots[form]) for rule, (form, _) in RULES.items()}
    vanished: list[float] = []
    ratios: list[float] = []
    for number in range(len(scenes)):
        truth = scenes[number]
        # The first of two finds a colder cache: they take turns.
        order = VANISHED_MASKS if number % 2 else VANISHED_MASKS[::-1]
        encoded = {form: timed(networks[form].encode, truth.image, clock=time.process_time) for form in order}
        ratios.append(encoded[BEST_CELL][1] / encoded[PUBLISHED][1])
        vanished.append(1 - float(encoded[PUBLISHED][0].output.mask_survives.float().mean()))
        for rule, (form, valid_mask_only) in RULES.items():
            settings = replace(networks[form].settings, valid_mask_only=valid_mask_only)
            tallies[rule].update(number, truth, networks[form].decode(encoded[form][0], snapshots[form], settings))
    return {
        "vanished_queries": float(np.mean(vanished)),
        "cpu_seconds_best_cell_over_published": float(np.median(ratios)),
        "rules": {rule: tally.scores() for rule, tally in tallies.items()},
    }


if __name__ == "__main__":
    sys.exit(main())
