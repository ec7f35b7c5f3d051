#!/usr/bin/env python3
"""How far are the 3D positions of segments from the truth?

Drives through the simulated world with the bundled model, with ideal depth, with noisy depth, and with depth that
bleeds over edges.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from benchmarks.lib.arguments import MODEL, make_parser, make_segmenter
from benchmarks.lib.depth_noise import NOISE, noisy
from benchmarks.lib.rates import timed
from benchmarks.lib.report import Report, arguments_of, print_table, progress, say
from benchmarks.lib.world import drive_frames
from fcclip_core.geometry.camera import PinholeCamera
from fcclip_core.geometry.cloud import organized_cloud
from fcclip_core.geometry.depth import depth_in_meters
from fcclip_core.geometry.segments import SegmentGeometry, segment_geometry
from fcclip_core.results import PanopticResult
from fcclip_core.simulation.frames import Frame
from fcclip_core.simulation.names import world_vocabulary

NEAREST, FARTHEST = 1.0, 4.0
"""Meters from the camera to the true centroids that count."""

MATCH_IOU = 0.5
KINDS = ("room", "yard", "table")
FRAMES_A_DRIVE = 25

BLEEDING = (
    "as noisy; before that, within 3 px of a depth step of 5 %, anything from the nearer to the farther side, the same "
    "for 8 x 8 px"
)

DEPTHS = ("ideal", "noisy", "bleeding")


@dataclass
class Errors:
    """Errors of things that were segmented right.

    Attributes:
        centroid: Meters between the centroids of what was published and of the true visible surface.
        extents: Relative errors of the three sides of the box along the camera's axes, a row a thing.
        missing: Things that were segmented right but have no 3D position.
    """

    centroid: list[float] = field(default_factory=list)
    extents: list[np.ndarray] = field(default_factory=list)
    missing: int = 0

    def add(self, place: SegmentGeometry | None, truth: np.ndarray) -> None:
        """Compares a position with the points `(N, 3)` of the true surface, meters."""
        if place is None:
            self.missing += 1
            return
        self.centroid.append(float(np.linalg.norm(place.centroid - truth.mean(axis=0))))
        self.extents.append(place.extents / np.ptp(truth, axis=0) - 1)

    def report(self) -> dict[str, Any]:
        """The figures."""
        if not self.centroid:
            return {"things": 0, "missing": self.missing}
        extents = np.abs(self.extents)
        return {
            "things": len(self.centroid),
            "missing": self.missing,
            "centroid_median_m": float(np.median(self.centroid)),
            "centroid_p90_m": float(np.percentile(self.centroid, 90)),
            "extents_median": float(np.median(extents)),
            "extents_median_xyz": np.median(extents, axis=0).tolist(),
            "extents_bias_xyz": np.median(self.extents, axis=0).tolist(),
        }


def main() -> int:
    """Runs the program; exit status 1 if a target is missed."""
    args = parse_arguments()
    report = Report("depth")
    segmenter = make_segmenter(args)
    segmenter.set_vocabulary(world_vocabulary())
    dice, bleeding_dice = np.random.default_rng(args.seed), np.random.default_rng(args.seed + 1)
    errors: dict[str, Errors] = defaultdict(Errors)
    costs: dict[str, list[float]] = defaultdict(list)

    def cpu(name: str, work: Callable[..., Any], *given: Any) -> Any:
        answer, seconds = timed(work, *given, clock=time.process_time)
        costs[name].append(seconds)
        return answer

    for number, frame in enumerate(drives(args), 1):
        result, camera = segmenter(frame.image), camera_of(frame)
        things = list(right_things(frame, result, camera))
        bled = bleeding(frame.depth, bleeding_dice)
        depths = frame.depth, noisy(frame.depth, camera, dice), noisy(bled, camera, bleeding_dice)
        for name, raw in zip(DEPTHS, depths, strict=True):
            depth = cpu("meters", depth_in_meters, raw, args.size)
            cpu("cloud", organized_cloud, frame.image, depth, camera, result)
            for erosion in args.erosion:
                suffix = f"-{erosion}" if erosion else ""
                found = cpu(f"places{suffix}", segment_geometry, depth, camera, result, erosion)
                row = errors[f"{name}{suffix}"]
                for segment, truth in things:
                    row.add(found.get(segment), truth)
        progress(f"{number} of {args.frames} frames")
    record = {
        **arguments_of(args, "frames", "size", "checkpoint", "seed"),
        "meters": [NEAREST, FARTHEST],
        "noise": NOISE,
        "bleeding": BLEEDING,
        "errors": {name: row.report() for name, row in errors.items()},
        "cpu_ms": {name: 1e3 * float(np.median(row)) for name, row in costs.items()},
    }
    show(record)
    report.write(args.json, **record)
    ideal = record["errors"]["ideal"]
    good = ideal["things"] and ideal["centroid_median_m"] < 0.03 and ideal["centroid_p90_m"] < 0.10
    return 0 if good and ideal["extents_median"] < 0.2 else 1


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    # The first drive's seed; thresholds were chosen on 500 to 514.
    parser = make_parser(__doc__, *MODEL, "size", frames=200, seed=900)
    parser.add_argument(
        "--erosion", type=int, nargs="+", default=[0], metavar="N", help="values of depth_erosion to compare, with 0"
    )
    args = parser.parse_args()
    args.erosion = sorted({0, *args.erosion})
    return args


def drives(args: argparse.Namespace) -> Iterator[Frame]:
    """Frames of as many drives as it takes, spread over each whole round: room, yard, table top and again."""
    for part in range(-(-args.frames // FRAMES_A_DRIVE)):
        count = min(FRAMES_A_DRIVE, args.frames - part * FRAMES_A_DRIVE)
        yield from drive_frames(args.seed + part, KINDS[part % len(KINDS)], count, args.size)


def camera_of(frame: Frame) -> PinholeCamera:
    """The frame's camera."""
    height, width = frame.depth.shape
    matrix = frame.intrinsics
    return PinholeCamera(width, height, matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2])


