"""`fcclip evaluate`: the paper's measures on a dataset or the simulated world, as tables and JSON."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fcclip_core.commands.evaluate_clip import add_clip_parsers
from fcclip_core.commands.evaluation_data import (
    WORLD,
    about_run,
    add_dataset_arguments,
    add_run_arguments,
    input_size,
    own_size,
    prepared,
    seen_classes,
    share,
    shown_progress,
    title_of,
    trained_vocabulary,
    write_result,
)
from fcclip_core.commands.inference_arguments import settings_from
from fcclip_core.errors import SettingsError
from fcclip_core.settings import ENSEMBLES, InferenceSettings

if TYPE_CHECKING:
    from fcclip_core.datasets.records import Dataset
    from fcclip_core.vocabulary.classes import Vocabulary
    from fcclip_core.weights.model_zoo import PublishedModel

WORLD_TITLE = "the simulated world, rendered on the fly"
SWEEP_GRID = "0,0.2,0.4,0.6,0.8,1"
FPS_RULES = ("segments", "table4")
"""As in `evaluation.timing.TIME_RULES`, which is not loaded for help texts."""


def add_parser(subparsers: Any) -> None:
    """Registers the command, a subcommand a dataset."""
    from fcclip_core.datasets.catalog import DATASETS

    parser = subparsers.add_parser(
        "evaluate",
        help="measure a checkpoint on a dataset or in the simulated world",
        description="PQ, SQ, RQ, AP, mIoU, recall, grounding (Table 7) and images per second, next to the published "
        "numbers where classes and words are the paper's. Start it with torchrun to share the images among processes.",
    )
    targets = parser.add_subparsers(metavar="DATASET", required=True)
    titles = {name: entry.title for name, entry in DATASETS.items()} | {WORLD: WORLD_TITLE}
    for name, title in titles.items():
        target = targets.add_parser(name, help=title, description=f"Evaluates on {title}.")
        add_dataset_arguments(target, name)
        add_run_arguments(target, own_size(name))
        _add_form_arguments(target)
        target.set_defaults(run=run, dataset=name)

    add_clip_parsers(targets, titles)


def run(args: argparse.Namespace) -> int:
    """Evaluates a checkpoint.

    Raises:
        FcclipError: An argument is out of range, the data or the weights cannot be read, or nothing can be written.
    """
    size = input_size(args)
    settings = settings_from(args, size.sides)
    forms = _forms(args, settings)
    with prepared(args) as (dataset, words, device, console):
        vocabulary, trained_on = words.vocabulary, trained_vocabulary(args)
        from fcclip_core.distributed import is_first
        from fcclip_core.evaluation.runner import evaluate
        from fcclip_core.evaluation.timing import TIME_RULES
        from fcclip_core.segmenter import Segmenter

        segmenter = Segmenter.from_checkpoint(
            args.checkpoint,
            train_vocabulary=trained_on,
            device=str(device),
            backend=args.backend,
            precision=args.precision,
            vanished_masks=args.vanished_masks,
            settings=settings,
        )
        with console.status("encoding the vocabulary"):
            snapshot = segmenter.set_vocabulary(vocabulary)
        used = segmenter.settings
        console.print(seen_classes(snapshot.seen, segmenter.train_vocabulary))
        console.print(f"input size: {_sides(used)} ({size.whose})")
        with shown_progress(console, "images", share(dataset, args.limit)) as advance:
            evaluation = evaluate(
                dataset,
                segmenter,
                snapshot,
                vocabulary.things,
                forms=forms,
                rule=TIME_RULES[args.fps],
                limit=args.limit,
                advance=advance,
            )
        if not is_first() or evaluation is None:
            return 0

        from fcclip_core.evaluation.paper import published_model
        from fcclip_core.evaluation.report import class_table, document, forms_table, score_table
        from fcclip_core.terminal import Terminal

        model = published_model(segmenter.config.name, segmenter.provenance)
        paper, left_out = _paper(args, model, dataset, vocabulary, segmenter.train_vocabulary)
        about = about_run(args, words, segmenter.train_vocabulary, snapshot.seen)
        about |= {"input_size": size.whose, "vanished_masks": segmenter.vanished_masks}
        about |= {"device": segmenter.backend_description, "paper_model": model.name, "paper_left_out": left_out}
        result = document(evaluation, vocabulary.names, about, used, paper)
        # Written before anything is printed: a reader that leaves (`| head`) must not cost hours of work.
        written = write_result(args.json, result)
        out = Terminal()
        if segmenter.provenance.seeded:
            out.print("seeded weights: the numbers mean nothing")
        title = f"{title_of(args, evaluation.images)}, {_sides(used)}"
        out.print(score_table(evaluation.scores(), paper, model.name, title))
        if left_out:
            out.print(f"no published numbers beside these: {left_out}")
        if result["forms"]:
            out.print(forms_table({"as above": evaluation.scores()} | result["forms"], "other settings, same masks"))
        if args.per_class:
            out.print(class_table(result["details"]["per_class"]))
        if written:
            out.print(written)
    return 0


def _add_form_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--fps",
        choices=FPS_RULES,
        default=FPS_RULES[0],
        help="what counts as an image's time: from pixels to segments (segments, the default), or as in the paper's "
        "Table 4, from the resized image to segments, semantic map and instances (table4)",
    )
    parser.add_argument("--per-class", action="store_true", help="print a table of all classes")
    parser.add_argument(
        "--ensembles", action="store_true", help="compare the ways to join the two classifiers (Table 8)"
    )
    parser.add_argument(
        "--sweep-alpha-beta",
        nargs="?",
        const=SWEEP_GRID,
        metavar="VALUES",
        help=f"every pair of these values for alpha and beta (default: {SWEEP_GRID})",
    )


def _forms(args: argparse.Namespace, settings: InferenceSettings) -> dict[str, InferenceSettings]:
    """Further settings to compare, by name."""
    forms = {}
    if args.ensembles:
        forms = {name: replace(settings, ensemble=name) for name in ENSEMBLES}
    if args.sweep_alpha_beta:
        values = _numbers("--sweep-alpha-beta", args.sweep_alpha_beta)
        forms |= {
            f"alpha {alpha:g}, beta {beta:g}": replace(settings, alpha=alpha, beta=beta)
            for alpha in values
            for beta in values
        }
    return forms


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise SettingsError(
            f"{option} is {text!r}; expected numbers with commas between them, such as 0,0.5,1"
        ) from error


def _sides(settings: InferenceSettings) -> str:
    return f"shorter side {settings.shorter_side}, longer at most {settings.max_size}"


def _paper(
    args: argparse.Namespace, model: PublishedModel, dataset: Dataset, words: Vocabulary, trained_on: Vocabulary
) -> tuple[dict[str, float], str]:
    """The published results to stand beside ours; or none, and why none where the paper has some."""
    from fcclip_core.datasets.catalog import DATASETS
    from fcclip_core.evaluation.paper import Evaluated, difference, paper_scores
    from fcclip_core.evaluation.timing import TIME_RULES

    if args.dataset == WORLD or not DATASETS[args.dataset].paper:
        return {}, ""
    entry = DATASETS[args.dataset]
    is_complete = args.limit is None or args.limit >= len(dataset)
    left_out = difference(Evaluated(entry, dataset.classes, args.split, is_complete, words, trained_on))
    return ({} if left_out else paper_scores(model, entry, TIME_RULES[args.fps])), left_out
