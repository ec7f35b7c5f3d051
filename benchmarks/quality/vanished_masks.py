#!/usr/bin/env python3
"""What should name a mask that vanishes at stride 32, where CLIP's features are? Three rules on the same world scenes.

The out-of-vocabulary classifier pools stride-32 features over the mask. A mask that has no cell there is pooled over
nothing; the published ResNets leave it to the in-vocabulary classifier, the published ConvNeXt-L asks the embedding of
nothing all the same. The third rule pools its best cell. The scenes are those of `fcclip evaluate world` with the same
seed. A false positive is a segment that matches no truth segment of its class (IoU above one half); recall is the share
of truth segments that are matched so.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.lib import machine
from benchmarks.lib.pictures import parse_size
from fcclip_core import InferenceSettings, PanopticResult, Segmenter, load_checkpoint
from fcclip_core.commands.evaluate import WORLD_SIZE
from fcclip_core.datasets.records import PanopticSample
from fcclip_core.datasets.world import WorldScenes
from fcclip_core.evaluation.averages import class_groups
from fcclip_core.evaluation.overlaps import segment_overlaps
from fcclip_core.evaluation.panoptic import PanopticQuality
from fcclip_core.evaluation.recall import MaskRecall
from fcclip_core.evaluation.semantic import SemanticIoU
from fcclip_core.files.atomic_write import atomic_write
from fcclip_core.segmenter import EncodedImage
from fcclip_core.settings import BEST_CELL, PUBLISHED, VANISHED_MASKS
from fcclip_core.simulation.dataset import WorldPlan
from fcclip_core.simulation.names import world_vocabulary

IN_VOCABULARY, NOTHING = "in-vocabulary alone", "embedding of nothing"
RULES: dict[str, tuple[str, bool]] = {
    IN_VOCABULARY: (PUBLISHED, True),
    NOTHING: (PUBLISHED, False),
    BEST_CELL: (BEST_CELL, False),
}
"""Rule -> `vanished_masks` of the network and `valid_mask_only` of the ensemble."""
COLUMNS = ("pq.all", "pq.seen", "pq.unseen", "miou.all", "false_positives", "recall", "segment_recall.all")
_WIDTH = 130


def main() -> int:
    """Measures and prints."""
    args = parse_arguments()
    console = Console(highlight=False, soft_wrap=True, width=_WIDTH)
    here = machine.describe()
    console.print(machine.headline(here))
    networks = make_networks(args)
    seeds: dict[str, Any] = {}
    for seed in args.seeds:
        seeds[str(seed)] = measure(networks, WorldScenes(WorldPlan(args.scenes, seed, "all", args.size, 1)))
        console.print(table(seeds[str(seed)], f"{args.checkpoint}, {args.scenes} scenes of seed {seed}"))
    if args.json:
        record = {"program": "vanished_masks", "machine": here, "checkpoint": args.checkpoint, "size": args.size}
        record |= {"scenes": args.scenes, "seeds": seeds}
        with atomic_write(args.json) as part:
            part.write_text(json.dumps(record, indent=1) + "\n")
    return 0


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--checkpoint", default="demo", help="weights: a file, a bundled name, or recipe:NAME")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--backend", default="eager", help="what runs both networks")
    parser.add_argument("--seeds", type=int, nargs="+", default=[31, 47, 59], help="of the scenes")
    parser.add_argument("--scenes", type=int, default=150, help="scenes of each seed to render")
    parser.add_argument(
        "--size", type=parse_size, default="{}x{}".format(*WORLD_SIZE), metavar="WIDTHxHEIGHT", help="of the pictures"
    )
    parser.add_argument("--shorter-side", type=int, default=0, help="test-time size in pixels; 0: the model's own")
    parser.add_argument("--threads", type=int, default=1, help="torch threads; 0 leaves torch's choice")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result here")
    return parser.parse_args()


def make_networks(args: argparse.Namespace) -> dict[str, Segmenter]:
    """A segmenter for each form of the network, with the world's words."""
    checkpoint = load_checkpoint(args.checkpoint)
    settings = InferenceSettings(shorter_side=args.shorter_side, num_threads=args.threads)
    networks = {}
    for form in VANISHED_MASKS:
        networks[form] = Segmenter(
            checkpoint, device=args.device, backend=args.backend, vanished_masks=form, settings=settings
        )
        networks[form].set_vocabulary(world_vocabulary())
    return networks


