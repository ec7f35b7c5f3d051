#!/usr/bin/env python3
"""How well are classes known that were taught by showing?

Collects segments of scenes of the simulated world to teach from, and of other scenes to test on. Names that training
did not see are taught by 1, 5 and 20 examples, with and without their words, while all other names compete. Right is a
segment that gets its name. Examples are drawn from as many objects as there are, or from the views of a single object.
A third trial teaches three views of one object and tests on further views of that same object.

The calibration is measured on the segments of the scenes to teach from, whose true names it does not use. For
comparison: the mean of the examples as a row as it is ("plain"), and moved by the gap between the means of both kinds
of embeddings ("shifted").
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.lib.arguments import MODEL, make_parser, make_segmenter
from benchmarks.lib.report import Report, arguments_of, print_table, say
from benchmarks.quality.taught_segments import KnownSegments, collect
from fcclip_core import Segmenter
from fcclip_core.inference.classification import TextClassifier, classify
from fcclip_core.model.fcclip import ModelOutput
from fcclip_core.segments.teaching import Lesson, calibration, taught
from fcclip_core.simulation.dataset import WorldPlan
from fcclip_core.simulation.names import train_vocabulary, world_vocabulary
from fcclip_core.vocabulary.classes import Vocabulary
from fcclip_core.vocabulary.examples import Calibration

COUNTS = (1, 5, 20)
_SIDES = 5
"""Views of one object at most."""
_SHOWN = 3
"""Views of an object that is met again."""

Chosen = dict[int, np.ndarray]
"""For each class the rows of its examples among the segments to teach from."""
Way = Callable[[Chosen], TextClassifier]


@dataclass(frozen=True)
class Trial:
    """What is taught and tested.

    Attributes:
        segmenter: The model.
        teach: Segments to teach from.
        test: Segments to test on.
        classes: The classes that are taught.
        measured: The calibration.
        minimum_area: Pixels of a segment from which on it counts among the large ones.
    """

    segmenter: Segmenter
    teach: KnownSegments
    test: KnownSegments
    classes: tuple[int, ...]
    measured: Calibration
    minimum_area: int

    def draw(self, rng: np.random.Generator, count: int, one_object: bool) -> Chosen:
        """Examples of each class: of one object's views, or of as many objects as there are."""
        chosen = {}
        for number in self.classes:
            own = rng.permutation(np.flatnonzero(self.teach.label == number))
            objects = self.teach.scene[own] * 1000 + self.teach.item[own]
            seen: dict[int, int] = {}
            turn = np.array([seen.update({key: seen.get(key, -1) + 1}) or seen[key] for key in objects.tolist()])
            if one_object:
                most = [key for key, last in seen.items() if last == min(max(seen.values()), count - 1)]
                chosen[number] = own[objects == (most[0] if most else max(seen, key=lambda key: seen[key]))][:count]
            else:
                chosen[number] = own[np.argsort(turn, kind="stable")][:count]
        return chosen

    def met_again(self, rng: np.random.Generator) -> tuple[Trial, Chosen]:
        """A trial on further views of the objects that are shown, and on this trial's segments of other classes."""
        chosen, later = {}, []
        things = world_vocabulary().things
        for number in (item for item in self.classes if things[item]):
            own = rng.permutation(np.flatnonzero(self.teach.label == number))
            objects = self.teach.scene[own] * 1000 + self.teach.item[own]
            known, views = np.unique(objects, return_counts=True)
            if (views > _SHOWN).any():
                own = own[objects == rng.choice(known[views > _SHOWN])]
                chosen[number] = own[:_SHOWN]
                later.append(own[_SHOWN:])
        others = self.test.where(~np.isin(self.test.label, self.classes))
        test = others.joined(self.teach.where(np.concatenate(later)))
        return replace(self, test=test, classes=tuple(chosen)), chosen

    def score(self, classifier: TextClassifier) -> dict[str, float]:
        """Percent right: of the taught classes, of the others, and both of large segments alone."""
        test = self.test
        output = ModelOutput(
            torch.empty(0),
            torch.from_numpy(test.in_vocab)[None],
            torch.from_numpy(test.out_vocab)[None],
            torch.from_numpy(test.survives)[None],
        )
        found = classify(output, classifier, self.segmenter.settings).ensemble[0, :, :-1].argmax(1).numpy()
        right, is_taught = found == test.label, np.isin(test.label, self.classes)
        large = test.area >= self.minimum_area
        return {
            "taught": 100 * float(right[is_taught].mean()),
            "others": 100 * float(right[~is_taught].mean()),
            "taught_large": 100 * float(right[is_taught & large].mean()),
            "others_large": 100 * float(right[~is_taught & large].mean()),
        }


