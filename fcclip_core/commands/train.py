"""`fcclip train`: trains FC-CLIP. Every recipe resumes when the same command is run again.

Each recipe is a subcommand; recipes of other modules are added in `add_parser`.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fcclip_core.commands import train_selection, train_towers, train_world
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
    "mapillary_vistas": ("training", "Mapillary Vistas panoptic"),
    "ade20k_150": ("training", "ADE20K semantic, 150 classes"),
    "ade20k_847": ("training", "ADE20K semantic, 847 classes"),
    "cityscapes_semantic": ("train", "Cityscapes semantic"),
    "mapillary_vistas_semantic": ("training", "Mapillary Vistas semantic"),
    "pascal_context_59": ("training", "PASCAL Context, 59 classes"),
    "pascal_context_459": ("training", "PASCAL Context, 459 classes"),
    "pascal_voc_20": ("train", "PASCAL VOC, 20 classes"),
    "pascal_voc_21": ("train", "PASCAL VOC, 20 classes and background"),
}
"""Datasets to train on: the split that is for it, and what it is. Semantic ones have a target for each class region."""
ADE20K_SCHEDULE = {"steps": 160_000, "crop": 640}
"""Our schedule for ADE20K (Table 5): the paper says that it trains on it, not how long."""
SCHEDULES: dict[str, dict[str, int]] = {"ade20k": ADE20K_SCHEDULE, "ade20k_150": ADE20K_SCHEDULE}
"""What differs from COCO's by default, by dataset."""

_SETTING_HELP = {
    "steps": "optimizer steps, may be raised on resume; milestones that were not given move along",
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
        _add_recipe(recipes, dataset, split, title)
    train_world.add_actions(recipes)


def _add_recipe(recipes: Any, dataset: str, split: str, title: str) -> None:
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
        "recipe (by default that of the paper on COCO, but for what is called ours; models with a k-means mask decoder "
        "are trained as kMaX-DeepLab is, without milestones)"
    )
    defaults, kmax, own = TrainingConfig(), recipe_for(CONVNEXT_LARGE_KMAX), SCHEDULES.get(dataset, {})
    for name, text in _SETTING_HELP.items():
        default = getattr(defaults, name)
        group.add_argument(
            f"--{name.replace('_', '-')}",
            type=type(default),
            choices=PRECISIONS if name == "precision" else None,
            help=f"{text} (default: {_shown(name, default, getattr(kmax, name), own)})",
        )
    crops = _shown("crop", defaults.augmentation.crop, kmax.augmentation.crop, own)
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
    train_towers.add_argument(group)
    train_selection.add_arguments(parser, dataset)
    parser.set_defaults(run=run, dataset=dataset)


def _shown(name: str, default: Any, kmax: Any, own: dict[str, int]) -> str:
    """A setting's default for the help: the paper's, or ours on this dataset; and that of k-means mask decoders."""
    if name in own:
        return f"{own[name]}, ours"
    return str(default) if kmax == default else f"{default}, or {kmax} with a k-means mask decoder"


def run(args: argparse.Namespace) -> int:
    """Trains on a dataset, and selects among the exported checkpoints if that is wanted."""
    from fcclip_core import distributed
    from fcclip_core.datasets.catalog import DATASETS, dataset_words
    from fcclip_core.devices import resolve_device
    from fcclip_core.terminal import Terminal
    from fcclip_core.training.trainer import Trainer

    entry, plan = DATASETS[args.dataset], train_selection.plan_from(args)
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
        if trainer.changes:
            console.print(trainer.changes)
        finished = trainer.run()
        console.print(f"{finished}: trained for {config.steps:,} steps")
        if plan is not None:
            plan.run(args.out, device)
    return 0


def config_from(args: argparse.Namespace, model: ModelConfig | None = None) -> TrainingConfig:
    """The recipe of `model`, or of the preset that the arguments name, with what the arguments change.

    Raises:
        SettingsError: A number is out of range.
        TrainingError: There is no such preset, or milestones are given to a model whose recipe has none.
    """
    from fcclip_core.training.recipes import recipe_for

    paper = recipe_for(model or preset(args.preset))
    own = SCHEDULES.get(args.dataset, {})
    given = {name: getattr(args, name, None) for name in (*_SETTING_HELP, "crop")}
    chosen = {**own, **{name: value for name, value in given.items() if value is not None}}
    crop = chosen.pop("crop", paper.augmentation.crop)
    if args.milestones is not None:
        if paper.poly is not None:
            raise TrainingError("--milestones does not fit a k-means mask decoder, whose learning rate falls steadily")
        chosen["milestones"] = tuple(args.milestones)
    return replace(
        paper,
        **chosen,
        freeze_statistics=args.freeze_statistics,
        train_backbone=train_towers.trains_clip(args),
        augmentation=replace(paper.augmentation, crop=crop),
    )


def _starting_point(args: argparse.Namespace, vocabulary: Vocabulary) -> Checkpoint:
    from fcclip_core.training.initialization import fresh_weights
    from fcclip_core.weights.checkpoints import Provenance, Source, join_clip, load_checkpoint
    from fcclip_core.weights.clip_weights import load_clip

    if args.checkpoint is not None:
        return train_towers.with_towers(args, load_checkpoint(args.checkpoint, args.clip, train_vocabulary=vocabulary))
    config = preset(args.preset)
    clip = load_clip(config, args.clip)
    source = Source("CLIP weights", clip.path.name, origin=clip.origin, path=clip.path)
    seed = config_from(args, config).seed
    start = join_clip(config, fresh_weights(config, seed), clip, vocabulary, Provenance((source,)))
    return train_towers.with_towers(args, start)
