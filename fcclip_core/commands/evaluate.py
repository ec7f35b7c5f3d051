"""`fcclip evaluate`: the paper's measures on a dataset or the simulated world, as tables and JSON."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcclip_core.commands.inference_arguments import add_model_arguments, settings_from, vocabulary_from
from fcclip_core.commands.progress_bar import progress_bar
from fcclip_core.errors import FcclipError, SettingsError
from fcclip_core.files.atomic_write import require_writable
from fcclip_core.files.json_files import write_json
from fcclip_core.files.paths import expanded, refuse_overwriting
from fcclip_core.settings import ENSEMBLES, InferenceSettings

if TYPE_CHECKING:
    import torch

    from fcclip_core.datasets.catalog import DatasetWords
    from fcclip_core.datasets.records import Dataset
    from fcclip_core.terminal import Terminal
    from fcclip_core.vocabulary.classes import Vocabulary
    from fcclip_core.weights.model_zoo import PublishedModel

WORLD = "world"
WORLD_TITLE = "the simulated world, rendered on the fly"
WORLD_SIZE = (320, 240)
SWEEP_GRID = "0,0.2,0.4,0.6,0.8,1"
FPS_RULES = ("segments", "table4")
"""As in `evaluation.timing.TIME_RULES`, which is not loaded for help texts."""
CLIP_SIZES = "224,448,672,896,1120"


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
        _add_dataset_arguments(target, name)
        _add_run_arguments(target, _own_size(name))
        _add_form_arguments(target)
        target.set_defaults(run=run, dataset=name)

    clip_masks = targets.add_parser(
        "clip-masks",
        help="how well CLIP alone names the truth's masks, over input sizes",
        description="Pools CLIP's features over the masks of the truth and names them, at several input sizes. The "
        "paper's Table 9 does so with the mask proposals of another model.",
    )
    sources = clip_masks.add_subparsers(metavar="DATASET", required=True)
    for name, title in titles.items():
        if name == WORLD or DATASETS[name].is_panoptic:
            source = sources.add_parser(name, help=title, description=f"CLIP alone names the masks of {title}.")
            _add_dataset_arguments(source, name)
            _add_run_arguments(source)
            source.add_argument(
                "--sizes", default=CLIP_SIZES, help=f"pixels of the shorter image side (default: {CLIP_SIZES})"
            )
            source.set_defaults(run=run_clip_masks, dataset=name)


def run(args: argparse.Namespace) -> int:
    """Evaluates a checkpoint.

    Raises:
        FcclipError: An argument is out of range, the data or the weights cannot be read, or nothing can be written.
    """
    size = input_size(args)
    settings = settings_from(args, size.sides)
    forms = _forms(args, settings)
    with _prepared(args) as (dataset, words, device, console):
        vocabulary, trained_on = words.vocabulary, _trained_on(args)
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
        console.print(_seen(snapshot.seen, segmenter.train_vocabulary))
        console.print(f"input size: {_sides(used)} ({size.whose})")
        with _progress(console, "images", _share(dataset, args.limit)) as advance:
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
        about = _about(args, words, segmenter.train_vocabulary, snapshot.seen)
        about |= {"input_size": size.whose, "vanished_masks": segmenter.vanished_masks}
        about |= {"device": segmenter.backend_description, "paper_model": model.name, "paper_left_out": left_out}
        result = document(evaluation, vocabulary.names, about, used, paper)
        # Written before anything is printed: a reader that leaves (`| head`) must not cost hours of work.
        written = _write(args.json, result)
        out = Terminal()
        if segmenter.provenance.seeded:
            out.print("seeded weights: the numbers mean nothing")
        title = f"{_title(args, evaluation.images)}, {_sides(used)}"
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


def run_clip_masks(args: argparse.Namespace) -> int:
    """Measures CLIP as a mask classifier.

    Raises:
        FcclipError: See `run`.
    """
    sizes = _whole_numbers("--sizes", args.sizes)
    with _prepared(args) as (dataset, words, device, console):
        vocabulary = words.vocabulary
        from fcclip_core.distributed import is_first
        from fcclip_core.evaluation.clip_masks import name_masks
        from fcclip_core.segmenter import Segmenter
        from fcclip_core.weights.checkpoints import load_checkpoint, load_model

        checkpoint = load_checkpoint(args.checkpoint, train_vocabulary=_trained_on(args))
        snapshot = Segmenter(checkpoint, device=str(device)).set_vocabulary(vocabulary)
        console.print(_seen(snapshot.seen, checkpoint.train_vocabulary))
        tower = load_model(checkpoint).backbone.to(device)
        with _progress(console, "images", _share(dataset, args.limit)) as advance:
            named = name_masks(dataset, tower, snapshot, sizes, limit=args.limit, advance=advance)
        if not is_first():
            return 0

        from fcclip_core.evaluation.report import sizes_table
        from fcclip_core.terminal import Terminal

        scores = {str(size): masks.scores(vocabulary.things, snapshot.seen) for size, masks in named.items()}
        images = len(dataset) if args.limit is None else min(args.limit, len(dataset))
        about = _about(args, words, checkpoint.train_vocabulary, snapshot.seen)
        result = about | {"images": images, "units": "per cent", "sizes": scores}
        written = _write(args.json, result)
        out = Terminal()
        out.print(sizes_table(scores, _title(args, images)))
        if written:
            out.print(written)
    return 0


def _add_dataset_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    if name == WORLD:
        parser.add_argument("--scenes", type=int, default=300, metavar="N", help="scenes to render (default: 300)")
        parser.add_argument("--seed", type=int, default=0, metavar="S", help="another seed, other scenes (default: 0)")
        parser.add_argument("--views", type=int, default=1, metavar="K", help="pictures of each scene (default: 1)")
    else:
        from fcclip_core.datasets.catalog import DATASETS

        split = DATASETS[name].split
        parser.add_argument("--data", type=expanded, required=True, metavar="DIR", help="the dataset's root folder")
        parser.add_argument(
            "--split", default=split, help=f"part of the dataset (default: {split or 'the folder itself'})"
        )
    parser.add_argument(
        "--vocabulary",
        metavar="V",
        help="words for the dataset's classes, in its order: a bundled name, .yaml, or the paper's .txt",
    )
    parser.add_argument(
        "--train-vocabulary",
        metavar="V",
        help="the classes that the model was trained on, which count as seen: a bundled name, .yaml, or the paper's "
        ".txt (default: the checkpoint's own)",
    )


def _add_run_arguments(parser: argparse.ArgumentParser, size: tuple[int, int] | None = None) -> None:
    # Figures are to be of the weights, whatever backends a machine has.
    # Truth has the size of the images.
    add_model_arguments(parser, backend="eager", size=size, without=("output_stride",))
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images")
    parser.add_argument("--json", type=expanded, metavar="FILE", help="write every number to this file")


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


@contextmanager
def _prepared(args: argparse.Namespace) -> Iterator[tuple[Dataset, DatasetWords, torch.device, Terminal]]:
    """Opens the dataset and joins the other processes, for the length of the block."""
    if args.limit is not None and args.limit < 1:
        raise SettingsError(f"--limit is {args.limit}; expected 1 or more")
    if args.json is not None and not args.json.absolute().parent.is_dir():
        raise FcclipError(f"--json {args.json}: there is no such folder; make it first")
    if args.json is not None:
        _keep_inputs(args)
        try:
            require_writable(args.json)
        except OSError as error:
            raise _not_written(args.json, error) from error

    require_metrics()
    from fcclip_core.devices import resolve_device
    from fcclip_core.distributed import is_first, workers
    from fcclip_core.terminal import Terminal

    dataset, words = _open(args)
    with workers(resolve_device(args.device)) as device:
        console = Terminal(stderr=True, quiet=not is_first())
        console.print(f"words: {words.how}")
        yield dataset, words, device, console


def require_metrics() -> None:
    """Checks for the packages that measure.

    Raises:
        FcclipError: One is not installed.
    """
    missing = [name for name in ("torchmetrics", "pycocotools") if find_spec(name) is None]
    if missing:
        raise FcclipError(f"evaluation needs {' and '.join(missing)}; install with pip install 'fcclip[evaluation]'")


def _open(args: argparse.Namespace) -> tuple[Dataset, DatasetWords]:
    from fcclip_core.datasets.catalog import DATASETS, DatasetWords, dataset_words

    given = None if args.vocabulary is None else vocabulary_from(args.vocabulary)
    if args.dataset == WORLD:
        from fcclip_core.datasets.world import WorldScenes
        from fcclip_core.simulation.dataset import WorldPlan
        from fcclip_core.simulation.names import world_vocabulary
        from fcclip_core.vocabulary.class_matching import match_in_order

        scenes = WorldScenes(WorldPlan(args.scenes, args.seed, "all", WORLD_SIZE, args.views))
        if given is None:
            return scenes, DatasetWords(world_vocabulary(), "the world's own")
        matching = match_in_order(scenes.classes.names, given, "the world")
        return scenes, DatasetWords(replace(given, classes=matching.classes), f"the given words, {matching.how}")

    entry = DATASETS[args.dataset]
    dataset = entry.open(args.data, args.split)
    return dataset, dataset_words(entry, dataset.classes, given)


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


def _whole_numbers(option: str, text: str) -> list[int]:
    sizes = text.split(",")
    if not all(size.strip().isdigit() for size in sizes):
        raise SettingsError(f"{option} is {text!r}; expected whole numbers with commas between them, such as 224,448")
    return [InferenceSettings(shorter_side=int(size), max_size=max(1333, int(size))).shorter_side for size in sizes]


@dataclass(frozen=True)
class ChosenSize:
    """The input size: shorter side and upper limit of the longer one, None for the model's own; and whose it is."""

    sides: tuple[int, int] | None
    whose: str


