#!/usr/bin/env python3
"""How long a frame takes, by stage and backend, and what share of the machine's limit that is.

Backends take turns on one image with the same seeded weights, and each stage's median counts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks.lib.arguments import make_parser
from benchmarks.lib.clocks import DeviceTrace, clocks, decoding_places, medians, network_places
from benchmarks.lib.rates import machine_rates
from benchmarks.lib.report import Report, arguments_of, print_table, say
from benchmarks.lib.work import STAGES, gflop_by_stage
from benchmarks.speed.against_published import read_image, reference_words
from fcclip_core import InferenceSettings, Segmenter, load_checkpoint
from fcclip_core.backends import create_backend
from fcclip_core.backends.interface import Network
from fcclip_core.devices import resolve_device
from fcclip_core.errors import FcclipError
from fcclip_core.inference.preprocess import FrameGeometry
from fcclip_core.model.fcclip import ModelOutput
from oracle.observe import vocabulary_of

ROWS = ("preprocess", "network", *STAGES, "classify", "merge", "total")


def main() -> None:
    """Measures and prints."""
    parser = make_parser(
        __doc__, "preset", "device", "repeat", "image", backends=["eager", "auto"], shorter_side=800, threads=1
    )
    parser.add_argument("--quick", action="store_true", help="measure the machine's limits quickly and badly")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = resolve_device(args.device)
    report = Report("speed")
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
            say(f"{name} is left out: {error}")
    for repetition in range(args.repeat + 1):
        for measured in backends.values():
            # The first round only warms caches and memory up.
            measured.run(image, keep=repetition > 0)
    ways = {name: measured.record(gflop, rates, backends) for name, measured in backends.items()}
    say(
        f"{args.preset}, {image.shape[1]}x{image.shape[0]}, input {width}x{height}, {len(names)} classes, "
        f"{torch.get_num_threads()} threads; medians of {args.repeat}"
    )
    show(ways, gflop, "wall" if device.type == "cuda" else "cpu")
    for name, way in ways.items():
        say(f"{name}: {way['backend']}; other segments than {args.backends[0]}: {way['pixels_apart']:.3%}")
    report.write(
        args.json,
        **arguments_of(args, "preset"),
        image=image.shape[:2],
        input=[height, width],
        rates=rates,
        gflop=gflop,
        repetitions=args.repeat,
        ways=ways,
    )


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
        """Creates a backend and prepares it for images of `size` (height, width).

        Raises:
            FcclipError: It is not available here.
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
        segmenter = self._segmenter
        segmenter._backend = self  # type: ignore[assignment]
        places = [
            (segmenter, "_preprocess", "preprocess"),
            *decoding_places(segmenter, "classify", "merge"),
            *network_places(segmenter._model),
        ]
        with clocks(places, self._trace), self._trace.stage("total"):
            self.segment_map = segmenter(image).segment_map
        if keep:
            self._traces.append(self._trace)

    def record(
        self, gflop: dict[str, float], rates: dict[str, dict[str, float]], others: dict[str, Measured]
    ) -> dict[str, Any]:
        """Median seconds by stage; GFLOP/s and share of the machine's matmul rate where arithmetic was counted."""
        seconds = medians(self._traces)
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


def show(ways: dict[str, dict[str, Any]], gflop: dict[str, float], kind: str) -> None:
    """Prints a row for each stage: GFLOP; milliseconds of `kind` and share of the matmul rate of each way."""
    counted = gflop | {"network": sum(gflop.values())}
    unit = "ms" if kind == "wall" else "CPU ms"
    columns = {"stage": "", "GFLOP": ".1f"} | {f"{name}, {unit}": ".1f" for name in ways}
    rows = []
    for row in ROWS:
        times = [way["seconds"][kind].get(row) for way in ways.values()]
        shares = [way["share_of_matmul"].get(row) for way in ways.values()]
        rows.append([row, counted.get(row), *(time and 1e3 * time for time in times), *shares])
    print_table(columns | {f"{name}, share": ".0%" for name in ways}, rows)


if __name__ == "__main__":
    main()
