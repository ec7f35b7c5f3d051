#!/usr/bin/env python3
"""How far are the places of segments from the truth?

Drives through the simulated world with the bundled model, with ideal depth, with noisy depth, and with depth that
has run over edges.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.lib import machine
from fcclip_core import Segmenter
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

NOISE = (
    "stereo with a baseline of 5 cm: disparity off by 0.08 px (standard deviation) and in steps of 1/16 px, pixels "
    "looked up beside their place (0.5 px), half of those at a depth step of 5 % missing, 2 % missing anywhere; whole "
    "millimeters"
)


BLEEDING = (
    "as noisy; before that, within 3 px of a depth step of 5 %, anything from the nearer to the farther side, the same "
    "for 8 x 8 px"
)

DEPTHS = ("ideal", "noisy", "bleeding")


@dataclass
class Errors:
    """What was found of things that were segmented right.

    Attributes:
        centroid: Meters between the centroids of what was published and of the true visible surface.
        extents: Relative errors of the three sides of the box along the camera's axes, a row a thing.
        missing: Things that were segmented right but got no place.
    """

    centroid: list[float] = field(default_factory=list)
    extents: list[np.ndarray] = field(default_factory=list)
    missing: int = 0

    def add(self, place: SegmentGeometry | None, truth: np.ndarray) -> None:
        """Compares a place with the points `(N, 3)` of the true surface."""
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
    options = parse_arguments()
    segmenter = Segmenter.from_checkpoint(options.checkpoint, device=options.device, backend=options.backend)
    segmenter.set_vocabulary(world_vocabulary())
    width, height = options.size
    dice, bleeding_dice = np.random.default_rng(options.seed), np.random.default_rng(options.seed + 1)
    errors = {name: Errors() for name in rows_of(options.erosion)}
    costs: dict[str, list[float]] = {"meters": [], "cloud": []}
    for number, frame in enumerate(drives(options), 1):
        result = segmenter(frame.image)
        camera = camera_of(frame)
        things = list(right_things(frame, result, camera))
        bled = bleeding(frame.depth, bleeding_dice)
        depths = frame.depth, noisy(frame.depth, camera, dice), noisy(bled, camera, bleeding_dice)
        for name, raw in zip(DEPTHS, depths, strict=True):
            depth = measure(frame.image, raw, camera, result, costs)
            for row, erosion in zip(rows_of(options.erosion, name), options.erosion, strict=True):
                began = time.process_time()
                places = segment_geometry(depth, camera, result, erosion)
                costs.setdefault(f"places{eroded_by(erosion)}", []).append(time.process_time() - began)
                for number_of_prediction, truth in things:
                    errors[row].add(places.get(number_of_prediction), truth)
        print(f"\r{number} of {options.frames} frames", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    found = {
        "machine": machine.describe(),
        "frames": options.frames,
        "size": [width, height],
        "checkpoint": options.checkpoint,
        "seed": options.seed,
        "meters": [NEAREST, FARTHEST],
        "noise": NOISE,
        "bleeding": BLEEDING,
        "errors": {name: row.report() for name, row in errors.items()},
        "cpu_ms": {name: 1e3 * float(np.median(row)) for name, row in costs.items()},
    }
    show(found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    ideal = found["errors"]["ideal"]
    good = ideal["things"] and ideal["centroid_median_m"] < 0.03 and ideal["centroid_p90_m"] < 0.10
    return 0 if good and ideal["extents_median"] < 0.2 else 1


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--checkpoint", default="demo")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument(
        "--seed", type=int, default=900, help="of the first drive; thresholds were chosen on 500 to 514"
    )
    parser.add_argument(
        "--erosion", type=int, nargs="+", default=[0], metavar="N", help="values of depth_erosion to compare, with 0"
    )
    parser.add_argument("--size", type=size, default=(640, 480), metavar="WxH")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.erosion = sorted({0, *options.erosion})
    return options


def rows_of(erosions: Sequence[int], depth: str = "") -> list[str]:
    """What the table's rows are called: ideal, noisy, ideal-1 with a pixel of erosion and so on."""
    names = [depth] if depth else DEPTHS
    return [f"{name}{eroded_by(erosion)}" for name in names for erosion in erosions]


def eroded_by(erosion: int) -> str:
    """What the erosion adds to a name."""
    return f"-{erosion}" if erosion else ""


def size(text: str) -> tuple[int, int]:
    """Reads WxH."""
    width, height = text.split("x")
    return int(width), int(height)


