"""What `fcclip evaluate` has in common for all that it measures: data, words, progress, the result's file."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcclip_core.commands.inference_arguments import add_model_arguments, vocabulary_from
from fcclip_core.commands.progress_bar import progress_bar
from fcclip_core.errors import FcclipError, SettingsError
from fcclip_core.files.atomic_write import require_writable
from fcclip_core.files.json_files import write_json
from fcclip_core.files.paths import expanded, refuse_overwriting
from fcclip_core.settings import InferenceSettings

if TYPE_CHECKING:
    import torch

    from fcclip_core.datasets.catalog import DatasetWords
    from fcclip_core.datasets.records import Dataset
    from fcclip_core.terminal import Terminal
    from fcclip_core.vocabulary.classes import Vocabulary

WORLD = "world"
WORLD_SIZE = (320, 240)


def add_dataset_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    """Adds what says which images, and by which words."""
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


def add_run_arguments(parser: argparse.ArgumentParser, size: tuple[int, int] | None = None) -> None:
    """Adds what says which model, how, and where the result goes; `size` as for `add_model_arguments`."""
    # Figures are to be of the weights, whatever backends a machine has.
    # Truth has the size of the images.
    add_model_arguments(parser, backend="eager", size=size, without=("output_stride",))
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images")
    parser.add_argument("--json", type=expanded, metavar="FILE", help="write every number to this file")


def check_run(args: argparse.Namespace) -> None:
    """Checks `--limit` and `--json` before anything takes time.

    Raises:
        FcclipError: One of them will not do.
    """
    if args.limit is not None and args.limit < 1:
        raise SettingsError(f"--limit is {args.limit}; expected 1 or more")
    check_result(args)


def check_result(args: argparse.Namespace) -> None:
    """Checks `--json`: it can be written, and replaces nothing that is read.

    Raises:
        FcclipError: It will not do.
    """
    if args.json is not None and not args.json.absolute().parent.is_dir():
        raise FcclipError(f"--json {args.json}: there is no such folder; make it first")
    if args.json is not None:
        _keep_inputs(args)
        try:
            require_writable(args.json)
        except OSError as error:
            raise _not_written(args.json, error) from error


@contextmanager
def joined(args: argparse.Namespace) -> Iterator[tuple[torch.device, Terminal]]:
    """Joins the other processes, for the length of the block; gives the device and what only the first one says."""
    from fcclip_core.devices import resolve_device
    from fcclip_core.distributed import is_first, workers
    from fcclip_core.terminal import Terminal

    with workers(resolve_device(args.device)) as device:
        yield device, Terminal(stderr=True, quiet=not is_first())


@contextmanager
def prepared(args: argparse.Namespace) -> Iterator[tuple[Dataset, DatasetWords, torch.device, Terminal]]:
    """Opens the dataset and joins the other processes, for the length of the block.

    Raises:
        FcclipError: An argument, the dataset or the words will not do, or a package is missing.
    """
    check_run(args)
    require_metrics()
    dataset, words = _open(args)
    with joined(args) as (device, console):
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


def input_sizes(text: str) -> list[int]:
    """Reads `--sizes`, in ascending order.

    Raises:
        SettingsError: No whole numbers, or one is out of range.
    """
    sizes = text.split(",")
    if not all(size.strip().isdigit() for size in sizes):
        raise SettingsError(f"--sizes is {text!r}; expected whole numbers with commas between them, such as 224,448")
    checked = {InferenceSettings(shorter_side=int(size), max_size=max(1333, int(size))).shorter_side for size in sizes}
    if 0 in checked:
        raise SettingsError(f"--sizes is {text!r}; expected sizes in pixels, such as 224,448")
    return sorted(checked)


@dataclass(frozen=True)
class ChosenSize:
    """The input size: shorter side and upper limit of the longer one, None for the model's own; and whose it is."""

    sides: tuple[int, int] | None
    whose: str


def input_size(args: argparse.Namespace) -> ChosenSize:
    """The dataset's own size, as far as no option says otherwise."""
    sides = own_size(args.dataset)
    if args.shorter_side or (args.max_size is not None and args.shorter_side is None):
        return ChosenSize(sides, "as given")
    if args.shorter_side is None and sides is not None:
        return ChosenSize(sides, f"the paper's for {args.dataset}")
    return ChosenSize(None, "the model's own")


def own_size(dataset: str) -> tuple[int, int] | None:
    """Shorter side and upper limit of the longer one at which the paper evaluates a dataset; None: the model's own."""
    from fcclip_core.datasets.catalog import DATASETS

    size = None if dataset == WORLD else DATASETS[dataset].size
    return (size.shorter_side, size.max_size) if size else None


def trained_vocabulary(args: argparse.Namespace) -> Vocabulary | None:
    """Reads `--train-vocabulary`."""
    return None if args.train_vocabulary is None else vocabulary_from(args.train_vocabulary)


def seen_classes(seen: Sequence[bool], trained_on: Vocabulary) -> str:
    """A line that says how many classes count as seen."""
    names = len(trained_on.synonyms)
    return f"seen: {sum(seen)} of {len(seen)} classes, by {names} names of {len(trained_on)} training classes"


def share(dataset: Dataset, limit: int | None) -> int:
    """Images that this process sees."""
    from fcclip_core.distributed import rank, world_size

    return len(range(rank(), len(dataset) if limit is None else min(limit, len(dataset)), world_size()))


def about_run(
    args: argparse.Namespace, words: DatasetWords, trained_on: Vocabulary, seen: Sequence[bool]
) -> dict[str, Any]:
    """What a result's file says of the run."""
    about: dict[str, Any] = {"dataset": args.dataset, "checkpoint": args.checkpoint}
    about |= {"vocabulary": args.vocabulary or words.vocabulary.description, "words": words.how}
    about |= {"train_vocabulary": args.train_vocabulary or trained_on.description, "seen_classes": sum(seen)}
    if args.dataset == WORLD:
        return about | {"scenes": args.scenes, "seed": args.seed, "views": args.views}
    return about | {"data": str(args.data), "split": args.split}


def title_of(args: argparse.Namespace, images: int) -> str:
    """Of a table: model, dataset, number of images."""
    part = f"seed {args.seed}" if args.dataset == WORLD else args.split
    return f"{args.checkpoint} on {args.dataset} ({', '.join(filter(None, [part, f'{images:,} images']))})"


def _keep_inputs(args: argparse.Namespace) -> None:
    """Refuses a result that would replace what is read.

    Raises:
        FcclipError: It would.
    """
    names = ("checkpoint", "vocabulary", "train_vocabulary", "vit_weights")
    given = [text for name in names if (text := getattr(args, name, None))]
    refuse_overwriting("--json", [args.json], map(expanded, given))
    data = getattr(args, "data", None)
    if data is not None and args.json.is_file() and data.resolve() in args.json.resolve().parents:
        raise FcclipError(f"--json {args.json} would replace a file of the dataset in {data}; choose another place")


@contextmanager
def shown_progress(console: Terminal, what: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar; gives a function to call after each step."""
    with progress_bar(console) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


def write_result(path: Path | None, document: dict[str, Any]) -> str:
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
