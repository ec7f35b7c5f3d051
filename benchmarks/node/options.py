#!/usr/bin/env python3
"""What a frame costs more with each of the node's optional outputs.

A picture of the bundled drive, labeled by the bundled model; CPU time outside the model, the options in turns.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from std_msgs.msg import Header

from benchmarks.lib import machine
from fcclip_core import PanopticResult, Segmenter
from fcclip_core.datasets.drive_recording import Recording
from fcclip_core.files.resources import config_path
from fcclip_core.simulation.names import world_vocabulary
from fcclip_ros.conversions.messages import mask_message, segments_message

FRAME = 20
"""Of the drive: with a dozen things in sight."""


def main() -> int:
    """Runs the program."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", default="640x480", metavar="WxH")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    result = labeled(width, height)
    costs = measure(parts(result), options.rounds)
    corners = [
        len(p.corners) // 2
        for item in segments_message(result, Header(), contour_type="polygons").segments
        for p in item.polygons
    ]
    found = {
        "machine": machine.describe(),
        "size": [width, height],
        "segments": len(result.segments),
        "polygons": len(corners),
        "corners": sum(corners),
        "cpu_ms": costs,
    }
    print(f"{width} x {height}, {len(result.segments)} segments in {len(corners)} parts, {sum(corners)} corners")
    for name, cost in costs.items():
        print(f"{name:44}{cost:8.2f} ms")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def labeled(width: int, height: int) -> PanopticResult:
    """A picture of the drive, labeled."""
    segmenter = Segmenter.from_checkpoint("demo", device="cpu")
    segmenter.set_vocabulary(world_vocabulary())
    image = Recording(config_path().parent / "demo" / "drive")[FRAME].image
    return segmenter(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR))


def parts(result: PanopticResult) -> dict[str, Callable[[], Any]]:
    """What is measured, by name."""
    ignored: np.ndarray = np.zeros(result.segment_map.shape, bool)
    ignored[-len(ignored) // 4 :] = True
    header, name = Header(), max(result.segments, key=lambda item: item.area).name
    return {
        "~/segments": lambda: segments_message(result, header),
        "~/segments, publish_contours: polygons": lambda: segments_message(result, header, contour_type="polygons"),
        "~/segments, publish_contours: rle": lambda: segments_message(result, header, contour_type="rle"),
        "one class of publish_masks": lambda: mask_message(result, name, header),
        "ignore_mask, a quarter of the image": lambda: result.without_pixels(ignored),
    }


def measure(made: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median CPU milliseconds of each, taken in turns."""
    times: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(rounds):
        for name, make in made.items():
            began = time.process_time()
            make()
            times[name].append(time.process_time() - began)
    return {name: 1e3 * float(np.median(row)) for name, row in times.items()}


if __name__ == "__main__":
    sys.exit(main())
