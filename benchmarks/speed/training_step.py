"""How long one training step takes, and how much memory it needs.

Weights are the seeded ones and images are drawn, so that nothing is downloaded; neither changes the cost.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.lib.arguments import make_parser
from benchmarks.lib.rates import wait
from benchmarks.lib.report import Report, print_table
from fcclip_core.datasets.records import ClassList, PanopticSample, TruthSegment
from fcclip_core.devices import resolve_device
from fcclip_core.training.config import PRECISIONS, TrainingConfig
from fcclip_core.training.sampling import batches
from fcclip_core.training.trainer import Trainer
from fcclip_core.weights.checkpoints import load_checkpoint

SEGMENTS = 11
"""COCO panoptic has about that many in an image."""


class DrawnImages:
    """Noise with segments of random classes in stripes, 640 x 480."""

    name = "drawn images"

    def __init__(self, length: int, things: tuple[bool, ...]) -> None:
        """Makes as many as the benchmark needs, all different."""
        self._length = length
        self.classes = ClassList((), things)

    def __len__(self) -> int:
        """Number of images."""
        return self._length

    def __getitem__(self, index: int) -> PanopticSample:
        """Draws an image."""
        random = np.random.default_rng(index)
        image = random.integers(0, 256, (480, 640, 3), np.uint8)
        segment_map = np.broadcast_to(np.arange(640, dtype=np.int32) * SEGMENTS // 640 + 1, (480, 640)).copy()
        labels = random.integers(0, len(self.classes), SEGMENTS).tolist()
        return PanopticSample(str(index), image, segment_map, tuple(map(TruthSegment, range(1, SEGMENTS + 1), labels)))


def main() -> None:
    """Measures and prints."""
    parser = make_parser(__doc__, "preset", "device", "threads")
    parser.add_argument("--crop", type=int, default=1024, help="side of the images in pixels; the paper's default")
    parser.add_argument("--batch-size", type=int, default=1, help="images per step; the paper has 16")
    parser.add_argument("--steps", type=int, default=2, help="steps to measure, after one to warm up")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto", help="of the forward pass")
    parser.add_argument("--train-backbone", action="store_true", help="train CLIP's image tower too")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    report = Report("training_step")
    result = measure(args, resolve_device(args.device))
    columns = {"preset": "", "crop": "", "batch_size": "", "precision": "", "seconds": ".2f", "cpu_seconds": ".2f"}
    columns |= {"images_per_second": ".3f", "peak_gib": ".1f", "memory_of": ""}
    print_table(columns, [[result[name] for name in columns]])
    report.write(args.json, **result)


def measure(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Times `args.steps` steps after one to warm up; seconds, and the peak of memory in GiB."""
    checkpoint = load_checkpoint(f"recipe:{args.preset}")
    vocabulary = checkpoint.train_vocabulary
    paper = TrainingConfig()
    config = replace(
        paper,
        steps=args.steps + 1,
        batch_size=args.batch_size,
        precision=args.precision,
        train_backbone=args.train_backbone,
        augmentation=replace(paper.augmentation, crop=args.crop),
        loader_processes=0,
    )
    rows = torch.randn(
        len(vocabulary.synonyms), checkpoint.config.embed_dim, generator=torch.Generator().manual_seed(0)
    )
    images = DrawnImages(config.steps * config.batch_size, vocabulary.things)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config, checkpoint, images, Path(folder), device=device, text_rows=F.normalize(rows, dim=-1))
        seconds, cpu_seconds, losses = [], [], []
        for batch in batches(images, config, 0):
            start, cpu_start = time.perf_counter(), time.process_time()
            found, _ = trainer.make_step(batch)
            wait(device)
            seconds.append(time.perf_counter() - start)
            cpu_seconds.append(time.process_time() - cpu_start)
            losses.append(found.total.item())
    median = statistics.median(seconds[1:])
    on_gpu = device.type == "cuda"
    peak = (
        torch.cuda.max_memory_allocated(device) if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    return {
        "preset": args.preset,
        "crop": args.crop,
        "batch_size": args.batch_size,
        "train_backbone": args.train_backbone,
        "precision": ("bfloat16" if on_gpu else "float32") if args.precision == "auto" else args.precision,
        "seconds": median,
        "seconds_each": seconds,
        "cpu_seconds": statistics.median(cpu_seconds[1:]),
        "images_per_second": args.batch_size / median,
        "peak_gib": peak / 2**30,
        "memory_of": "GPU, allocated" if on_gpu else "process, resident",
        "losses": losses,
    }


if __name__ == "__main__":
    main()
