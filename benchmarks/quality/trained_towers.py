#!/usr/bin/env python3
"""What is lost when CLIP's image tower is trained too? Every combination of frozen and trained towers (Table 6).

Two trainings, alike in start, steps, seed and frames: with CLIP frozen, and with its image tower trained at a tenth of
the rate. Each gives a mask generator with its in-vocabulary classifier, which share queries and pixel decoder, and a
tower for the out-of-vocabulary classifier, which no training loss uses: so two trainings make all four combinations.
Each combination is evaluated on the same scenes with both classifiers and with one of them.

Run the same command again to resume: trainings from their saved state, evaluations after the last finished one.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.lib.arguments import make_parser
from benchmarks.lib.report import Report, arguments_of, print_table
from fcclip_core import Segmenter
from fcclip_core.commands.evaluation_data import WORLD_SIZE
from fcclip_core.datasets.world import WorldScenes
from fcclip_core.datasets.world_shards import WorldShards
from fcclip_core.evaluation.runner import evaluate
from fcclip_core.files.json_files import write_json
from fcclip_core.simulation.dataset import WorldPlan
from fcclip_core.simulation.names import train_vocabulary, world_vocabulary
from fcclip_core.training.config import TrainingConfig
from fcclip_core.training.demo_model.recipe import starting_point, world_config
from fcclip_core.training.trainer import MODEL_FILE, Trainer
from fcclip_core.weights.checkpoints import Checkpoint, load_checkpoint
from fcclip_core.weights.mask_tower import with_own_tower

FROZEN, TRAINED = TOWERS = ("frozen", "trained")
COMBINATIONS = tuple((masks, clip) for masks in TOWERS for clip in TOWERS)
"""Tower of mask generator and in-vocabulary classifier, tower of the out-of-vocabulary classifier."""
FORMS = ("geometric", "in_vocabulary", "out_of_vocabulary")
COLUMNS = dict.fromkeys(("pq.all", "pq.seen", "pq.unseen", "miou.all", "miou.seen", "miou.unseen"), ".1f")


def main() -> int:
    """Trains, evaluates, prints."""
    args = arguments()
    torch.set_num_threads(args.threads)
    report = Report("trained_towers")
    runs = {name: trained(args, name) for name in TOWERS}
    results: dict[str, Any] = {}
    for masks, clip in COMBINATIONS:
        results[f"{masks}, {clip}"] = scores_of(args, combined(runs, masks, clip), f"{masks}_{clip}")
    rows = [
        [*name.split(", "), form.replace("_", "-"), *(scores[form].get(column) for column in COLUMNS)]
        for name, scores in results.items()
        for form in FORMS
    ]
    heads = {"mask generator, in-vocabulary": "", "out-of-vocabulary": "", "named by": ""}
    print_table(heads | COLUMNS, rows, f"{args.steps} steps, {args.scenes} scenes of seed {args.seed}")
    asked = arguments_of(args, "start", "clip", "steps", "batch", "train_seed", "seed", "scenes")
    report.write(args.json, **asked, units="per cent", frames=args.steps * args.batch, combinations=results)
    return 0


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = make_parser(__doc__, threads=1, seed=11, scenes=300)
    parser.add_argument("shards", type=Path, help="shards of `fcclip world render --shards --split train`")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="states, checkpoints, scores")
    parser.add_argument("--steps", type=int, default=400, metavar="N", help="optimizer steps of each training")
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="images a step")
    parser.add_argument("--train-seed", type=int, default=0, metavar="S", help="of the trainings")
    start = parser.add_mutually_exclusive_group(required=True)
    start.add_argument("--clip", type=Path, metavar="FILE", help="begin with this CLIP and fresh decoders")
    start.add_argument("--start", metavar="C", help="begin with the decoders of this checkpoint as well")
    return parser.parse_args()


def trained(args: argparse.Namespace, name: str) -> Checkpoint:
    """The finished checkpoint of one training, which is run or resumed if it is not there."""
    folder = args.out / name
    if not (folder / MODEL_FILE).exists():
        shards = WorldShards(args.shards, train_vocabulary())
        Trainer(config(args, name), beginning(args), shards, folder).run()
    return load_checkpoint(folder / MODEL_FILE)


def config(args: argparse.Namespace, name: str) -> TrainingConfig:
    """The world's recipe with the given length and batch."""
    recipe = world_config(args.steps, args.train_seed, train_backbone=name == TRAINED)
    return replace(recipe, batch_size=args.batch, save_every=20)


def beginning(args: argparse.Namespace) -> Checkpoint:
    """What both trainings begin with."""
    if args.start is not None:
        return load_checkpoint(args.start)
    return starting_point(args.clip, args.train_seed)


def combined(runs: dict[str, Checkpoint], masks: str, clip: str) -> Checkpoint:
    """The model of a combination: one tower where both parts have the same, else two."""
    return runs[masks] if masks == clip else with_own_tower(runs[masks], runs[clip])


def scores_of(args: argparse.Namespace, checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    """Scores on the scenes by classifier; read from the output folder if they were measured before."""
    path = args.out / f"{name}.json"
    about = {"scenes": args.scenes, "seed": args.seed, "weights": checkpoint.weights_id}
    if path.exists() and (found := json.loads(path.read_text()))["about"] == about:
        return found["scores"]
    segmenter = Segmenter(checkpoint, device="cpu", backend="eager")
    snapshot = segmenter.set_vocabulary(world_vocabulary())
    forms = {form: replace(segmenter.settings, ensemble=form) for form in FORMS}
    scenes = WorldScenes(WorldPlan(args.scenes, args.seed, "all", WORLD_SIZE, 1))
    result = evaluate(scenes, segmenter, snapshot, world_vocabulary().things, forms=forms)
    assert result is not None  # one process
    scores = {form: dict(board.scores()) for form, board in result.forms.items()}
    write_json(path, {"about": about, "scores": scores})
    return scores


if __name__ == "__main__":
    sys.exit(main())
