"""What only a GPU can tell, in one run: that its paths give the right answers, and then how fast they are.

`gpu.sh` beside this folder prepares a bare machine and runs this. Parts run in order of importance. One that fails is
recorded and the next begins; one for which no time is left is recorded as skipped.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.kernels import check_frames, check_kernels, check_network_kernels
from benchmarks.gpu.parts import NoTime, Part, read_record, supervise
from benchmarks.gpu.run import Run, exact_answer, fastest_sampler, gpu_software
from benchmarks.gpu.ways import (
    check_capture,
    compiled,
    compute_reference,
    eager,
    profile_network,
    time_batch,
    time_published,
    time_tensorrt,
    time_way,
)
from benchmarks.lib import machine, product
from benchmarks.lib.arguments import make_parser
from benchmarks.lib.rates import machine_rates
from benchmarks.lib.report import print_table
from benchmarks.lib.work import gflop_by_stage
from benchmarks.speed.against_published import read_image, reference_words
from benchmarks.speed.training_step import measure
from fcclip_core import InferenceSettings, load_checkpoint
from fcclip_core.backends.interface import Network
from fcclip_core.model.deformable_attention import sample_by_grid
from fcclip_core.weights.checkpoints import load_model

_UNUSABLE = 3
"""Exit status of a process whose GPU no longer responds."""


def main() -> int:
    """Runs all parts.

    Returns:
        0, or 1 if an answer was wrong or a part failed; 2 without a GPU.
    """
    parser = make_parser(__doc__, preset=None, shorter_side=None)
    parser.add_argument("--budget", type=float, default=540, help="seconds for everything")
    parser.add_argument("--parts", nargs="+", help="only these")
    parser.add_argument("--dry-run", action="store_true", help="tiny model on the CPU: check that everything runs")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not torch.cuda.is_available() and not args.dry_run:
        print("torch finds no GPU here; --dry-run shows on a CPU that the program works", file=sys.stderr)
        return 2
    if args.work:
        return work(args)
    chosen = [part for part in PARTS if part.name in (args.parts or [part.name])]
    with tempfile.TemporaryDirectory() as folder:
        out = args.json or Path(folder) / "gpu.json"
        try:
            found = supervise(chosen, out, args.budget, dry=args.dry_run)
        except RuntimeError as error:
            print(error, file=sys.stderr)
            return 1
    show(found)
    if found["wrong"]:
        print(f"WRONG: {', '.join(found['wrong'])}", file=sys.stderr)
    return 1 if found["wrong"] else 0


def work(args: argparse.Namespace) -> int:
    """Runs parts, and goes on with the record that another process began.

    Returns:
        0, or `_UNUSABLE` if the GPU no longer responds: after an illegal access everything fails.
    """
    run = prepare(args, time.monotonic() + args.budget)
    print(machine.headline(run.found["machine"]))
    for part in PARTS:
        if part.name in args.parts:
            run.measure(part)
            if not run.answers_still():
                return _UNUSABLE
    return 0


def prepare(args: argparse.Namespace, deadline: float) -> Run:
    """Loads the model and describes the machine."""
    preset = args.preset or ("tiny" if args.dry_run else "convnext_large")
    side = args.shorter_side or (64 if args.dry_run else 800)
    device = torch.device("cpu" if args.dry_run else "cuda")
    checkpoint = load_checkpoint(f"recipe:{preset}")
    config = checkpoint.config
    settings = InferenceSettings(shorter_side=side, valid_mask_only=config.valid_mask_only)
    words, _ = reference_words(config.embed_dim)
    image = read_image(None)
    image = np.ascontiguousarray(image[::6, ::6]) if args.dry_run else image
    run = Run(
        device=device,
        settings=settings,
        image=image,
        model=load_model(checkpoint),
        words=words,
        state=checkpoint.state,
        is_dry=args.dry_run,
        deadline=deadline,
        out=args.json,
    )
    height, width = run.geometry.padded
    before = read_record(args.json)
    run.wrong = before.get("wrong", [])
    if before.get("parts", {}).get("reference", {}).get("status") == "done":
        run.reference = exact_answer(run)
    run.found |= before | {
        "program": "gpu",
        "dry_run": args.dry_run,
        "machine": machine.describe() | gpu_software(),
        "preset": preset,
        "image": list(image.shape[:2]),
        "input": [height, width],
        "classes": len(words.synonym_counts),
        "gflop": gflop_by_stage(config, 1, height, width),
    }
    return run


def measure_rates(run: Run) -> None:
    """The machine's own limits."""
    run.found["rates"] = rates = machine_rates(run.device, small=run.is_dry)
    for kind, values in rates.items():
        print(f"  {kind}: " + ", ".join(f"{name} {value / 1e12:.4g} T/s" for name, value in values.items()))


