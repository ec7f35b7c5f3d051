#!/usr/bin/env python3
"""What depth costs the node: time outside the model in each frame, and memory over many frames.

The node runs with a model that answers at once (the tests' fake one). Counted is what its stages leave: reading
messages, matching depth, 3D positions, cloud, messages, publishing. This process publishes image, depth and camera_info
and listens to segments and points.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from statistics import median
from typing import Any

import numpy as np

from benchmarks.lib.arguments import make_parser
from benchmarks.lib.node_process import CORE_STAGES, node_process, stream
from benchmarks.lib.report import Report, print_table, progress

WORDS = [f"word {number}" for number in range(11)]
"""A segment each; a frame of the simulated world has as many."""

CASES = {
    "2-D, segments": (False, ("segments",)),
    "depth, segments": (True, ("segments",)),
    "depth, segments and points": (True, ("segments", "points")),
}
"""Name -> use_depth, and the outputs that are listened to."""

_SIZE = (640, 480)
_MATRIX = np.array([[460.0, 0, 319.5], [0, 460, 239.5], [0, 0, 1]])


def main() -> int:
    """Runs all cases one after the other."""
    args = make_parser(__doc__, frames=2000, rate=15.0).parse_args()
    report = Report("depth_node")
    cases = {}
    for name, (use_depth, outputs) in CASES.items():
        progress(name)
        cases[name] = measure(args, use_depth, outputs)
    columns = {"case": "", "median ms": ".2f", "99th ms": ".2f", "CPU ms": ".2f", "MB after a fifth": ".0f"}
    print_table(columns | {"MB at the end": ".0f"}, ([name, *row.values()] for name, row in cases.items()))
    report.write(args.json, frames=args.frames, size=_SIZE, cases=cases)
    return 0


def measure(args: argparse.Namespace, use_depth: bool, outputs: tuple[str, ...]) -> dict[str, float]:
    """Runs a node and a camera until enough frames are labeled; the first fifth is warm-up."""
    parameters = {"checkpoint": "fake", "vocabulary": WORDS, "use_depth": use_depth}
    with node_process(parameters, program="benchmarks.lib.fake_node_process") as node:
        listener = node.camera
        listener.listen(outputs)
        camera = import_module("depth_camera").DepthCamera(listener)
        dice = np.random.default_rng(0)
        frame: dict[str, Any] = {"matrix": _MATRIX, "meters": dice.uniform(1.5, 1.6, _SIZE[::-1])}
        frame["pixels"] = dice.integers(1, 255, (*_SIZE[::-1], 3), dtype=np.uint8)
        with stream(args.rate, lambda: camera.publish(**frame)):
            listener.wait_for(
                lambda: len(listener.arrivals("segments")) >= args.frames and all(map(listener.arrivals, outputs)),
                300 + 5 * args.frames / args.rate,
                "the node labeled too few frames",
            )
        frames = list(node.finish().frames.values())[: args.frames]
    warm = frames[len(frames) // 5 :]
    outside = [1e3 * (item.stages["total"] - sum(item.stages[stage] for stage in CORE_STAGES)) for item in warm]
    return {
        "median_ms": median(outside),
        "p99_ms": float(np.percentile(outside, 99)),
        "cpu_ms": 1e3 * (warm[-1].cpu - warm[0].cpu) / (len(warm) - 1),
        "memory_early_mb": warm[0].resident / 1e6,
        "memory_end_mb": warm[-1].resident / 1e6,
    }


if __name__ == "__main__":
    sys.exit(main())
