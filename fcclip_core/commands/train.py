"""`fcclip train`: trains FC-CLIP. Every recipe resumes when the same command is run again.

Each recipe is a subcommand; recipes of other modules are added in `add_parser`.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fcclip_core.commands import train_world
from fcclip_core.commands.inference_arguments import vocabulary_from
from fcclip_core.commands.train_presets import preset
from fcclip_core.errors import TrainingError
from fcclip_core.files.paths import expanded

if TYPE_CHECKING:
    from fcclip_core.model.config import ModelConfig
    from fcclip_core.training.config import TrainingConfig
    from fcclip_core.vocabulary.classes import Vocabulary
    from fcclip_core.weights.checkpoints import Checkpoint

TRAINED_ON = {
    "coco": ("train2017", "COCO panoptic, or your own labels in its format"),
    "ade20k": ("training", "ADE20K panoptic"),
    "cityscapes": ("train", "Cityscapes panoptic"),
}
"""Panoptic datasets to train on: the split that is for it, and what it is."""

_SETTING_HELP = {
    "steps": "optimizer steps; milestones move along",
    "batch_size": "images per step, over all workers",
    "learning_rate": "AdamW's rate before the milestones",
    "precision": "float32, bfloat16 or auto: bfloat16 on a GPU",
    "seed": "decides first weights, order, augmentation and points",
    "save_every": "steps between two saved states",
    "export_every": "steps between two checkpoints that are kept; 0 keeps the last only",
    "log_every": "steps between two entries of log.jsonl",
    "loader_processes": "processes that prepare samples, per worker",
}


def add_parser(subparsers: Any) -> None:
    """Registers the command and its recipes."""
    parser = subparsers.add_parser(
        "train",
        help="train FC-CLIP",
        description="Run the same command again to resume; start it with torchrun to train on several GPUs.",
    )
    recipes = parser.add_subparsers(metavar="RECIPE", required=True)
    for dataset, (split, title) in TRAINED_ON.items():
        _add_panoptic_recipe(recipes, dataset, split, title)
    train_world.add_actions(recipes)


def _add_panoptic_recipe(recipes: Any, dataset: str, split: str, title: str) -> None:
    from fcclip_core.model.config import CONVNEXT_LARGE_KMAX
    from fcclip_core.training.config import PRECISIONS, TrainingConfig
    from fcclip_core.training.recipes import recipe_for

    parser = recipes.add_parser(dataset, help=title, description=f"Trains on {title}.")
    parser.add_argument("--data", type=expanded, required=True, metavar="DIR", help="root folder of the dataset")
    parser.add_argument("--out", type=expanded, required=True, metavar="DIR", help="for states, log and checkpoints")
    parser.add_argument("--split", default=split, help=f"part of the dataset (default: {split})")
    parser.add_argument(
        "--vocabulary", metavar="V", help="names of the dataset's classes, in its order (see docs/how-to/training.md)"
    )
    parser.add_argument("--preset", default="convnext_large", help="model to train (default: convnext_large)")
    parser.add_argument(
        "--clip", type=expanded, metavar="FILE", help="CLIP's weights (default: open_clip's cache or download)"
    )
    parser.add_argument(
        "--checkpoint", metavar="C", help="start from these weights instead: a file, a bundled name or recipe:NAME"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    group = parser.add_argument_group(
        "recipe (steps, batch, rate and crop are by default those of the paper on COCO; models with a k-means mask "
        "decoder are trained as kMaX-DeepLab is, without milestones)"
    )
    defaults, kmax = TrainingConfig(), recipe_for(CONVNEXT_LARGE_KMAX)
    for name, text in _SETTING_HELP.items():
        default, other = getattr(defaults, name), getattr(kmax, name)
        shown = str(default) if other == default else f"{default}, or {other} with a k-means mask decoder"
        group.add_argument(
            f"--{name.replace('_', '-')}",
            type=type(default),
            choices=PRECISIONS if name == "precision" else None,
            help=f"{text} (default: {shown})",
        )
    crops = f"{defaults.augmentation.crop}, or {kmax.augmentation.crop} with a k-means mask decoder"
    group.add_argument("--crop", type=int, help=f"side of the training images (default: {crops})")
    group.add_argument(
        "--freeze-statistics",
        type=int,
        metavar="STEP",
        help="step from which batch normalizations keep their running statistics, which only k-means mask decoders and "
        "axial pixel decoders have (default: never)",
    )
    group.add_argument(
        "--milestones", type=int, nargs="*", metavar="STEP", help="steps from which the rate is a tenth of what it was"
    )
    group.add_argument("--train-backbone", action="store_true", help="train CLIP's image tower too (Table 6)")
    parser.set_defaults(run=run, dataset=dataset)


def run(args: argparse.Namespace) -> int:
    """Trains on a panoptic dataset."""
    from fcclip_core import distributed
    from fcclip_core.datasets.catalog import DATASETS, dataset_words
    from fcclip_core.devices import resolve_device
    from fcclip_core.terminal import Terminal
    from fcclip_core.training.trainer import Trainer

    entry = DATASETS[args.dataset]
    with distributed.workers(resolve_device(args.device)) as device:
        dataset: Any = entry.open(args.data, args.split)
        given = None if args.vocabulary is None else vocabulary_from(args.vocabulary)
        words = dataset_words(entry, dataset.classes, given)
        checkpoint = _starting_point(args, words.vocabulary)
        config = config_from(args, checkpoint.config)
        trainer = Trainer(config, checkpoint, dataset, args.out, device=device)
        console = Terminal(stderr=True, soft_wrap=True, quiet=not distributed.is_first())
        console.print(f"words: {words.how}")
        console.print(
            f"{checkpoint.config.name} on {len(dataset):,} images, {config.batch_size} a step, {device}: "
            + (f"resuming at step {trainer.step:,}" if trainer.step else "a new run")
        )
        finished = trainer.run()
        console.print(f"{finished}: trained for {config.steps:,} steps")
    return 0


def config_from(args: argparse.Namespace, model: ModelConfig | None = None) -> TrainingConfig:
    """The recipe of `model`, or of the preset that the arguments name, with what the arguments change.

    Raises:
        SettingsError: A number is out of range.
        TrainingError: There is no such preset, or milestones are given to a model whose recipe has none.
    """
    from fcclip_core.training.recipes import recipe_for

    paper = recipe_for(model or preset(args.preset))
    given = {name: value for name in _SETTING_HELP if (value := getattr(args, name)) is not None}
    milestones = args.milestones
    if milestones is not None and paper.poly is not None:
        raise TrainingError("--milestones does not fit a k-means mask decoder, whose learning rate falls steadily")
    if milestones is None:  # a shorter training slows down at the same shares of its length
        steps = given.get("steps", paper.steps)
        milestones = [round(step * steps / paper.steps) for step in paper.milestones]
    return replace(
        paper,
        **given,
        milestones=tuple(milestones),
        freeze_statistics=args.freeze_statistics,
        train_backbone=args.train_backbone,
        augmentation=replace(paper.augmentation, crop=paper.augmentation.crop if args.crop is None else args.crop),
    )


def _starting_point(args: argparse.Namespace, vocabulary: Vocabulary) -> Checkpoint:
    from fcclip_core.training.initialization import fresh_weights
    from fcclip_core.weights.checkpoints import Provenance, Source, join_clip, load_checkpoint
    from fcclip_core.weights.clip_weights import load_clip

    if args.checkpoint is not None:
        return load_checkpoint(args.checkpoint, args.clip, train_vocabulary=vocabulary)
    config = preset(args.preset)
    clip = load_clip(config, args.clip)
    source = Source("CLIP weights", clip.path.name, origin=clip.origin, path=clip.path)
    return join_clip(config, fresh_weights(config, args.seed), clip, vocabulary, Provenance((source,)))
