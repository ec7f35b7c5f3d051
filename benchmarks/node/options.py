#!/usr/bin/env python3
"""What each of the node's optional outputs adds to a frame's cost.

An image of the bundled drive, labeled by the bundled model; CPU time outside the model, the options in turns.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import cv2
import numpy as np
from std_msgs.msg import Header

from benchmarks.lib.arguments import make_parser
from benchmarks.lib.rates import timed
from benchmarks.lib.report import Report, print_table
from fcclip_core import PanopticResult, Segmenter
from fcclip_core.datasets.drive_recording import Recording
from fcclip_core.simulation.bundled_drive import bundled_drive
from fcclip_core.simulation.names import world_vocabulary
from fcclip_ros.conversions.messages import mask_message, segments_message

FRAME = 20
"""Of the drive: with a dozen things in sight."""


def main() -> int:
    """Measures and prints."""
    parser = make_parser(__doc__, "size")
    parser.add_argument("--rounds", type=int, default=100, help="of all options")
    args = parser.parse_args()
    report = Report("options")
    result = labeled(args.size)
    costs = measure(works(result), args.rounds)
    outlined = segments_message(result, Header(), contour_type="polygons").segments
    corners = [len(polygon.corners) // 2 for item in outlined for polygon in item.polygons]
    title = f"{len(result.segments)} segments in {len(corners)} parts, {sum(corners)} corners"
    print_table({"option": "", "CPU ms": ".2f"}, costs.items(), title)
    counts = {"segments": len(result.segments), "polygons": len(corners), "corners": sum(corners)}
    report.write(args.json, size=args.size, **counts, cpu_ms=costs)
    return 0


def labeled(size: tuple[int, int]) -> PanopticResult:
    """The drive's image at `size` (width, height), labeled."""
    segmenter = Segmenter.from_checkpoint("demo", device="cpu")
    segmenter.set_vocabulary(world_vocabulary())
    return segmenter(cv2.resize(Recording(bundled_drive())[FRAME].image, size, interpolation=cv2.INTER_LINEAR))


def works(result: PanopticResult) -> dict[str, Callable[[], Any]]:
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


def measure(works: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median CPU milliseconds of each, taken in turns."""
    seconds = [{name: timed(work, clock=time.process_time)[1] for name, work in works.items()} for _ in range(rounds)]
    return {name: 1e3 * median(row[name] for row in seconds) for name in works}


if __name__ == "__main__":
    sys.exit(main())
