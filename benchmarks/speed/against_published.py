#!/usr/bin/env python3
"""Our inference against the published order of operations: stage by stage, in one run, with equal results.

The baseline is the tests' oracle (test/oracle): ten full prediction heads, grid_sample, all masks enlarged twice, one
segment after the other. Both sides start from the same seeded weights and give panoptic, semantic and instance results.
They take turns, and each stage's median counts.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import nn

from benchmarks.lib import machine
from benchmarks.lib.authors_code import AuthorsCode, CannotRun
from benchmarks.lib.clocks import clocks, decoding_places
from fcclip_core import InferenceSettings, Segmenter, load_checkpoint
from fcclip_core.backends.fallback import FallbackBackend
from fcclip_core.backends.onednn import OneDnnBackend
from fcclip_core.backends.reference import CheckedBackend
from fcclip_core.export.input_spec import PRECISIONS
from fcclip_core.model.config import PRESETS
from oracle import pipeline
from oracle.goldens import REFERENCE, injected_rows, spec, split_synonyms
from oracle.observe import class_indices, vocabulary_of
from oracle.trace import Trace

STAGES = (
    "preprocess",
    "backbone",
    "pixel decoder",
    "mask decoder",
    "classification",
    "enlarge masks",
    "panoptic",
    "semantic",
    "instances",
)
INNER_STAGES = {"pixel decoder": ("deformable encoder",), "mask decoder": ("prediction heads", "mask pooling")}
LARGEST_PIXEL_SHARE = 0.001
LARGEST_SCORE_DIFFERENCE = 1e-3


def main() -> int:
    """Runs the comparison.

    Returns:
        0, or 1 if the two sides give different results in float32.
    """
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    here = machine.describe()
    print(machine.headline(here))
    image = read_image(args.image)
    settings = InferenceSettings(shorter_side=args.shorter_side, num_threads=args.threads)
    checkpoint = load_checkpoint(f"recipe:{args.preset}")
    words, names = reference_words(checkpoint.config.embed_dim)
    ours = Ours(Segmenter(checkpoint, device="cpu", backend=args.backend, precision=args.precision, settings=settings))
    ours.segmenter.set_vocabulary(vocabulary_of(words, names), text_embeddings=words.rows)

    def run_published(trace: Trace) -> pipeline.Published:
        with trace.stage("total"):
            return pipeline.segment(checkpoint.state, checkpoint.config, image, words, settings, trace)

    traces: dict[str, list[Trace]] = {"published": [], "ours": []}
    runs: dict[str, Callable[[Trace], Any]] = {"published": run_published, "ours": lambda trace: ours.run(image, trace)}
    if args.reference:
        try:
            authors = AuthorsCode(args.reference, checkpoint, words, names, settings)
        except CannotRun as reason:
            print(f"the authors' code is left out: {reason}", file=sys.stderr)
        else:
            runs["authors"], traces["authors"] = lambda trace: authors.run(image, trace), []
    results = {}
    for repetition in range(args.repeat + 1):
        for side, run in runs.items():
            trace = Trace(keep=False)
            results[side] = run(trace)
            # The first round only warms caches and memory up.
            traces[side] += [trace] if repetition else []
            print(f"{side} {repetition}/{args.repeat}: {trace.cpu['total']:.2f} CPU s", file=sys.stderr)

    height, width = pipeline.resized_size(image.shape[0], image.shape[1], settings)
    print(
        f"{args.preset}, {image.shape[1]}x{image.shape[0]} resized to {width}x{height}, {len(names)} classes, "
        f"{args.threads} threads, published in float32, ours {ours.segmenter.backend_description}; medians of "
        f"{args.repeat}, in seconds"
    )
    times = {side: medians(traces[side]) for side in traces}
    print_table(times)
    differences = compare(ours.segmenter, results["published"], results["ours"])
    is_short = re.search(r"\b(bf16|fp16|bfloat16|float16)\b", ours.segmenter.backend_description)
    equal = report(differences, is_judged=not is_short)
    if "authors" in results:
        differences["authors"] = compare_authors(results["published"], results["authors"])
    if args.json:
        record = {
            "program": "against_published",
            "machine": here,
            "preset": args.preset,
            "image": list(image.shape[:2]),
            "resized": [height, width],
            "backend": ours.segmenter.backend_description,
            "repetitions": args.repeat,
            "seconds": times,
            "cpu_seconds_ratio": ratio(times, "cpu"),
            "wall_seconds_ratio": ratio(times, "wall"),
            "differences": differences,
            "equal": equal,
        }
        write_atomically(args.json, json.dumps(record, indent=1) + "\n")
    return 1 if equal is False else 0


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--preset", default="convnext_large", choices=sorted(PRESETS), help="model, seeded weights")
    parser.add_argument("--backend", default="auto", help="our backend; eager to see that the results are equal")
    parser.add_argument("--precision", default="auto", choices=("auto", *PRECISIONS), help="what it computes in")
    parser.add_argument("--shorter-side", type=int, default=800, help="test-time size in pixels")
    parser.add_argument("--threads", type=int, default=1, help="torch threads; CPU seconds compare best with 1")
    parser.add_argument("--repeat", type=int, default=3, help="measured repetitions, after one to warm up")
    parser.add_argument("--image", type=Path, help="photograph; default: the reference's 640x480 one")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    parser.add_argument("--reference", type=Path, help="checkout of bytedance/fc-clip: runs the authors' own code too")
    return parser.parse_args()


def read_image(path: Path | None) -> np.ndarray:
    """uint8 RGB (H, W, 3) of a file, upright, or the reference's photograph."""
    if path is None:
        with np.load(REFERENCE / "inputs.npz") as inputs:
            return inputs["coffee"]
    with Image.open(path) as file:
        return np.asarray(ImageOps.exif_transpose(file).convert("RGB"))