def use_product(run: Run) -> None:
    """The public API, with the bundled model and with a large one."""
    small = replace(run.settings, shorter_side=96) if run.is_dry else InferenceSettings()
    chosen = {"demo": small, f"recipe:{run.model.config.name}": run.settings}
    for checkpoint, settings in chosen.items():
        found = product.use(checkpoint, run.image, settings, device=run.device.type, repeat=run.repeat)
        run.found.setdefault("product", {})[checkpoint] = found
        print(f"  {checkpoint}: {found['frame_ms']:.2f} ms a frame; {found['description']} {found['problem']}")
        # Seeded weights give masks without margins: there rounding moves many pixels.
        binding = checkpoint == "demo"
        for nth, apart in enumerate(found["classes_apart"]):
            run.verdict(f"{checkpoint}, words {nth}, classes apart", apart, 0.02, binding=binding)
        run.verdict(f"{checkpoint}, pairs apart", found["pair_apart"], 0.02, binding=binding)


def time_training(run: Run) -> None:
    """Steps of the full recipe, at as many images as fit."""
    options = {"preset": run.model.config.name, "precision": "auto", "train_backbone": False}
    batch, crop, steps = (1, 64, 1) if run.is_dry else (16, 1024, 3)
    run.model.to("cpu")
    while batch:
        if run.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            found = measure(argparse.Namespace(**options, crop=crop, batch_size=batch, steps=steps), run.device)
        except torch.OutOfMemoryError:
            print(f"  {batch} images do not fit", flush=True)
            batch //= 2
            continue
        run.found["training"] = found
        print(f"  {batch} images of {crop}: {found['images_per_second']:.2f} a second, {found['peak_gib']:.1f} GiB")
        return
    raise NoTime("not one image fits into memory")


def show(found: Mapping[str, Any]) -> None:
    """Prints a row for each way."""
    ways = found.get("ways", {})
    published = ways.get("published fp32", {}).get("frame_ms")
    columns = dict.fromkeys(("way", "network", "frame", "times published", "share of matmul", "GiB"), ".3g")
    rows = []
    for name, way in ways.items():
        faster = published / way["frame_ms"] if published and "frame_ms" in way else None
        cells = (way.get("network_ms"), way.get("frame_ms"), faster, way.get("share_of_matmul"), way.get("peak_gib"))
        rows.append((name, *cells))
    print_table(columns, rows, f"{found['preset']}, input {found['input'][0]}x{found['input'][1]}, milliseconds")
    if found["dry_run"]:
        print("dry run: nothing was measured, everything ran")


def _way(name: str, needs_s: float, make: Callable[[Run], Network], *, like_another: bool = False) -> Part:
    """The part that times a way; the last word of its name is the precision."""
    return Part(name, needs_s, lambda run: time_way(run, name, name.split()[-1], make), like_another)


PARTS = (
    Part("rates", 10, measure_rates),
    Part("kernels", 30, check_kernels),
    Part("network kernels", 20, check_network_kernels),
    Part("frames", 15, check_frames),
    Part("reference", 20, compute_reference),
    Part("capture", 20, check_capture),
    _way("graph bf16", 20, lambda run: compiled(run, "bf16", None)),
    _way("compiled bf16", 120, lambda run: compiled(run, "bf16")),
    Part("profile", 100, profile_network, like_another=True),
    Part("product", 200, use_product),
    Part("training", 60, time_training),
    Part("published", 30, time_published),
    _way("eager fp32", 20, lambda run: eager(run, "fp32", sample_by_grid)),
    _way("eager bf16", 15, lambda run: eager(run, "bf16", sample_by_grid)),
    _way("Triton bf16", 15, lambda run: eager(run, "bf16", fastest_sampler(run))),
    _way("compiled fp16", 90, lambda run: compiled(run, "fp16"), like_another=True),
    Part("batch of 4", 100, time_batch, like_another=True),
    Part("tensorrt fp16", 150, time_tensorrt),
)

if __name__ == "__main__":
    sys.exit(main())
