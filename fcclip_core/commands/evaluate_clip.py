"""`fcclip evaluate clip-masks` and `imagenet`: CLIPs by themselves over input sizes (Tables 9 and 10 of the paper)."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from fcclip_core.commands.evaluation_data import (
    WORLD,
    about_run,
    add_dataset_arguments,
    add_run_arguments,
    check_run,
    input_size,
    input_sizes,
    joined,
    prepared,
    seen_classes,
    share,
    shown_progress,
    title_of,
    trained_vocabulary,
    write_result,
)
from fcclip_core.commands.inference_arguments import add_text_tower_arguments, settings_from
from fcclip_core.commands.progress_bar import progress_bar, reporter
from fcclip_core.commands.vit_arguments import add_vit_arguments, clips_from
from fcclip_core.errors import SettingsError
from fcclip_core.files.paths import expanded

if TYPE_CHECKING:
    from fcclip_core.datasets.records import Dataset
    from fcclip_core.evaluation.clips import Clip
    from fcclip_core.evaluation.scoreboard import Scores
    from fcclip_core.segmenter import Segmenter
    from fcclip_core.terminal import Terminal
    from fcclip_core.vocabulary.classes import Vocabulary
    from fcclip_core.vocabulary.snapshot import VocabularySnapshot

MASKS_SIZES = "224,448,672,896,1120"
IMAGENET_SIZES = "224,336,448,560,672,784,896"
TRUTH, PROPOSALS = MASKS = ("truth", "proposals")
RESIZES = ("square", "crop")
"""As in `evaluation.zero_shot.RESIZES`, which is not loaded for help texts."""
PROPOSAL_MEASURES = {"PQ": "pq.all", "mIoU": "miou.all"}
IMAGE_MEASURES = {"top-1": "top1", "top-5": "top5"}


def add_clip_parsers(targets: Any, titles: Mapping[str, str]) -> None:
    """Registers both.

    Args:
        targets: The subcommands of `fcclip evaluate`.
        titles: Name of each dataset -> its title.
    """
    from fcclip_core.datasets.catalog import DATASETS

    clip_masks = targets.add_parser(
        "clip-masks",
        help="how well CLIP alone names masks, over input sizes (Table 9)",
        description="CLIP alone names masks by its features inside them, at several input sizes: the masks of the "
        "truth, or those of the checkpoint's mask generator. With --vit a CLIP with a ViT names the same masks. The "
        "paper's Table 9 takes the masks of ODISE.",
    )
    sources = clip_masks.add_subparsers(metavar="DATASET", required=True)
    for name, title in titles.items():
        if name == WORLD or DATASETS[name].is_panoptic:
            source = sources.add_parser(name, help=title, description=f"CLIP alone names the masks of {title}.")
            add_dataset_arguments(source, name)
            add_run_arguments(source)
            source.add_argument(
                "--masks",
                choices=MASKS,
                default=TRUTH,
                help="whose masks are named: the truth's (the default), or the mask generator's, at its own input size",
            )
            source.add_argument(
                "--sizes",
                default=MASKS_SIZES,
                help=f"pixels of the shorter image side that CLIP sees (default: {MASKS_SIZES})",
            )
            add_vit_arguments(source)
            source.set_defaults(run=run_clip_masks, dataset=name)

    imagenet = targets.add_parser(
        "imagenet",
        help="how well CLIP alone names whole images, over input sizes (Table 10)",
        description="Zero-shot classification of ImageNet-1k's validation set, or another folder with one folder for "
        "each class (WordNet id or open_clip's name), with OpenAI's 80 prompts and open_clip's class names.",
    )
    imagenet.add_argument("--data", type=expanded, required=True, metavar="DIR", help="the folder that holds SPLIT")
    imagenet.add_argument("--split", default="val", help="folder of the folders of classes below DIR (default: val)")
    add_text_tower_arguments(imagenet)
    add_vit_arguments(imagenet)
    imagenet.add_argument(
        "--sizes", default=IMAGENET_SIZES, help=f"sides of the square that CLIP sees (default: {IMAGENET_SIZES})"
    )
    imagenet.add_argument(
        "--resize",
        choices=RESIZES,
        default=RESIZES[0],
        help="how an image becomes a square: resized without regard to its aspect (square, the default), or its "
        "shorter side resized and the middle cut out (crop); the paper does not say",
    )
    imagenet.add_argument("--batch", type=int, default=32, metavar="N", help="images at once (default: 32)")
    imagenet.add_argument("--limit", type=int, metavar="N", help="only N images, spread evenly over the classes")
    imagenet.add_argument("--json", type=expanded, metavar="FILE", help="write every number to this file")
    imagenet.set_defaults(run=run_imagenet, dataset="imagenet")


def run_clip_masks(args: argparse.Namespace) -> int:
    """Measures CLIPs as mask classifiers.

    Raises:
        FcclipError: An argument is out of range, the data or the weights cannot be read, or nothing can be written.
    """
    sizes = input_sizes(args.sizes)
    with prepared(args) as (dataset, words, device, console):
        from fcclip_core.distributed import is_first
        from fcclip_core.evaluation.paper_clips import table_9
        from fcclip_core.evaluation.report import by_size_table, sizes_table
        from fcclip_core.segmenter import Segmenter
        from fcclip_core.terminal import Terminal
        from fcclip_core.weights.checkpoints import load_checkpoint

        checkpoint = load_checkpoint(args.checkpoint, train_vocabulary=trained_vocabulary(args))
        segmenter = Segmenter(
            checkpoint,
            device=str(device),
            backend=args.backend,
            precision=args.precision,
            vanished_masks=args.vanished_masks,
            settings=settings_from(args, input_size(args).sides),
        )
        with console.status("encoding the vocabulary"):
            snapshot = segmenter.set_vocabulary(words.vocabulary)
            clips = clips_from(args, checkpoint, device)
            snapshots = {clips[0].name: snapshot} | {clip.name: clip.words_for(snapshot) for clip in clips[1:]}
        console.print(seen_classes(snapshot.seen, checkpoint.train_vocabulary))
        named = _named_masks(args, dataset, segmenter, snapshots, clips, sizes, console)
        if not is_first():
            return 0

        images = len(dataset) if args.limit is None else min(args.limit, len(dataset))
        left_out = _left_out(args, dataset, words.vocabulary, checkpoint.train_vocabulary)
        is_table_9 = args.masks == PROPOSALS and not left_out
        paper = {clip.name: table_9(clip, args.dataset) if is_table_9 else {} for clip in clips}
        about = about_run(args, words, checkpoint.train_vocabulary, snapshot.seen)
        about |= {"images": images, "masks": args.masks, "vit": args.vit, "units": "per cent"}
        scores = {name: {str(size): row for size, row in by.items()} for name, by in named.items()}
        result = about | {"sizes": scores[clips[0].name], "clips": scores, "paper_pq": paper}
        written = write_result(args.json, result)
        out = Terminal()
        _say_seeded(out, clips)
        if args.masks == TRUTH:
            out.print(sizes_table(scores, title_of(args, images)))
        else:
            rows: dict[str, dict[int, float | None]] = {}
            for name, by_size in named.items():
                rows |= {f"{name} {label}": _column(by_size, key) for label, key in PROPOSAL_MEASURES.items()}
                rows |= {f"{name} PQ, paper (masks of ODISE)": dict(paper[name])} if paper.get(name) else {}
            out.print(f"{title_of(args, images)}: the same masks, named by CLIP alone; per cent, by shorter image side")
            out.print(by_size_table(rows, sizes))
            if left_out:
                out.print(f"no published numbers beside these: {left_out}")
        if written:
            out.print(written)
    return 0


def run_imagenet(args: argparse.Namespace) -> int:
    """Measures CLIPs as classifiers of whole images.

    Raises:
        FcclipError: As `run_clip_masks`.
    """
    sizes = input_sizes(args.sizes)
    check_run(args)
    if args.batch < 1:
        raise SettingsError(f"--batch is {args.batch}; expected 1 or more")
    with joined(args) as (device, console):
        from fcclip_core.datasets.class_folders import imagenet
        from fcclip_core.distributed import is_first, rank, world_size
        from fcclip_core.evaluation.paper_clips import table_10
        from fcclip_core.evaluation.report import by_size_table
        from fcclip_core.evaluation.zero_shot import chosen, classify_images, imagenet_templates
        from fcclip_core.terminal import Terminal
        from fcclip_core.weights.checkpoints import load_checkpoint

        folders = imagenet(args.data, args.split)
        clips = clips_from(args, load_checkpoint(args.checkpoint), device)
        with progress_bar(console) as bar:
            report = reporter(bar)
            classifiers = [
                clip.rows(folders.class_names, imagenet_templates(), partial(report, f"words of {clip.name}"))
                for clip in clips
            ]
        own_share = len(chosen(len(folders), args.limit)[rank() :: world_size()])
        with shown_progress(console, "images", own_share) as advance:
            found = classify_images(
                folders,
                clips,
                classifiers,
                sizes,
                resize=args.resize,
                batch=args.batch,
                limit=args.limit,
                advance=advance,
            )
        if not is_first() or found is None:
            return 0
        named = {name: {size: hits.scores() for size, hits in by.items()} for name, by in found.hits.items()}
        images = found.images
        classes = len(set(folders.labels))
        is_whole = args.limit is None and classes == len(folders.class_names)
        paper = {clip.name: table_10(clip) if is_whole else {} for clip in clips}
        unreadable = {str(path.relative_to(folders.root)): why for path, why in sorted(found.unreadable)}
        result = {
            "dataset": args.dataset,
            "data": str(args.data),
            "split": args.split,
            "checkpoint": args.checkpoint,
            "vit": args.vit,
            "resize": args.resize,
            "classes": len(folders.class_names),
            "classes_with_images": classes,
            "images": images,
            "unreadable": unreadable,
            "units": "per cent",
            "clips": {name: {str(size): row for size, row in by.items()} for name, by in named.items()},
            "paper_top1": paper,
        }
        written = write_result(args.json, result)
        for path, why in unreadable.items():
            console.print(f"left out: {path}: {why}")
        out = Terminal()
        _say_seeded(out, clips)
        shown: dict[str, dict[int, float | None]] = {}
        for name, by_size in named.items():
            shown |= {f"{name} {label}": _column(by_size, key) for label, key in IMAGE_MEASURES.items()}
            shown |= {f"{name} top-1, paper": dict(paper[name])} if paper.get(name) else {}
        what = f"{images:,} images of {classes:,} classes in {folders.root}"
        out.print(f"{what}: zero-shot accuracy in per cent, by input size ({args.resize})")
        out.print(by_size_table(shown, sizes))
        if unreadable:
            out.print(f"{len(unreadable)} images could not be read and count nowhere")
        if written:
            out.print(written)
    return 0


def _named_masks(
    args: argparse.Namespace,
    dataset: Dataset,
    segmenter: Segmenter,
    snapshots: Mapping[str, VocabularySnapshot],
    clips: Sequence[Clip],
    sizes: Sequence[int],
    console: Terminal,
) -> dict[str, dict[int, Scores]]:
    """Name of each CLIP -> input size -> scores over all processes, which the first one needs."""
    from fcclip_core.evaluation.clip_masks import name_masks
    from fcclip_core.evaluation.clip_proposals import name_proposals

    count = share(dataset, args.limit)
    if args.masks == PROPOSALS:
        with shown_progress(console, "images", count) as advance:
            boards = name_proposals(dataset, segmenter, snapshots, clips, sizes, limit=args.limit, advance=advance)
        return {name: {size: board.scores() for size, board in by.items()} for name, by in (boards or {}).items()}
    named = {}
    for clip in clips:
        words = snapshots[clip.name]
        with shown_progress(console, clip.name, count) as advance:
            counted = name_masks(dataset, clip.tower, words, sizes, limit=args.limit, advance=advance)
        named[clip.name] = {size: masks.scores(words.vocabulary.things, words.seen) for size, masks in counted.items()}
    return named


def _left_out(args: argparse.Namespace, dataset: Dataset, words: Vocabulary, trained_on: Vocabulary) -> str:
    """Why Table 9 may not stand beside ours; empty where it may, and where it has nothing."""
    from fcclip_core.datasets.catalog import DATASETS
    from fcclip_core.evaluation.paper import Evaluated, difference
    from fcclip_core.evaluation.paper_clips import TABLE_9

    if args.dataset not in TABLE_9:
        return ""
    is_complete = args.limit is None or args.limit >= len(dataset)
    return difference(Evaluated(DATASETS[args.dataset], dataset.classes, args.split, is_complete, words, trained_on))


def _column(by_size: Mapping[int, Mapping[str, float | None]], key: str) -> dict[int, float | None]:
    return {size: scores[key] for size, scores in by_size.items()}


def _say_seeded(out: Terminal, clips: Sequence[Clip]) -> None:
    seeded = [clip.name for clip in clips if clip.seeded]
    if seeded:
        out.print(f"seeded weights: the numbers of {', '.join(seeded)} mean nothing")