def bleeding(depth: np.ndarray, dice: np.random.Generator) -> np.ndarray:
    """Depth whose edges bleed (`BLEEDING`) as after block matching over a window: float32 meters."""
    whole = np.where(np.isfinite(depth), depth, 1000.0).astype(np.float32)
    kernel = np.ones((7, 7), np.uint8)
    near, far = cv2.erode(whole, kernel), cv2.dilate(whole, kernel)
    height, width = depth.shape
    share = dice.random((-(-height // 8), -(-width // 8))).repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    return np.where(far - near > 0.05 * near, near + share * (far - near), depth).astype(np.float32)


def right_things(frame: Frame, result: PanopticResult, camera: PinholeCamera) -> Iterator[tuple[int, np.ndarray]]:
    """Segments that name a true thing right and overlap it by more than half, with the points of its true surface."""
    across, down = camera.rays()
    for thing in frame.segments:
        mask = frame.segment_map == thing.id
        if not thing.is_thing:
            continue
        z = frame.depth[mask].astype(np.float64)
        truth = np.stack([across[mask] * z, down[mask] * z, z], axis=1)
        if not NEAREST <= float(np.linalg.norm(truth.mean(axis=0))) <= FARTHEST:
            continue
        for segment in result.segments:
            if segment.name == thing.name:
                predicted = result.segment_map == segment.id
                overlap = np.count_nonzero(predicted & mask) / np.count_nonzero(predicted | mask)
                if overlap > MATCH_IOU:
                    yield segment.id, truth


def show(record: dict[str, Any]) -> None:
    """Prints the table."""
    columns = {"depth": "", "things": "", "missing": "", "centroid cm, median": ".2f", "90 %": ".2f"}
    columns |= {"extents, median": ".1%", "x": ".1%", "y": ".1%", "z": ".1%"}
    rows = []
    for name, row in record["errors"].items():
        centroids = [100 * row[f"centroid_{key}_m"] for key in ("median", "p90") if row["things"]]
        extents = [row["extents_median"], *row["extents_median_xyz"]] if row["things"] else []
        rows.append([name, row["things"], row["missing"], *centroids, *extents])
    print_table(columns, rows, f"{record['frames']} frames, things at {NEAREST:g} to {FARTHEST:g} m")
    say("CPU per frame, median: " + ", ".join(f"{name} {value:.2f} ms" for name, value in record["cpu_ms"].items()))
    say(f"noise: {NOISE}\nbleeding: {BLEEDING}")


if __name__ == "__main__":
    sys.exit(main())
