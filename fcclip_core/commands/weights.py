"""`fcclip weights`: which models are published, installing them, joining files with CLIP, looking into a file."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcclip_core.commands.inference_arguments import vocabulary_from
from fcclip_core.errors import CheckpointError
from fcclip_core.files.paths import expanded, refuse_overwriting
from fcclip_core.quoting import short

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fcclip_core.model.config import ModelConfig
    from fcclip_core.terminal import Terminal
    from fcclip_core.vocabulary.classes import Vocabulary
    from fcclip_core.weights.checkpoints import Checkpoint
    from fcclip_core.weights.model_zoo import PublishedModel
    from fcclip_core.weights.weight_files import WeightFile

DTYPES = ("float32", "float16", "bfloat16")


def add_parser(subparsers: Any) -> None:
    """Registers the command and its three actions."""
    parser = subparsers.add_parser("weights", help="list published models, install or import them, inspect a file")
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    listing = actions.add_parser("list", help="every published model: accuracy, origin, license")
    listing.set_defaults(run=run_list)

    installing = actions.add_parser(
        "install",
        help="download a published model and make it known under its name",
        description="Downloads a published file (an interrupted download continues), checks it key for key, joins it "
        "with CLIP's weights, and puts the result where --checkpoint NAME, checkpoint:=NAME and auto find it. Proxies "
        "are taken from the environment (https_proxy).",
    )
    installing.add_argument("name", metavar="NAME", help="name of a published model: `fcclip weights list`")
    _add_joining(installing)
    installing.add_argument("--sha256", default="", metavar="HEX", help="SHA-256 that the downloaded file must have")
    installing.add_argument("--reinstall", action="store_true", help="download it again although it is installed")
    installing.set_defaults(run=run_install)

    importing = actions.add_parser(
        "import",
        help="join a checkpoint with CLIP's weights into one .safetensors file",
        description="Reads a published FC-CLIP checkpoint (with or without CLIP's weights), a file of this program or "
        "recipe:NAME, checks it key for key, and writes one self-contained file with preset, training vocabulary and "
        "origin inside.",
    )
    importing.add_argument("source", metavar="SRC", help="file, bundled name or recipe:NAME")
    importing.add_argument(
        "-o",
        "--output",
        metavar="OUT.safetensors",
        type=expanded,
        help="default for published models: where auto looks, ~/.local/share/fcclip_ros/models/NAME.safetensors",
    )
    _add_joining(importing)
    importing.add_argument("--preset", help="fail unless SRC fits this preset (default: recognize it)")
    importing.add_argument(
        "--train-vocabulary",
        metavar="V",
        help="the classes that the model was trained on: bundled name, .yaml, or the paper's .txt (default: SRC's "
        "own; for published files coco_panoptic, or coco_stuff for MAFT+'s semantic ones)",
    )
    importing.set_defaults(run=run_import)

    inspecting = actions.add_parser("inspect", help="say what a file of weights holds, and check it")
    inspecting.add_argument("file", metavar="FILE", type=expanded)
    inspecting.set_defaults(run=run_inspect)


def _add_joining(parser: argparse.ArgumentParser) -> None:
    """The options of joining a published file with CLIP."""
    parser.add_argument(
        "--clip",
        metavar="FILE",
        type=expanded,
        help="CLIP's weights as open_clip saves them, if the file has none (default: open_clip's cache or download)",
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="how to store the weights; computing is in float32 anyway"
    )


def run_list(args: argparse.Namespace) -> int:
    """Prints the published models and what else `--checkpoint` accepts."""
    from rich.box import SIMPLE
    from rich.table import Table

    from fcclip_core.model.config import PRESETS
    from fcclip_core.terminal import Terminal
    from fcclip_core.weights.model_zoo import (
        AUTHORS,
        FC_CLIP,
        FINE_TUNED,
        PUBLISHED_MODELS,
        RECIPE_PREFIX,
        bundled_checkpoints,
    )

    console = Terminal(soft_wrap=True)
    for title, models in (("FC-CLIP", FC_CLIP), ("Fine-tuned CLIP", FINE_TUNED)):
        table = Table(box=SIMPLE, padding=(0, 1, 0, 0), title=f"{title}: published results, per cent", title_style="")
        table.add_column("dataset", no_wrap=True)
        for model in models:
            table.add_column(model.key, justify="right", no_wrap=True)
        for row in _score_rows(models):
            table.add_row(*row)
        console.print(table)
    for model in PUBLISHED_MODELS:
        console.print(
            f"\n{model.key}: {model.name}"
            f"\n  file     {model.file_name or '(named by the download)'} from {model.url}"
            f"\n  license  {model.license}"
            f"\n  CLIP     {model.clip}, {model.clip_license}" + (f"\n  note     {model.note}" if model.note else "")
        )
    console.print(f"\nNumbers, files and license: {AUTHORS}. Then: fcclip weights install NAME")
    console.print(f"Bundled: {', '.join(bundled_checkpoints()) or 'none'}")
    console.print(
        f"Seeded (any size, no download, labels mean nothing): {', '.join(RECIPE_PREFIX + n for n in PRESETS)}"
    )
    return 0


def run_install(args: argparse.Namespace) -> int:
    """Downloads, checks, joins and writes."""
    from fcclip_core.commands.progress_bar import progress_bar, reporter
    from fcclip_core.terminal import Terminal
    from fcclip_core.weights.install import install, place_for, require_model

    console = Terminal(stderr=True, soft_wrap=True)
    model = require_model(args.name)
    if re.fullmatch("([0-9a-fA-F]{64})?", args.sha256) is None:
        raise CheckpointError(f"--sha256 is {short(args.sha256)}; expected 64 hexadecimal digits, as sha256sum prints")
    place = place_for(model.key)
    if place.exists() and not args.reinstall:
        console.print(f"{model.key} is installed: {place}; --reinstall replaces it")
        return 0
    console.print(f"{model.key}: {model.name}\n  from     {model.url}\n  license  {model.license}")
    if model.note:
        console.print(f"  note     {model.note}")
    with progress_bar(console) as bar:
        place, checkpoint = install(model, clip=args.clip, sha256=args.sha256, dtype=args.dtype, progress=reporter(bar))
    _print_written(console, place, checkpoint)
    console.print(f"{model.key} is installed: --checkpoint {model.key}, checkpoint:={model.key}; auto finds it too")
    return 0


def run_import(args: argparse.Namespace) -> int:
    """Joins, checks and writes."""
    from fcclip_core.commands.progress_bar import progress_bar, reporter
    from fcclip_core.terminal import Terminal
    from fcclip_core.weights.checkpoints import load_checkpoint, save_checkpoint
    from fcclip_core.weights.install import place_for
    from fcclip_core.weights.model_zoo import remember_import

    console = Terminal(stderr=True, soft_wrap=True)
    if args.output is not None and args.output.suffix != ".safetensors":
        raise CheckpointError(f"{args.output} must end in .safetensors: that is what is written")
    if args.output is not None and not args.output.parent.is_dir():
        raise CheckpointError(f"{args.output.parent} is not a folder; make it first, or choose another output")
    if args.output is not None:
        refuse_overwriting("--output", [args.output], [expanded(args.source), *filter(None, [args.clip])])
    with progress_bar(console) as bar:
        checkpoint = load_checkpoint(
            args.source,
            args.clip,
            preset=args.preset,
            train_vocabulary=_vocabulary(args.train_vocabulary),
            progress=reporter(bar),
        )
        model = _published_model(checkpoint)
        if args.output is not None:
            output = args.output
        elif model is not None:
            output = place_for(model.key)
        else:
            raise CheckpointError(f"{args.source} is not a published model, so name the file: -o OUT.safetensors")
        save_checkpoint(output, checkpoint, dtype=args.dtype, progress=reporter(bar))
    _print_written(console, output, checkpoint)
    if model is not None:
        if why := remember_import(output, model.key):
            console.print(f"checkpoint auto will not find it: {why}")
        else:
            console.print(f"checkpoint auto, the default everywhere, finds it now; its own name is {model.key}")
    return 0


def _print_written(console: Terminal, path: Path, checkpoint: Checkpoint) -> None:
    size = path.stat().st_size
    console.print(f"{path}: {checkpoint.config.name}, {size / 1e6:,.0f} MB, {checkpoint.provenance.describe()}")


def _published_model(checkpoint: Checkpoint) -> PublishedModel | None:
    """Which published model a checkpoint is by all signs, and not made or trained here; None if none."""
    from fcclip_core.weights.model_zoo import published_from

    about = checkpoint.provenance
    if about.seeded or about.note:
        return None
    return published_from((source.origin for source in about.sources), checkpoint.config.name)


def run_inspect(args: argparse.Namespace) -> int:
    """Prints what a file holds; a file that does not pass the checks is an error."""
    from rich.table import Table

    from fcclip_core.terminal import Terminal
    from fcclip_core.weights.checkpoints import METADATA_KEY, check_published, holds_clip, load_checkpoint
    from fcclip_core.weights.weight_files import read_weight_file

    console = Terminal(soft_wrap=True)
    file = read_weight_file(args.file)
    ours = METADATA_KEY in file.metadata
    checkpoint: Checkpoint | None = None
    if ours or holds_clip(file):
        checkpoint = load_checkpoint(args.file)
        checkpoint.text_tower()
        config = checkpoint.config
    else:
        config = check_published(file, _default_vocabulary())
    console.print(f"{args.file}: FC-CLIP on {config.name}, {args.file.stat().st_size / 1e6:,.1f} MB")
    table = Table("part", "parameters", "stored as")
    table.columns[1].justify = "right"
    for row in _part_rows(file):
        table.add_row(*row)
    console.print(table)
    for line in _description(file, config, checkpoint, ours):
        console.print(line)
    return 0


def _score_rows(models: Sequence[PublishedModel]) -> Iterable[tuple[str, ...]]:
    """One row per dataset and measure that any of the models reports, one column per model."""
    datasets = {
        "ADE20K": "ade20k",
        "Cityscapes": "cityscapes",
        "Mapillary": "mapillary",
        "ADE20K-847": "ade20k_full",
        "Context-59": "pascal_context_59",
        "Context-459": "pascal_context_459",
        "VOC-21": "pascal_voc_21",
        "VOC-20": "pascal_voc_20",
        "COCO, seen": "coco",
    }
    for dataset, attribute in datasets.items():
        for measure, label in (("pq", "PQ"), ("ap", "AP"), ("miou", "mIoU")):
            values = [getattr(getattr(model, attribute), measure) for model in models]
            if any(value is not None for value in values):
                yield f"{dataset} {label}", *("-" if value is None else f"{value:.1f}" for value in values)


def _part_rows(file: WeightFile) -> Iterable[tuple[str, str, str]]:
    """Parameters of each part and of all, without running statistics and the training loss's buffer."""
    from fcclip_core.weights.published_layout import PARTS, is_parameter, part_of

    counts, types = Counter[str](), dict[str, set[str]]()
    for key, tensor in file.tensors.items():
        part = part_of(key)
        if part and is_parameter(key):
            counts[part] += tensor.numel()
            types.setdefault(part, set()).add(str(tensor.dtype).removeprefix("torch."))
    for part in PARTS:
        yield part, f"{counts[part]:,}" if part in counts else "not in the file", ", ".join(sorted(types.get(part, ())))
    yield "all", f"{counts.total():,}", ""