def drives(options: argparse.Namespace) -> Iterator[Frame]:
    """Frames of as many drives as it takes, spread over each whole round: room, yard, table top and again."""
    from fcclip_core.simulation.drive import make_drive
    from fcclip_core.simulation.render import Renderer

    with Renderer() as renderer:
        for index in range(options.frames):
            part, step = divmod(index, FRAMES_A_DRIVE)
            if step == 0:
                drive = make_drive(options.seed + part, "all", KINDS[part % len(KINDS)])
            count = min(FRAMES_A_DRIVE, options.frames - part * FRAMES_A_DRIVE)
            yield renderer.render(drive.scene, drive.camera(step * drive.duration / count), options.size)


def camera_of(frame: Frame) -> PinholeCamera:
    """The frame's camera."""
    height, width = frame.depth.shape
    matrix = frame.intrinsics
    return PinholeCamera(width, height, matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2])


def noisy(depth: np.ndarray, camera: PinholeCamera, dice: np.random.Generator) -> np.ndarray:
    """Depth as a small stereo camera might give it (`NOISE`): uint16 millimeters, 0 where missing."""
    height, width = depth.shape
    beside = dice.normal(0, 0.5, (2, height, width)).round().astype(int)
    rows = np.clip(np.arange(height)[:, None] + beside[0], 0, height - 1)
    columns = np.clip(np.arange(width) + beside[1], 0, width - 1)
    seen = np.where(np.isfinite(depth), depth, 1000.0)[rows, columns]
    scale = camera.fx * 0.05
    disparity = np.round((scale / seen + dice.normal(0, 0.08, depth.shape)) * 16) / 16
    meters = np.where(disparity > 0, scale / np.maximum(disparity, 1e-6), 0)
    whole = np.where(np.isfinite(depth), depth, 1000.0).astype(np.float32)
    kernel = np.ones((3, 3), np.uint8)
    edge = cv2.dilate(whole, kernel) - cv2.erode(whole, kernel) > 0.05 * whole
    chance = dice.random(depth.shape)
    meters[(edge & (chance < 0.5)) | (chance > 0.98) | (meters > 60)] = 0
    return (meters * 1000).round().astype(np.uint16)


def bleeding(depth: np.ndarray, dice: np.random.Generator) -> np.ndarray:
    """Depth whose edges have run (`BLEEDING`): float32 meters, as block matching over a window makes them."""
    whole = np.where(np.isfinite(depth), depth, 1000.0).astype(np.float32)
    kernel = np.ones((7, 7), np.uint8)
    near, far = cv2.erode(whole, kernel), cv2.dilate(whole, kernel)
    height, width = depth.shape
    share = dice.random((-(-height // 8), -(-width // 8))).repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    return np.where(far - near > 0.05 * near, near + share * (far - near), depth).astype(np.float32)


def measure(
    image: np.ndarray, raw: np.ndarray, camera: PinholeCamera, result: PanopticResult, costs: dict[str, list[float]]
) -> np.ndarray:
    """A frame's depth in meters; adds what that and the cloud cost in CPU seconds."""
    began = time.process_time()
    depth = depth_in_meters(raw, (camera.width, camera.height))
    read = time.process_time()
    organized_cloud(image, depth, camera, result)
    costs["meters"].append(read - began)
    costs["cloud"].append(time.process_time() - read)
    return depth


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


def show(found: dict[str, Any]) -> None:
    """Prints the tables."""
    print(
        f"{found['frames']} frames of {found['size'][0]} x {found['size'][1]}, things at {NEAREST:g} to {FARTHEST:g} m"
    )
    head = f"{'depth':12}{'things':>8}{'missing':>9}{'centroid, median':>18}{'90th':>9}"
    print(f"{head}{'extents, median':>17}{'x, y, z':>22}")
    for name, row in found["errors"].items():
        median, tail = (100 * row.get(f"centroid_{key}_m", math.nan) for key in ("median", "p90"))
        sides = ", ".join(f"{100 * value:.1f} %" for value in row.get("extents_median_xyz", []))
        print(
            f"{name:12}{row['things']:8}{row['missing']:9}{median:15.2f} cm{tail:6.2f} cm"
            f"{100 * row.get('extents_median', math.nan):15.1f} %{sides:>22}"
        )
    print("CPU a frame, median: " + ", ".join(f"{name} {value:.2f} ms" for name, value in found["cpu_ms"].items()))
    print(f"noise: {NOISE}\nbleeding: {BLEEDING}")


if __name__ == "__main__":
    sys.exit(main())