def input_size(args: argparse.Namespace) -> ChosenSize:
    """The dataset's own size, as far as no option says otherwise."""
    sides = _own_size(args.dataset)
    if args.shorter_side or (args.max_size is not None and args.shorter_side is None):
        return ChosenSize(sides, "as given")
    if args.shorter_side is None and sides is not None:
        return ChosenSize(sides, f"the paper's for {args.dataset}")
    return ChosenSize(None, "the model's own")


def _own_size(dataset: str) -> tuple[int, int] | None:
    from fcclip_core.datasets.catalog import DATASETS

    size = None if dataset == WORLD else DATASETS[dataset].size
    return (size.shorter_side, size.max_size) if size else None


def _sides(settings: InferenceSettings) -> str:
    return f"shorter side {settings.shorter_side}, longer at most {settings.max_size}"


def _trained_on(args: argparse.Namespace) -> Vocabulary | None:
    return None if args.train_vocabulary is None else vocabulary_from(args.train_vocabulary)


def _seen(seen: Sequence[bool], trained_on: Vocabulary) -> str:
    names = len(trained_on.synonyms)
    return f"seen: {sum(seen)} of {len(seen)} classes, by {names} names of {len(trained_on)} training classes"


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


def _share(dataset: Dataset, limit: int | None) -> int:
    """Images that this process sees."""
    from fcclip_core.distributed import rank, world_size

    return len(range(rank(), len(dataset) if limit is None else min(limit, len(dataset)), world_size()))


