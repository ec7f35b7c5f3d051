#!/usr/bin/env python3
"""Our inference against the published order of operations: stage by stage, in one run, with equal results.

The baseline is the tests' oracle (test/oracle): ten full prediction heads, grid_sample, all masks enlarged twice, one
segment after the other. Both sides start from the same seeded weights and give panoptic, semantic and instance results.
They take turns, and each stage's median counts.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import nn

from benchmarks.lib.arguments import make_parser
from benchmarks.lib.authors_code import AuthorsCode, CannotRun
from benchmarks.lib.clocks import clocks, decoding_places, medians
from benchmarks.lib.report import Report, arguments_of, print_table, progress, say
from checkout import REFERENCE
from fcclip_core import InferenceSettings, Segmenter, load_checkpoint
from fcclip_core.backends.fallback import FallbackBackend
from fcclip_core.backends.onednn import OneDnnBackend
from fcclip_core.backends.reference import CheckedBackend
from oracle import pipeline
from oracle.goldens import injected_rows, spec, split_synonyms
from oracle.observe import class_indices, vocabulary_of
from oracle.trace import Trace

STAGES = (
    *("preprocess", "backbone", "pixel decoder", "mask decoder", "classification"),
    *("enlarge masks", "panoptic", "semantic", "instances"),
)
INNER_STAGES = {"pixel decoder": ("deformable encoder",), "mask decoder": ("prediction heads", "mask pooling")}
LARGEST_PIXEL_SHARE = 0.001
LARGEST_SCORE_DIFFERENCE = 1e-3


def main() -> int:
    """Runs the comparison.

    Returns:
        0, or 1 if the two sides give different results in float32.
    """
    # CPU seconds compare best with one thread.
    parser = make_parser(__doc__, "preset", "backend", "precision", "image", shorter_side=800, threads=1, repeat=3)
    parser.add_argument("--reference", type=Path, help="checkout of bytedance/fc-clip: runs the authors' own code too")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    report = Report("against_published")
    image = read_image(args.image)
    settings = InferenceSettings(shorter_side=args.shorter_side, num_threads=args.threads)
    checkpoint = load_checkpoint(f"recipe:{args.preset}")
    words, names = reference_words(checkpoint.config.embed_dim)
    ours = Segmenter(checkpoint, device="cpu", backend=args.backend, precision=args.precision, settings=settings)
    ours.set_vocabulary(vocabulary_of(words, names), text_embeddings=words.rows)

    def run_published(trace: Trace) -> pipeline.Published:
        with trace.stage("total"):
            return pipeline.segment(checkpoint.state, checkpoint.config, image, words, settings, trace)

    traces: dict[str, list[Trace]] = {"published": [], "ours": []}
    runs: dict[str, Callable[[Trace], Any]] = {
        "published": run_published,
        "ours": lambda trace: run_ours(ours, image, trace),
    }
    if args.reference:
        try:
            authors = AuthorsCode(args.reference, checkpoint, words, names, settings)
        except CannotRun as reason:
            progress(f"the authors' code is left out: {reason}")
        else:
            runs["authors"], traces["authors"] = lambda trace: authors.run(image, trace), []
    results = {}
    for repetition in range(args.repeat + 1):
        for side, run in runs.items():
            trace = Trace(keep=False)
            results[side] = run(trace)
            # The first round only warms caches and memory up.
            traces[side] += [trace] if repetition else []
            progress(f"{side} {repetition}/{args.repeat}: {trace.cpu['total']:.2f} CPU s")

    height, width = pipeline.resized_size(image.shape[0], image.shape[1], settings)
    say(
        f"{args.preset}, {image.shape[1]}x{image.shape[0]} resized to {width}x{height}, {len(names)} classes, "
        f"{args.threads} threads, published in float32, ours {ours.backend_description}; medians of "
        f"{args.repeat}, in seconds"
    )
    times = {side: medians(traces[side]) for side in traces}
    show(times)
    differences = compare(ours, results["published"], results["ours"])
    is_short = re.search(r"\b(bf16|fp16|bfloat16|float16)\b", ours.backend_description)
    equal = judge(differences, is_judged=not is_short)
    if "authors" in results:
        differences["authors"] = compare_authors(results["published"], results["authors"])
    report.write(
        args.json,
        **arguments_of(args, "preset"),
        image=image.shape[:2],
        resized=[height, width],
        backend=ours.backend_description,
        repetitions=args.repeat,
        seconds=times,
        cpu_seconds_ratio=ratio(times, "cpu"),
        wall_seconds_ratio=ratio(times, "wall"),
        differences=differences,
        equal=equal,
    )
    return 1 if equal is False else 0


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


def run_ours(segmenter: Segmenter, image: np.ndarray, trace: Trace) -> dict[str, Any]:
    """Panoptic result, semantic map and instances, with a clock at every stage that the published order has too."""
    model: Any = running_network(segmenter)
    decoder = getattr(model.mask_decoder, "decoder", model.mask_decoder)
    places = [
        (segmenter, "_preprocess", "preprocess"),
        (model.backbone, "forward", "backbone"),
        (model.pixel_decoder, "forward", "pixel decoder"),
        *((layer, "forward", "deformable encoder") for layer in model.pixel_decoder.layers),
        (model.mask_decoder, "forward", "mask decoder"),
        (decoder, "_attention_mask", "prediction heads"),
        (decoder, "predict", "prediction heads"),
        (model.backbone, "embed_masks", "classification"),
        *decoding_places(segmenter, "classification", "panoptic"),
    ]
    with clocks(places, trace), trace.stage("total"):
        result = segmenter(image)
        with trace.stage("semantic"):
            semantic = result.semantic_map()
        with trace.stage("instances"):
            instances = result.instances()
    return {"panoptic": result, "semantic": semantic, "instances": instances}


def running_network(segmenter: Segmenter) -> nn.Module:
    """The modules that run: oneDNN's are a copy of the segmenter's own."""
    backend: Any = segmenter._backend
    if isinstance(backend, FallbackBackend):
        backend = backend._last_used.backend
    if isinstance(backend, CheckedBackend):
        backend = backend._backend
    return backend._network if isinstance(backend, OneDnnBackend) else segmenter._model


def ratio(times: dict[str, dict[str, dict[str, float]]], kind: str, stage: str = "total") -> float | None:
    """Published seconds over ours; None where our side has no such stage."""
    ours = times["ours"][kind].get(stage)
    return round(times["published"][kind][stage] / ours, 3) if ours else None


def show(times: dict[str, dict[str, dict[str, float]]]) -> None:
    """Prints a row for each stage: wall and CPU seconds of each side, and published CPU seconds over ours."""
    columns = {"stage": ""} | {f"{side}, {kind}": ".3f" for side in times for kind in ("wall", "CPU")}
    rows = []
    for stage in (*STAGES, "total"):
        for row in (stage, *INNER_STAGES.get(stage, ())):
            seconds = [times[side][kind].get(row) for side in times for kind in ("wall", "cpu")]
            rows.append([row, *seconds, ratio(times, "cpu", row) if row == stage else ""])
    print_table(columns | {"CPU ratio": ".2f"}, rows)
    say("Ours enlarges masks inside panoptic, semantic and instances.")


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
    say(
        f"baseline and authors' code: panoptic pixels that differ {shares['panoptic_pixel_share']:.4%}, "
        f"semantic {shares['semantic_pixel_share']:.4%}"
    )
    return shares


def judge(differences: dict[str, Any], *, is_judged: bool) -> bool | None:
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
    say(
        f"results {verdict}: {differences['segments']} segments, panoptic pixels that differ "
        f"{differences['panoptic_pixel_share']:.4%}, semantic {differences['semantic_pixel_share']:.4%}, "
        f"instances {differences['instances'][0]} and {differences['instances'][1]}"
    )
    return equal if is_judged else None


if __name__ == "__main__":
    sys.exit(main())