def reference_words(dim: int) -> tuple[pipeline.Words, list[list[str]]]:
    """The reference's 13 classes with rows of `dim` from a rule, and their names."""
    vocabulary = spec()["vocabulary"]
    names = [split_synonyms(text) for text in vocabulary["stuff_classes"]]
    rows = injected_rows([name for synonyms in names for name in synonyms], dim)
    flags = (tuple(bool(flag) for flag in vocabulary[key]) for key in ("isthing", "overlap_with_coco_train"))
    return pipeline.Words(torch.from_numpy(rows), tuple(len(synonyms) for synonyms in names), *flags), names


class Ours:
    """Our segmenter with a clock at every stage that the published order has too."""

    def __init__(self, segmenter: Segmenter) -> None:
        """Takes a segmenter whose vocabulary is set."""
        self.segmenter = segmenter

    def run(self, image: np.ndarray, trace: Trace) -> dict[str, Any]:
        """Panoptic result, semantic map and instances of one image."""
        model: Any = running_network(self.segmenter)
        decoder = getattr(model.mask_decoder, "decoder", model.mask_decoder)
        places = [
            (self.segmenter, "_preprocess", "preprocess"),
            (model.backbone, "forward", "backbone"),
            (model.pixel_decoder, "forward", "pixel decoder"),
            *((layer, "forward", "deformable encoder") for layer in model.pixel_decoder.layers),
            (model.mask_decoder, "forward", "mask decoder"),
            (decoder, "_attention_mask", "prediction heads"),
            (decoder, "predict", "prediction heads"),
            (model.backbone, "embed_masks", "classification"),
            *decoding_places(self.segmenter, "classification", "panoptic"),
        ]
        with clocks(places, trace), trace.stage("total"):
            result = self.segmenter(image)
            with trace.stage("semantic"):
                semantic = result.semantic_map()
            with trace.stage("instances"):
                instances = result.instances()
        return {"panoptic": result, "semantic": semantic, "instances": instances}


def running_network(segmenter: Segmenter) -> nn.Module:
    """The modules that run: oneDNN's are a copy of the segmenter's own."""
    backend: Any = segmenter._backend
    if isinstance(backend, FallbackBackend):
        backend = backend._answered_last.backend
    if isinstance(backend, CheckedBackend):
        backend = backend._backend
    return backend._network if isinstance(backend, OneDnnBackend) else segmenter._model


def medians(traces: list[Trace]) -> dict[str, dict[str, float]]:
    """Median wall and CPU seconds of every stage."""
    return {
        kind: {stage: median(getattr(trace, kind)[stage] for trace in traces) for stage in getattr(traces[0], kind)}
        for kind in ("wall", "cpu")
    }