def _about(
    args: argparse.Namespace, words: DatasetWords, trained_on: Vocabulary, seen: Sequence[bool]
) -> dict[str, Any]:
    about: dict[str, Any] = {"dataset": args.dataset, "checkpoint": args.checkpoint}
    about |= {"vocabulary": args.vocabulary or words.vocabulary.description, "words": words.how}
    about |= {"train_vocabulary": args.train_vocabulary or trained_on.description, "seen_classes": sum(seen)}
    if args.dataset == WORLD:
        return about | {"scenes": args.scenes, "seed": args.seed, "views": args.views}
    return about | {"data": str(args.data), "split": args.split}


def _title(args: argparse.Namespace, images: int) -> str:
    part = f"seed {args.seed}" if args.dataset == WORLD else args.split
    return f"{args.checkpoint} on {args.dataset} ({', '.join(filter(None, [part, f'{images:,} images']))})"


def _keep_inputs(args: argparse.Namespace) -> None:
    """Refuses a result that would replace what is read.

    Raises:
        FcclipError: It would.
    """
    given = [text for text in (args.checkpoint, args.vocabulary, args.train_vocabulary) if text]
    refuse_overwriting("--json", [args.json], map(expanded, given))
    data = getattr(args, "data", None)
    if data is not None and args.json.is_file() and data.resolve() in args.json.resolve().parents:
        raise FcclipError(f"--json {args.json} would replace a file of the dataset in {data}; choose another place")


@contextmanager
def _progress(console: Terminal, what: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar; gives a function to call after each step."""
    with progress_bar(console) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


def _write(path: Path | None, document: dict[str, Any]) -> str:
    """Writes the result, if it is wanted; returns what to say of it."""
    if path is None:
        return ""
    try:
        write_json(path, document)
    except OSError as error:
        raise _not_written(path, error) from error
    return f"every number: {path}"


def _not_written(path: Path, error: OSError) -> FcclipError:
    return FcclipError(f"cannot write {path}: {error.strerror or error}; choose another --json")
