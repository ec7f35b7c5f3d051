#!/usr/bin/env python3
"""Does every backend and precision give eager fp32's answer, and the same panoptic quality, on world scenes?

The scenes are those of `fcclip evaluate world` with the same seed. A pixel is equal if both results have it in segments
that match (one class, IoU above one half, as for PQ), or both in none.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.lib import machine
from benchmarks.lib.pictures import parse_size
from benchmarks.speed.speed import backend_name
from fcclip_core import InferenceSettings, PanopticResult, Segmenter, load_checkpoint
from fcclip_core.backends import BACKENDS
from fcclip_core.commands.evaluate import WORLD_SIZE
from fcclip_core.datasets.records import PanopticSample, TruthSegment
from fcclip_core.datasets.world import WorldScenes
from fcclip_core.devices import resolve_device
from fcclip_core.errors import FcclipError
from fcclip_core.evaluation.overlaps import pairwise_iou, segment_overlaps
from fcclip_core.evaluation.panoptic import MATCH_IOU
from fcclip_core.evaluation.scoreboard import Scoreboard
from fcclip_core.export.check import Differences, Reference
from fcclip_core.export.input_spec import PRECISIONS
from fcclip_core.files.atomic_write import atomic_write
from fcclip_core.segmenter import EncodedImage
from fcclip_core.simulation.dataset import WorldPlan
from fcclip_core.simulation.names import world_vocabulary

YARDSTICK = "eager"
EVERY = {
    "cpu": (
        "onednn:fp32",
        "onednn:bf16",
        "openvino:fp32",
        "openvino:bf16",
        "onnxruntime:fp32",
        "onnxruntime:fp16",
        "compiled:fp32",
        "compiled:bf16",
    ),
    "cuda": ("compiled:fp32", "compiled:fp16", "compiled:bf16", "tensorrt:fp16"),
}
"""Type of device -> what is compared on it unless something else is asked for."""
SMALLEST_EQUAL_SHARE = {"fp32": 0.999, "fp16": 0.99, "bf16": 0.99}
LARGEST_PQ_CHANGE = 0.2
_WIDTH = 130


def main() -> int:
    """Measures and prints.

    Returns:
        0, or 1 if a backend is further from eager fp32 than allowed.
    """
    args = parse_arguments()
    console = Console(highlight=False, soft_wrap=True, width=_WIDTH)
    here = machine.describe()
    console.print(machine.headline(here))
    ways = make_ways(args, console)
    scenes = WorldScenes(WorldPlan(args.scenes, args.seed, "all", args.size, args.views))
    for number in range(len(scenes)):
        sample = scenes[number]
        reference: tuple[EncodedImage, PanopticResult] | None = None
        for way in ways.values():
            answer = way.add(number, sample, reference)
            # The yardstick comes first.
            reference = reference or answer
    results = {name: way.record(ways[YARDSTICK]) for name, way in ways.items()}
    width, height = args.size
    title = f"{args.checkpoint}, {len(scenes)} scenes of seed {args.seed}, {width}x{height}"
    console.print(table(results, title))
    for name, result in results.items():
        console.print(f"{name}: {result['backend']}: {result['verdict']}")
    if args.json:
        record = {"program": "accuracy", "machine": here, "checkpoint": args.checkpoint, "size": args.size}
        record |= {"scenes": args.scenes, "views": args.views, "seed": args.seed, "ways": results}
        with atomic_write(args.json) as part:
            part.write_text(json.dumps(record, indent=1) + "\n")
    return 0 if all(result["accepted"] for result in results.values()) else 1


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--checkpoint", default="demo", help="weights: a file, a bundled name, or recipe:NAME")
    parser.add_argument(
        "--backends",
        nargs="+",
        type=backend_name,
        metavar="NAME[:PRECISION]",
        help=f"besides eager, of {', '.join(BACKENDS)}; with a precision, {', '.join(PRECISIONS)} (default: what the "
        "device may have)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--scenes", type=int, default=100, help="scenes to render")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other scenes")
    parser.add_argument("--views", type=int, default=1, help="pictures of each scene")
    parser.add_argument(
        "--size", type=parse_size, default="{}x{}".format(*WORLD_SIZE), metavar="WIDTHxHEIGHT", help="of the pictures"
    )
    parser.add_argument("--shorter-side", type=int, default=0, help="test-time size in pixels; 0: the model's own")
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0 leaves torch's choice")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result here")
    return parser.parse_args()


def make_ways(args: argparse.Namespace, console: Console) -> dict[str, Way]:
    """The yardstick and every backend that can be had here."""
    checkpoint = load_checkpoint(args.checkpoint)
    settings = InferenceSettings(shorter_side=args.shorter_side, num_threads=args.threads)
    width, height = args.size
    ways: dict[str, Way] = {}
    for name in dict.fromkeys((YARDSTICK, *(args.backends or EVERY[resolve_device(args.device).type]))):
        backend, _, precision = name.partition(":")
        print(f"preparing {name}", file=sys.stderr)
        try:
            segmenter = Segmenter(
                checkpoint, device=args.device, backend=backend, precision=precision or "auto", settings=settings
            )
            segmenter.prepare(height, width)
        except FcclipError as error:
            console.print(f"{name} is left out: {error}")
            continue
        ways[name] = Way(name, segmenter)
    return ways


@dataclass
class Way:
    """A backend, and what was counted of it.

    Attributes:
        name: As on the command line.
        segmenter: Runs it.
        equal: Share of equal panoptic pixels, picture by picture.
        differences: Of the network's answers.
        mask_logits: Largest difference of a mask logit, picture by picture.
    """

    name: str
    segmenter: Segmenter
    equal: list[float] = field(default_factory=list)
    differences: list[Differences] = field(default_factory=list)
    mask_logits: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Puts the world's words into force."""
        snapshot = self.segmenter.set_vocabulary(world_vocabulary())
        self._board = Scoreboard(snapshot.class_ids, world_vocabulary().things, snapshot.seen)

    def add(
        self, number: int, sample: PanopticSample, reference: tuple[EncodedImage, PanopticResult] | None
    ) -> tuple[EncodedImage, PanopticResult]:
        """Answers for one picture, and compares that with the yardstick's answer, if this is not the yardstick."""
        encoded = self.segmenter.encode(sample.image)
        result = self.segmenter.decode(encoded)
        self._board.update(number, sample, result)
        if reference is not None:
            expected = reference[0].output
            self.equal.append(equal_share(reference[1], result))
            self.differences.append(Differences.between(Reference.of(expected), encoded.output))
            logits = encoded.output.mask_logits.float().to(expected.mask_logits.device)
            self.mask_logits.append(float((expected.mask_logits - logits).abs().max()))
        return encoded, result

    def record(self, yardstick: Way) -> dict[str, Any]:
        """Scores in per cent, and how far the answers are from the yardstick's."""
        scores = self._board.scores()
        change = (scores["pq.all"] or 0.0) - (yardstick._board.scores()["pq.all"] or 0.0)
        result: dict[str, Any] = {
            "backend": self.segmenter.backend_description,
            "precision": self.precision,
            "scores": scores,
            "pq_change": change,
        }
        if self is yardstick:
            return result | {"accepted": True, "verdict": "the yardstick"}
        result |= {
            "equal_pixels": {"mean": float(np.mean(self.equal)), "worst": min(self.equal)},
            "largest_mask_logit_difference": max(self.mask_logits),
        }
        for name in vars(self.differences[0]):
            values = [getattr(difference, name) for difference in self.differences]
            result[f"{name}_difference"] = {"mean": float(np.mean(values)), "worst": float(np.max(values))}
        complaints = list(self._complaints(result))
        return result | {"accepted": not complaints, "verdict": "; ".join(complaints) or "accepted"}

    @property
    def precision(self) -> str:
        """What it computes in: as asked for, else as the backend says."""
        asked = self.name.partition(":")[2]
        words = set(re.findall(r"\w+", self.segmenter.backend_description))
        said = (name for name, dtype in PRECISIONS.items() if words & {name, str(dtype).removeprefix("torch.")})
        return asked or next(said, "fp32")

    def _complaints(self, result: Mapping[str, Any]) -> list[str]:
        complaints = []
        if "; not " in result["backend"]:
            complaints.append("another backend answered")
        limit = SMALLEST_EQUAL_SHARE[self.precision]
        # Written so that NaN fails.
        if not result["equal_pixels"]["mean"] >= limit:
            complaints.append(f"NOT equal: {limit:.1%} of the pixels must be")
        if not abs(result["pq_change"]) <= LARGEST_PQ_CHANGE:
            complaints.append(f"ANOTHER PQ: it may change by {LARGEST_PQ_CHANGE}")
        return complaints