def main() -> int:
    """Measures and prints."""
    parser = make_parser(__doc__, *MODEL, seed=41, scenes=120, size="320x240")
    parser.add_argument("--views", type=int, default=5, help="frames of each scene to teach from")
    parser.add_argument("--test-seed", type=int, default=61, help="of the scenes to test on, two frames each")
    parser.add_argument("--test-scenes", type=int, default=120, help="scenes to test on")
    parser.add_argument("--draws", type=int, default=5, help="random choices of examples; their mean counts")
    parser.add_argument("--large", type=int, default=400, help="pixels of a segment that counts as large")
    parser.add_argument("--cache", type=Path, metavar="FOLDER", help="keep collected segments here")
    args = parser.parse_args()
    report = Report("teach")
    trial = make_trial(make_segmenter(args, device="cpu"), args)
    say(
        f"{len(trial.teach)} segments to teach from, {len(trial.test)} to test on, {len(trial.classes)} classes taught "
        f"({int(np.isin(trial.test.label, trial.classes).sum())} of the segments to test on), "
        f"gain {trial.measured.gain:.2f} of {trial.measured.segments} segments"
    )
    rows = measure(trial, args.draws)
    columns = {"rows": "", "of": "", "examples": "", "taught": ".1f", "others": ".1f"}
    columns |= {"taught, large": ".1f", "others, large": ".1f"}
    print_table(columns, [list(row.values()) for row in rows], f"{args.checkpoint}, percent right")
    facts = {"gain": trial.measured.gain, "classes": len(trial.classes), "segments": len(trial.test)}
    report.write(args.json, **arguments_of(args, "checkpoint", "seed", "test_seed", "draws"), **facts, rows=rows)
    return 0


def make_trial(segmenter: Segmenter, args: argparse.Namespace) -> Trial:
    """Collects the segments, and measures the calibration."""
    teach = collect(segmenter, WorldPlan(args.scenes, args.seed, "all", args.size, args.views), args.cache)
    test = collect(segmenter, WorldPlan(args.test_scenes, args.test_seed, "all", args.size, 2), args.cache)
    trained = frozenset(train_vocabulary().names)
    classes = [
        number
        for number, name in enumerate(world_vocabulary().names)
        if name not in trained
        and len(np.unique(teach.scene[teach.label == number])) >= 5
        and (test.label == number).any()
    ]
    measured = calibration(segmenter, _unit(teach.out_vocab))
    return Trial(segmenter, teach, test, tuple(classes), measured, args.large)


def measure(trial: Trial, draws: int) -> list[dict[str, Any]]:
    """A row for each way, kind of examples and number of them."""
    words = trial.segmenter.prepare_vocabulary(world_vocabulary()).classifier
    rows = [_row("words alone", "", 0, [trial.score(words)])]
    for one_object in (False, True):
        for count in (number for number in COUNTS if not one_object or number <= _SIDES):
            chosen = [trial.draw(np.random.default_rng(number), count, one_object) for number in range(draws)]
            of = "one object" if one_object else "many objects"
            for name, way in ways(trial, words).items():
                rows.append(_row(name, of, count, [trial.score(way(item)) for item in chosen]))
    again = [trial.met_again(np.random.default_rng(number)) for number in range(draws)]
    rows.append(_row("words alone", "same object", 0, [later.score(words) for later, _ in again]))
    for name, way in ways(trial, words).items():
        rows.append(_row(name, "same object", _SHOWN, [later.score(way(item)) for later, item in again]))
    return rows


def ways(trial: Trial, words: TextClassifier) -> dict[str, Way]:
    """How examples become rows, by name."""
    units = torch.from_numpy(_unit(trial.teach.out_vocab))
    gap = words.rows.mean(0) - units.mean(0)

    def replaced(shift: torch.Tensor) -> Way:
        def build(chosen: Chosen) -> TextClassifier:
            rows = words.rows.clone()
            for number, own in chosen.items():
                rows[number] = torch.nn.functional.normalize(units[own].mean(0) + shift, dim=-1)
            return replace(words, rows=rows)

        return build

    def by_product(wordless: bool) -> Way:
        def build(chosen: Chosen) -> TextClassifier:
            vocabulary: Vocabulary = world_vocabulary()
            for number, own in chosen.items():
                lesson = Lesson((vocabulary.names[number],), units[own].numpy(), wordless)
                vocabulary = taught(vocabulary, lesson, trial.measured, model)
            return trial.segmenter.prepare_vocabulary(vocabulary).classifier

        model = trial.segmenter.embed_text(["a"]).model
        return build

    return {
        "plain": replaced(torch.zeros_like(gap)),
        "shifted": replaced(gap),
        "calibrated": by_product(wordless=True),
        "words and examples": by_product(wordless=False),
    }


def _row(name: str, of: str, count: int, scores: list[dict[str, float]]) -> dict[str, Any]:
    means = {key: float(np.mean([score[key] for score in scores])) for key in scores[0]}
    return {"rows": name, "of": of, "examples": str(count)} | means


def _unit(rows: np.ndarray) -> np.ndarray:
    unit: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


if __name__ == "__main__":
    sys.exit(main())
