#!/usr/bin/env python3
"""How long a frame takes, stage by stage and backend by backend, and what share of the machine's limit that is.

Backends take turns on one image with the same seeded weights, and each stage's median counts.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.lib import machine
from benchmarks.lib.clocks import DeviceTrace, clocks, decoding_places
from benchmarks.lib.rates import PRECISIONS, machine_rates
from benchmarks.lib.work import STAGES, gflop_by_stage
from benchmarks.speed.against_published import read_image, reference_words
from fcclip_core import InferenceSettings, Segmenter, load_checkpoint
from fcclip_core.backends import BACKENDS, create_backend
from fcclip_core.backends.interface import Network
from fcclip_core.devices import resolve_device
from fcclip_core.errors import FcclipError
from fcclip_core.files.atomic_write import atomic_write
from fcclip_core.inference.preprocess import FrameGeometry
from fcclip_core.model.config import PRESETS
from fcclip_core.model.fcclip import ModelOutput
from oracle.observe import vocabulary_of

ROWS = ("preprocess", "network", *STAGES, "classify", "merge", "total")


def main() -> None:
    """Measures and prints."""
    args = parse_arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = resolve_device(args.device)
    here = machine.describe()
    console = Console(highlight=False, soft_wrap=True)
    console.print(machine.headline(here))
    rates = machine_rates(device, small=args.quick)
    image = read_image(args.image)
    checkpoint = load_checkpoint(f"recipe:{args.preset}")
    settings = InferenceSettings(shorter_side=args.shorter_side, num_threads=args.threads)
    words, names = reference_words(checkpoint.config.embed_dim)
    segmenter = Segmenter(checkpoint, device=args.device, backend="eager", settings=settings)
    segmenter.set_vocabulary(vocabulary_of(words, names), text_embeddings=words.rows)
    height, width = FrameGeometry.of(image.shape[0], image.shape[1], settings).padded
    gflop = gflop_by_stage(checkpoint.config, 1, height, width)

    backends: dict[str, Measured] = {}
    for name in args.backends:
        try:
            backends[name] = Measured.of(name, segmenter, (height, width))
        except FcclipError as error:
            console.print(f"{name} is left out: {error}")
    for repetition in range(args.repeat + 1):
        for measured in backends.values():
            # The first round only warms caches and memory up.
            measured.run(image, keep=repetition > 0)
    ways = {name: measured.record(gflop, rates, backends) for name, measured in backends.items()}
    console.print(
        f"{args.preset}, {image.shape[1]}x{image.shape[0]}, input {width}x{height}, {len(names)} classes, "
        f"{torch.get_num_threads()} threads; medians of {args.repeat}"
    )
    kind = "wall" if device.type == "cuda" else "cpu"
    console.print(stage_table(ways, gflop, kind))
    for name, way in ways.items():
        console.print(f"{name}: {way['backend']}; other segments than {args.backends[0]}: {way['pixels_apart']:.3%}")
    if args.json:
        record = {"program": "speed", "machine": here, "preset": args.preset, "image": list(image.shape[:2])}
        record |= {"input": [height, width], "rates": rates, "gflop": gflop, "repetitions": args.repeat, "ways": ways}
        with atomic_write(args.json) as part:
            part.write_text(json.dumps(record, indent=1) + "\n")


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--preset", default="convnext_large", choices=sorted(PRESETS), help="model, seeded weights")
    parser.add_argument(
        "--backends",
        nargs="+",
        default=["eager", "auto"],
        type=backend_name,
        metavar="NAME[:PRECISION]",
        help=f"of {', '.join(BACKENDS)}; with a precision, {', '.join(PRECISIONS)}",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--shorter-side", type=int, default=800, help="test-time size in pixels")
    parser.add_argument("--threads", type=int, default=1, help="torch threads; 0 leaves torch's choice")
    parser.add_argument("--repeat", type=int, default=5, help="measured repetitions, after one to warm up")
    parser.add_argument("--image", type=Path, help="photograph; default: the reference's 640x480 one")
    parser.add_argument("--quick", action="store_true", help="measure the machine's limits in an instant, badly")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result here")
    return parser.parse_args()


def backend_name(text: str) -> str:
    """A backend, or a backend and a precision.

    Raises:
        argparse.ArgumentTypeError: It is not one.
    """
    name, _, precision = text.partition(":")
    if name not in BACKENDS or precision not in ("", *PRECISIONS):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not one of {', '.join(BACKENDS)}, or one of them with a precision"
        )
    return text


class Measured:
    """A backend inside the segmenter, with a clock at every stage."""

    def __init__(self, segmenter: Segmenter, backend: Network, precision: str) -> None:
        """Takes a segmenter whose vocabulary is set; its backend is exchanged for each run."""
        self.device, self.description = backend.device, backend.description
        self._segmenter, self._backend, self._precision = segmenter, backend, precision
        self._traces: list[DeviceTrace] = []
        self._trace = DeviceTrace(keep=False, device=backend.device)
        self.segment_map = np.zeros((0, 0), np.int32)

    @classmethod
    def of(cls, name: str, segmenter: Segmenter, size: tuple[int, int]) -> Measured:
        """Makes a backend and has it prepare for images of `size`.

        Raises:
            FcclipError: It cannot be had here.
        """
        kind, _, precision = name.partition(":")
        backend = create_backend(kind, segmenter._model, segmenter.device, precision=precision or "auto")
        backend.prepare(1, *size)
        return cls(segmenter, backend, precision or "fp32")

    def __call__(self, image: torch.Tensor) -> ModelOutput:
        """The network with a clock around it; see `Network`."""
        with self._trace.stage("network"):
            return self._backend(image)

    def run(self, image: np.ndarray, *, keep: bool) -> None:
        """Segments one image."""
        self._trace = DeviceTrace(keep=False, device=self.device)
        segmenter, model = self._segmenter, self._segmenter._model
        segmenter._backend = self  # type: ignore[assignment]
        places = [
            (segmenter, "_preprocess", "preprocess"),
            *decoding_places(segmenter, "classify", "merge"),
            # These run in eager PyTorch alone: another backend has the network in one piece.
            (model.backbone, "forward", "backbone"),
            (model.pixel_decoder, "forward", "pixel decoder"),
            (model.mask_decoder, "forward", "mask decoder"),
            (model.backbone, "embed_masks", "mask embedding"),
        ]
        with clocks(places, self._trace), self._trace.stage("total"):
            self.segment_map = segmenter(image).segment_map
        if keep:
            self._traces.append(self._trace)

    def record(
        self, gflop: dict[str, float], rates: dict[str, dict[str, float]], others: dict[str, Measured]
    ) -> dict[str, Any]:
        """Median seconds by stage; GFLOP/s and share of the machine's matmul rate where arithmetic was counted."""
        seconds = {
            kind: {name: median(getattr(trace, kind)[name] for trace in self._traces) for name in self._trace.wall}
            for kind in ("wall", "cpu")
        }
        counted = gflop | {"network": sum(gflop.values())}
        limit = rates["matmul"].get(self._precision)
        timed = [name for name in seconds["wall"] if name in counted] if limit else []
        shares = {name: counted[name] * 1e9 / seconds["wall"][name] / limit for name in timed if limit}
        first = next(iter(others.values()))
        return {
            "backend": self._backend.description,
            "precision": self._precision,
            "seconds": seconds,
            "share_of_matmul": shares,
            "pixels_apart": float((self.segment_map != first.segment_map).mean()),
        }


def stage_table(ways: dict[str, dict[str, Any]], gflop: dict[str, float], kind: str) -> Table:
    """A row a stage: GFLOP; milliseconds and share of the matmul rate of each way."""
    counted = gflop | {"network": sum(gflop.values())}
    unit = "ms" if kind == "wall" else "CPU ms"
    table = Table("stage", "GFLOP", *(f"{name}, {unit}" for name in ways), *(f"{name}, share" for name in ways))
    for row in ROWS:
        times = [way["seconds"][kind].get(row) for way in ways.values()]
        shares = [way["share_of_matmul"].get(row) for way in ways.values()]
        table.add_row(
            row,
            f"{counted[row]:.1f}" if row in counted else "",
            *("-" if cell is None else f"{1e3 * cell:.1f}" for cell in times),
            *("-" if cell is None else f"{cell:.0%}" for cell in shares),
        )
    return table


if __name__ == "__main__":
    main()