@dataclass
class Tally:
    """What one rule came to.

    Attributes:
        seen: Whether each class counts as seen.
        class_ids: The segmenter's ids of the world's classes, in the world's order.
        quality: Panoptic quality.
        semantic: Semantic IoU.
        segments: Recall of segments, whatever they are called.
    """

    seen: tuple[bool, ...]
    class_ids: tuple[int, ...]
    quality: PanopticQuality = field(init=False)
    semantic: SemanticIoU = field(init=False)
    segments: MaskRecall = field(init=False)

    def __post_init__(self) -> None:
        """Starts with no picture."""
        classes = len(self.class_ids)
        self.quality, self.semantic, self.segments = PanopticQuality(classes), SemanticIoU(classes), MaskRecall(classes)
        self._index_of = np.full(max(self.class_ids) + 1, -1, np.int64)
        self._index_of[list(self.class_ids)] = np.arange(classes)

    def add(self, truth: PanopticSample, result: PanopticResult) -> None:
        """Counts the answer for one picture."""
        labels = [int(self._index_of[segment.class_id]) for segment in result.segments]
        self.quality.update(truth, result.segment_map, labels)
        self.semantic.update(truth.class_map(), self._index_of[result.semantic_map()])
        self.segments.update(truth, segment_overlaps(truth, result.segment_map, len(labels)))

    def scores(self) -> dict[str, float | int | None]:
        """PQ and mIoU in per cent, false positives counted, recall 0..1."""
        groups = class_groups(world_vocabulary().things, self.seen)
        matched, missed = int(self.quality.matched.sum()), int(self.quality.missed.sum())
        return {
            **self.quality.scores(groups),
            **self.semantic.scores(groups),
            **self.segments.scores("segment_recall", groups),
            "false_positives": int(self.quality.invented.sum()),
            "recall": matched / (matched + missed) if matched + missed else None,
        }


def measure(networks: Mapping[str, Segmenter], scenes: WorldScenes) -> dict[str, Any]:
    """Names the same scenes by every rule, and times the two forms of the network by turns."""
    snapshots = {form: network.vocabulary for form, network in networks.items()}
    tallies: dict[str, Tally] = {}
    for rule, (form, _) in RULES.items():
        snapshot = snapshots[form]
        assert snapshot is not None
        tallies[rule] = Tally(snapshot.seen, snapshot.class_ids)
    vanished: list[float] = []
    ratios: list[float] = []
    for number in range(len(scenes)):
        truth = scenes[number]
        encoded: dict[str, EncodedImage] = {}
        seconds: dict[str, float] = {}
        # The first of two finds a colder cache: they change places.
        for form in VANISHED_MASKS if number % 2 else reversed(VANISHED_MASKS):
            began = time.process_time()
            encoded[form] = networks[form].encode(truth.image)
            seconds[form] = time.process_time() - began
        ratios.append(seconds[BEST_CELL] / seconds[PUBLISHED])
        vanished.append(1 - float(encoded[PUBLISHED].output.mask_survives.float().mean()))
        for rule, (form, valid_mask_only) in RULES.items():
            settings = replace(networks[form].settings, valid_mask_only=valid_mask_only)
            tallies[rule].add(truth, networks[form].decode(encoded[form], snapshots[form], settings))
    return {
        "vanished_queries": float(np.mean(vanished)),
        "cpu_seconds_best_cell_over_published": float(np.median(ratios)),
        "rules": {rule: tally.scores() for rule, tally in tallies.items()},
    }


def table(result: Mapping[str, Any], title: str) -> Table:
    """A row a rule."""
    shown = Table("vanished masks are named by", *COLUMNS, title=title)
    for rule, scores in result["rules"].items():
        shown.add_row(rule, *(_cell(name, scores.get(name)) for name in COLUMNS))
    shown.caption = (
        f"{result['vanished_queries']:.1%} of the object queries vanish; CPU time of the network with the best cell: "
        f"{result['cpu_seconds_best_cell_over_published']:.3f} times the published one's"
    )
    return shown


def _cell(name: str, value: float | int | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, int):
        return str(value)
    return f"{value:.3f}" if "recall" in name else f"{value:.2f}"


if __name__ == "__main__":
    sys.exit(main())