def ratio(times: dict[str, dict[str, dict[str, float]]], kind: str, stage: str = "total") -> float | None:
    """Published seconds over ours; None where our side has no such stage."""
    ours = times["ours"][kind].get(stage)
    return round(times["published"][kind][stage] / ours, 3) if ours else None


def print_table(times: dict[str, dict[str, dict[str, float]]]) -> None:
    """Prints one line a stage, wall and CPU seconds of each side, and how many times less CPU ours takes."""
    sides = list(times)
    print(f"{'':22}" + "".join(f"{side:>18}" for side in sides) + f"{'CPU ratio':>12}")
    print(f"{'stage':22}" + f"{'wall':>9}{'CPU':>9}" * len(sides))
    rows = [row for stage in STAGES for row in (stage, *(f"  {inner}" for inner in INNER_STAGES.get(stage, ())))]
    for row in (*rows, "total"):
        stage = row.strip()
        cells = [times[side][kind].get(stage) for side in sides for kind in ("wall", "cpu")]
        factor = ratio(times, "cpu", stage) if row == stage else None
        print(
            f"{row:22}"
            + "".join(f"{'-':>9}" if cell is None else f"{cell:9.3f}" for cell in cells)
            + (f"{factor:11.2f}x" if factor else "")
        )
    print("Ours enlarges masks inside panoptic, semantic and instances.")


def compare(segmenter: Segmenter, published: pipeline.Published, ours: dict[str, Any]) -> dict[str, Any]:
    """How far the two sides' results are apart."""
    result, instances = ours["panoptic"], ours["instances"]
    labels = class_indices(segmenter, np.array([s.class_id for s in result.segments], np.int64)).tolist()
    semantic = class_indices(segmenter, ours["semantic"])
    theirs = published.instances.scores.sort(descending=True).values.numpy()
    same_count = len(theirs) == len(instances)
    return {
        "panoptic_pixel_share": float((result.segment_map != published.segment_map.numpy()).mean()),
        "same_segments": labels == [record.category for record in published.segments],
        "segments": len(labels),
        "semantic_pixel_share": float((semantic != published.semantic.argmax(0).numpy()).mean()),
        "instances": [len(theirs), len(instances)],
        "mean_instance_score_difference": float(np.abs(theirs - instances.scores).mean()) if same_count else None,
    }


def compare_authors(published: pipeline.Published, authors: dict[str, Any]) -> dict[str, float]:
    """Shares of pixels on which the baseline and the authors' own code differ, printed too."""
    panoptic = authors["panoptic_seg"][0] != published.segment_map
    semantic = authors["sem_seg"].argmax(0) != published.semantic.argmax(0)
    shares = {
        "panoptic_pixel_share": float(panoptic.float().mean()),
        "semantic_pixel_share": float(semantic.float().mean()),
    }
    print(
        f"baseline and authors' code: panoptic pixels that differ {shares['panoptic_pixel_share']:.4%}, "
        f"semantic {shares['semantic_pixel_share']:.4%}"
    )
    return shares


def report(differences: dict[str, Any], *, is_judged: bool) -> bool | None:
    """Prints the differences; returns whether the results count as equal, None if they are not judged."""
    equal = (
        differences["panoptic_pixel_share"] <= LARGEST_PIXEL_SHARE
        and differences["semantic_pixel_share"] <= LARGEST_PIXEL_SHARE
        and differences["same_segments"]
        and (differences["mean_instance_score_difference"] or 0.0) <= LARGEST_SCORE_DIFFERENCE
        and differences["instances"][0] == differences["instances"][1]
    )
    verdict = "equal" if equal else "DIFFER"
    if not is_judged:
        verdict = "recorded, not judged: seeded weights amplify the rounding of short numbers (see accuracy.py)"
    print(
        f"results {verdict}: {differences['segments']} segments, panoptic pixels that differ "
        f"{differences['panoptic_pixel_share']:.4%}, semantic {differences['semantic_pixel_share']:.4%}, "
        f"instances {differences['instances'][0]} and {differences['instances'][1]}"
    )
    return equal if is_judged else None


def write_atomically(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text)
    os.replace(part, path)


if __name__ == "__main__":
    sys.exit(main())
