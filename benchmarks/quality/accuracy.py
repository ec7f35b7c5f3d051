#!/usr/bin/env python3
"""Does every backend and precision give eager fp32's answer, and the same panoptic quality, on world scenes?

The scenes are those of `fcclip evaluate world` with the same seed. A pixel is equal if both results have it in segments
that match (one class, IoU above one half, as for PQ), or both in none.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.lib.arguments import make_parser, make_segmenter
from benchmarks.lib.report import Report, arguments_of, print_table, progress, say
from fcclip_core import PanopticResult, Segmenter
from fcclip_core.commands.evaluation_data import WORLD_SIZE
from fcclip_core.datasets.records import PanopticSample, TruthSegment
from fcclip_core.datasets.world import WorldScenes
from fcclip_core.devices import resolve_device
from fcclip_core.errors import FcclipError
from fcclip_core.evaluation.overlaps import pairwise_iou, segment_overlaps
from fcclip_core.evaluation.panoptic import MATCH_IOU
from fcclip_core.evaluation.scoreboard import Scoreboard
from fcclip_core.export.check import Differences, Reference
from fcclip_core.export.input_spec import PRECISIONS
from fcclip_core.segmenter import EncodedImage
from fcclip_core.simulation.dataset import WorldPlan
from fcclip_core.simulation.names import world_vocabulary

REFERENCE = "eager"
EVERY = {
    "cpu": (
        *("onednn:fp32", "onednn:bf16", "openvino:fp32", "openvino:bf16"),
        *("onnxruntime:fp32", "onnxruntime:fp16", "compiled:fp32", "compiled:bf16"),
    ),
    "cuda": ("compiled:fp32", "compiled:fp16", "compiled:bf16", "tensorrt:fp16"),
}
"""Type of device -> what is compared on it by default."""
SMALLEST_EQUAL_SHARE = {"fp32": 0.999, "fp16": 0.99, "bf16": 0.99}
LARGEST_PQ_CHANGE = 0.2


def main() -> int:
    """Measures and prints.

    Returns:
        0, or 1 if a backend is further from eager fp32 than allowed.
    """
    names = ("checkpoint", "backends", "device", "scenes", "seed", "shorter_side", "threads")
    parser = make_parser(__doc__, *names, size="{}x{}".format(*WORLD_SIZE))
    parser.add_argument("--views", type=int, default=1, help="images of each scene")
    args = parser.parse_args()
    report = Report("accuracy")
    ways = make_ways(args)
    scenes = WorldScenes(WorldPlan(args.scenes, args.seed, "all", args.size, args.views))
    for number in range(len(scenes)):
        sample = scenes[number]
        reference: tuple[EncodedImage, PanopticResult] | None = None
        for way in ways.values():
            answer = way.add(number, sample, reference)
            # The reference comes first.
            reference = reference or answer
    results = {name: way.record(ways[REFERENCE]) for name, way in ways.items()}
    show(results, f"{args.checkpoint}, {len(scenes)} scenes of seed {args.seed}")
    for name, result in results.items():
        say(f"{name}: {result['backend']}: {result['verdict']}")
    report.write(args.json, **arguments_of(args, "checkpoint", "size", "scenes", "views", "seed"), ways=results)
    return 0 if all(result["accepted"] for result in results.values()) else 1


def make_ways(args: argparse.Namespace) -> dict[str, Way]:
    """The reference and every backend that is available here."""
    ways: dict[str, Way] = {}
    for name in dict.fromkeys((REFERENCE, *(args.backends or EVERY[resolve_device(args.device).type]))):
        backend, _, precision = name.partition(":")
        progress(f"preparing {name}")
        try:
            ways[name] = Way(name, make_segmenter(args, backend=backend, precision=precision or "auto"))
        except FcclipError as error:
            say(f"{name} is left out: {error}")
    return ways


@dataclass
class Way:
    """A backend, and what was counted of it.

    Attributes:
        name: As on the command line.
        segmenter: Runs it.
        equal: Share of equal panoptic pixels of each image.
        differences: Of the network's answers.
        mask_logits: Largest difference of a mask logit of each image.
    """

    name: str
    segmenter: Segmenter
    equal: list[float] = field(default_factory=list)
    differences: list[Differences] = field(default_factory=list)
    mask_logits: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Activates the world's vocabulary."""
        snapshot = self.segmenter.set_vocabulary(world_vocabulary())
        self._board = Scoreboard(snapshot.class_ids, world_vocabulary().things, snapshot.seen)

    def add(
        self, number: int, sample: PanopticSample, reference: tuple[EncodedImage, PanopticResult] | None
    ) -> tuple[EncodedImage, PanopticResult]:
        """Labels one image, and compares the result with the reference's, unless this is the reference."""
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
        """Scores in percent, and the differences from the reference."""
        scores = self._board.scores()
        change = (scores["pq.all"] or 0.0) - (yardstick._board.scores()["pq.all"] or 0.0)
        result: dict[str, Any] = {
            "backend": self.segmenter.backend_description,
            "precision": self.precision,
            "scores": scores,
            "pq_change": change,
        }
        if self is yardstick:
            return result | {"accepted": True, "verdict": "the reference"}
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
        """What it computes in: as requested, else as the backend reports."""
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


def show(results: Mapping[str, Mapping[str, Any]], title: str) -> None:
    """Prints a row for each backend."""
    columns = {"backend": "", "precision": "", "PQ": ".2f", "change": "+.3f", "mIoU": ".2f"}
    columns |= {"equal pixels": ".4%", "worst image": ".4%"} | dict.fromkeys(("masks", "signs", "embeddings"), ".2g")
    rows = []
    for name, result in results.items():
        scores = result["scores"]
        row = [name, result["precision"], scores["pq.all"], result["pq_change"], scores["miou.all"]]
        if "equal_pixels" in result:
            row += result["equal_pixels"].values()
            row += [result[f"{kind}_difference"]["mean"] for kind in ("mask", "sign", "embedding")]
        rows.append(row)
    print_table(columns, rows, title)


if __name__ == "__main__":
    sys.exit(main())
