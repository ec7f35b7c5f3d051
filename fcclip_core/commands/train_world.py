"""`fcclip train world-clip` and `fcclip train world`: the bundled model, from rendered scenes and a seed."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcclip_core.commands import train_towers
from fcclip_core.files.paths import expanded

if TYPE_CHECKING:
    from fcclip_core.datasets.world_shards import WorldShards
    from fcclip_core.vocabulary.classes import Vocabulary

DEMO_FILE = "demo.safetensors"


def add_actions(actions: Any) -> None:
    """Registers both below `fcclip train`."""
    clip = actions.add_parser(
        "world-clip",
        help="train the small CLIP on windows of the simulated world",
        description="Trains both towers of the small CLIP. Run the same command again to resume; under torchrun, "
        "each worker draws its own windows.",
    )
    _add_common(clip, "shards of `fcclip world render --shards --split all`")
    clip.set_defaults(run=run_clip)
    world = actions.add_parser(
        "world",
        help="train the small FC-CLIP on scenes of the simulated world, CLIP frozen",
        description="Trains everything but CLIP, and writes one self-contained checkpoint in half precision. Run the "
        "same command again to resume.",
    )
    _add_common(world, "shards of `fcclip world render --shards --split train`")
    world.add_argument(
        "--clip", required=True, metavar="FILE", type=expanded, help="clip.safetensors of `fcclip train world-clip`"
    )
    world.add_argument(
        "--preset",
        default="convnext_small",
        help="model to train, with the small CLIP's towers (default: convnext_small); loss and schedule follow its "
        "mask decoder",
    )
    world.add_argument(
        "--freeze-statistics", type=int, metavar="STEP", help="see `fcclip train coco`; only k-means decoders have them"
    )
    train_towers.add_argument(world)
    world.set_defaults(run=run_world)


def run_clip(args: argparse.Namespace) -> int:
    """Trains the small CLIP and writes clip.safetensors.

    Raises:
        FcclipError: Shards are missing or damaged, or the output folder holds another run.
    """
    from dataclasses import replace

    from fcclip_core import distributed
    from fcclip_core.devices import resolve_device
    from fcclip_core.simulation.names import world_vocabulary
    from fcclip_core.terminal import Terminal
    from fcclip_core.training.demo_model.clip import CLIP_FILE, ClipRecipe, ClipTraining, export_clip

    vocabulary = world_vocabulary()
    shards = _shards(args.scenes, vocabulary)
    recipe = ClipRecipe(seed=args.seed)
    if args.steps is not None:
        recipe = replace(recipe, steps=args.steps)
    with distributed.workers(resolve_device(args.device)) as device:
        training = ClipTraining(shards, vocabulary.names, vocabulary.things, recipe, args.out, device=device)
        training.run()
        if distributed.is_first():
            export_clip(args.out / CLIP_FILE, training.model)
            Terminal(soft_wrap=True).print(args.out / CLIP_FILE)
    return 0


def run_world(args: argparse.Namespace) -> int:
    """Trains the small FC-CLIP and writes demo.safetensors.

    Raises:
        FcclipError: Shards or CLIP are missing or damaged, or the output folder holds another run.
    """
    from dataclasses import replace

    from fcclip_core import distributed
    from fcclip_core.commands.train_presets import preset
    from fcclip_core.devices import resolve_device
    from fcclip_core.simulation.names import train_vocabulary
    from fcclip_core.terminal import Terminal
    from fcclip_core.training.demo_model.recipe import DEFAULT_STEPS, starting_point, world_config
    from fcclip_core.training.trainer import Trainer
    from fcclip_core.weights.checkpoints import save_checkpoint

    shards = _shards(args.scenes, train_vocabulary())
    steps, model = DEFAULT_STEPS if args.steps is None else args.steps, preset(args.preset)
    config = world_config(steps, args.seed, train_towers.trains_clip(args), model)
    config = replace(config, freeze_statistics=args.freeze_statistics)
    start = train_towers.with_towers(args, starting_point(args.clip, args.seed, model))
    with distributed.workers(resolve_device(args.device)) as device:
        trainer = Trainer(config, start, shards, args.out, device=device)
        if trainer.changes and distributed.is_first():
            Terminal(stderr=True, soft_wrap=True).print(trainer.changes)
        trainer.run()
        if distributed.is_first():
            save_checkpoint(args.out / DEMO_FILE, trainer.checkpoint(), dtype="float16")
            Terminal(soft_wrap=True).print(args.out / DEMO_FILE)
    return 0


def _add_common(parser: argparse.ArgumentParser, scenes: str) -> None:
    parser.add_argument("scenes", metavar="SCENES", type=expanded, help=f"folder with {scenes}")
    parser.add_argument("--out", required=True, metavar="DIR", type=expanded, help="states, log and result")
    parser.add_argument("--steps", type=int, metavar="N", help="optimizer steps in all (default: the recipe's)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="another seed, another run (default: 0)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")


def _shards(folder: Path, vocabulary: Vocabulary) -> WorldShards:
    from rich.progress import Progress

    from fcclip_core.datasets.world_shards import WorldShards
    from fcclip_core.terminal import Terminal

    with Progress(console=Terminal(stderr=True), transient=True) as progress:
        task = progress.add_task("reading scenes", total=None)
        return WorldShards(
            folder, vocabulary, advance=lambda done, total: progress.update(task, completed=done, total=total)
        )