def _description(file: WeightFile, config: ModelConfig, checkpoint: Checkpoint | None, ours: bool) -> Iterable[str]:
    checked = "every key, shape and type is as expected"
    if checkpoint is None:
        yield f"checks: {checked}"
        yield (
            f"CLIP: not in the file; `fcclip weights import {file.path}` joins it with open_clip's "
            f"{config.open_clip_name} {config.open_clip_tag}"
        )
        return
    vocabulary = checkpoint.train_vocabulary
    stored = "stored" if ours else "not stored; that of the published models"
    yield f"checks: {checked}, every value is a finite number"
    yield f"training vocabulary ({stored}): {len(vocabulary)} classes, {', '.join(vocabulary.names[:5])}, ..."
    yield f"text tower id: {checkpoint.text_tower_id}"
    yield f"origin: {checkpoint.provenance.describe()}"
    for source in checkpoint.provenance.sources if ours else ():
        yield f"  {source.role}: {source.name} {source.origin} sha256 {source.sha256 or 'unknown'}"


def _vocabulary(text: str | None) -> Vocabulary | None:
    return None if text is None else vocabulary_from(text)


def _default_vocabulary() -> Vocabulary:
    from fcclip_core.vocabulary.classes import Vocabulary
    from fcclip_core.weights.model_zoo import TRAINED_ON

    return Vocabulary.load(TRAINED_ON)
