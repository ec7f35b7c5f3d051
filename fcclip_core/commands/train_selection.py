"""`--select` of `fcclip train`: evaluates the exported checkpoints on a dataset and keeps the best."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcclip_core.commands.evaluation_data import require_metrics, share, shown_progress
from fcclip_core.commands.inference_arguments import vocabulary_from
from fcclip_core.errors import SettingsError
from fcclip_core.files.paths import expanded

if TYPE_CHECKING:
    import torch

    from fcclip_core.datasets.catalog import DatasetEntry, DatasetWords
    from fcclip_core.datasets.records import Dataset
    from fcclip_core.evaluation.selection import Scores

MEASURES = {"pq": "pq.all", "miou": "miou.all"}
"""What `--select` may name, and the score that decides then."""
SELECTED_ON = "ade20k"
"""On it the authors chose the checkpoint that they published."""


def add_arguments(parser: argparse.ArgumentParser, trained_on: str) -> None:
    """Adds the options; the data of the training itself are the default where they are ADE20K's."""
    from fcclip_core.datasets.catalog import DATASETS

    group = parser.add_argument_group("choosing among the exported checkpoints (--export-every)")
    group.add_argument(
        "--select", choices=MEASURES, help="evaluate all of them after the training and keep the best by this measure"
    )
    group.add_argument(
        "--select-on",
        choices=DATASETS,
        default=SELECTED_ON,
        metavar="DATASET",
        help=f"dataset, as in `fcclip evaluate` (default: {SELECTED_ON}, as the authors)",
    )
    own = " (default: --data)" if trained_on == SELECTED_ON else ""
    group.add_argument("--select-data", type=expanded, metavar="DIR", help=f"its root folder{own}")
    group.add_argument("--select-split", metavar="SPLIT", help="its part (default: the one that the paper evaluates)")
    group.add_argument("--select-vocabulary", metavar="V", help="words for its classes (default: the dataset's)")
    group.add_argument("--select-limit", type=int, metavar="N", help="only its first N images")


@dataclass(frozen=True)
class SelectionPlan:
    """What the exported checkpoints are evaluated on; opened before the training, which takes days."""

    entry: DatasetEntry
    dataset: Dataset
    words: DatasetWords
    measure: str
    limit: int | None
    about: dict[str, Any]

    def run(self, folder: Path, device: torch.device) -> None:
        """Evaluates, prints the table and links the best; the same command again continues.

        Raises:
            FcclipError: A checkpoint or an image cannot be read, or nothing can be written.
        """
        from fcclip_core.commands.printing import print_table, say
        from fcclip_core.distributed import is_first
        from fcclip_core.evaluation.selection import BEST_FILE, SHOWN, rows, select

        selection = select(folder, self.about, lambda path: self._scores(path, device), MEASURES[self.measure])
        if is_first():
            print_table(["checkpoint", *SHOWN], rows(selection))
            say(f"{folder / BEST_FILE}: {selection.best.path.name}, best by {self.measure} on {self.about['dataset']}")

    def _scores(self, path: Path, device: torch.device) -> Scores | None:
        from fcclip_core.distributed import is_first
        from fcclip_core.evaluation.runner import evaluate
        from fcclip_core.segmenter import Segmenter
        from fcclip_core.settings import InferenceSettings
        from fcclip_core.terminal import Terminal

        size = self.entry.size
        settings = (
            InferenceSettings()
            if size is None
            else InferenceSettings(shorter_side=size.shorter_side, max_size=size.max_size)
        )
        segmenter = Segmenter.from_checkpoint(path, device=str(device), backend="eager", settings=settings)
        snapshot = segmenter.set_vocabulary(self.words.vocabulary)
        console = Terminal(stderr=True, quiet=not is_first())
        with shown_progress(console, path.name, share(self.dataset, self.limit)) as advance:
            result = evaluate(
                self.dataset, segmenter, snapshot, self.words.vocabulary.things, limit=self.limit, advance=advance
            )
        return None if result is None else result.scores()


def plan_from(args: argparse.Namespace) -> SelectionPlan | None:
    """The selection that the arguments ask for; None if they ask for none.

    Raises:
        FcclipError: Its data cannot be read, have no segments to measure PQ on, or a package is missing.
    """
    from fcclip_core.datasets.catalog import DATASETS, dataset_words

    if args.select is None:
        return None
    require_metrics()
    entry = DATASETS[args.select_on]
    if args.select == "pq" and not entry.is_panoptic:
        raise SettingsError(f"--select pq: {args.select_on} has no segments to measure PQ on; use --select miou")
    if args.select_limit is not None and args.select_limit < 1:
        raise SettingsError(f"--select-limit is {args.select_limit}; expected 1 or more")
    data = args.select_data or (args.data if args.dataset == args.select_on else None)
    if data is None:
        raise SettingsError(f"--select needs the folder of {args.select_on}; give it with --select-data")
    split = args.select_split or entry.split
    dataset = entry.open(data, split)
    given = None if args.select_vocabulary is None else vocabulary_from(args.select_vocabulary)
    words = dataset_words(entry, dataset.classes, given)
    about = {"dataset": args.select_on, "data": str(data), "split": split, "limit": args.select_limit}
    about |= {"vocabulary": args.select_vocabulary, "words": words.how, "images": len(dataset)}
    return SelectionPlan(entry, dataset, words, args.select, args.select_limit, about)