def equal_share(expected: PanopticResult, found: PanopticResult) -> float:
    """Share of pixels that both results have in matching segments, or in none."""
    truth = PanopticSample(
        "expected",
        np.zeros((0, 0, 3), np.uint8),
        expected.segment_map,
        tuple(TruthSegment(segment.id, segment.class_id) for segment in expected.segments),
    )
    overlaps = segment_overlaps(truth, found.segment_map, len(found.segments))
    classes = [np.array([segment.class_id for segment in result.segments], int) for result in (expected, found)]
    match = (classes[0][:, None] == classes[1]) & (pairwise_iou(overlaps, overlaps.sum(1)) > MATCH_IOU)
    return float((overlaps[0, 0] + overlaps[1:, 1:][match].sum()) / expected.segment_map.size)


def table(results: Mapping[str, Mapping[str, Any]], title: str) -> Table:
    """A row a backend."""
    columns = ("PQ", "change", "mIoU", "equal pixels", "worst picture", "masks", "signs", "embeddings")
    shown = Table("backend", "precision", *columns, title=title)
    for name, result in results.items():
        scores = result["scores"]
        cells = [f"{scores['pq.all']:.2f}", f"{result['pq_change']:+.3f}", f"{scores['miou.all']:.2f}"]
        if "equal_pixels" in result:
            cells += [f"{result['equal_pixels'][kind]:.4%}" for kind in ("mean", "worst")]
            cells += [f"{result[f'{kind}_difference']['mean']:.2g}" for kind in ("mask", "sign", "embedding")]
        shown.add_row(name, result["precision"], *cells)
    return shown


if __name__ == "__main__":
    sys.exit(main())
