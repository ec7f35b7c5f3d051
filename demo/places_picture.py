#!/usr/bin/env python3
"""Draws docs/pictures/places.png: a simulated camera's image, its labels, and their 3D positions seen from the side."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from demo import ROOT
from fcclip_core import Segmenter
from fcclip_core.geometry.camera import PinholeCamera
from fcclip_core.geometry.cloud import organized_cloud
from fcclip_core.geometry.depth import depth_in_meters
from fcclip_core.geometry.segments import SegmentGeometry, segment_geometry
from fcclip_core.images.image_files import write_image
from fcclip_core.segments.visualization import draw_legend, draw_overlay
from fcclip_core.simulation.drive import make_drive
from fcclip_core.simulation.frames import Frame
from fcclip_core.simulation.names import world_vocabulary
from fcclip_core.simulation.render import Renderer

PICTURE = ROOT / "docs" / "pictures" / "places.png"
SIZE = (640, 480)
_FINER = 2
"""The view is drawn so many times larger and then reduced, which smooths it."""

_POINT = 0.012
"""Side of a point in the view, meters."""

_GAP = 6
_SMALLER = 0.5
"""Scale of the finished picture, for web pages."""

_EDGES = [(a, b) for a in range(8) for b in range(a) if (a ^ b).bit_count() == 1]
"""Of a box whose corners are numbered by the bits of their signs."""


@dataclass(frozen=True)
class View:
    """A second camera, which shows what the first one saw.

    Attributes:
        turn: Rotation `(3, 3)` from the first camera's optical frame into this one's.
        eye: Its position in the first camera's frame.
        focal: Focal length, pixels.
    """

    turn: np.ndarray
    eye: np.ndarray
    focal: float

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels `(N, 2)` and depth `(N,)` of points `(N, 3)`."""
        seen = (points - self.eye) @ self.turn.T
        middle = np.array(SIZE) * _FINER / 2
        return seen[:, :2] / seen[:, 2:] * self.focal + middle, seen[:, 2]


def beside(frame: Frame, target: np.ndarray, azimuth: float, elevation: float, distance: float) -> View:
    """A view of a point from the side and from above.

    Args:
        frame: The first camera's; its pose says what is up.
        target: Where to look, in the first camera's frame.
        azimuth: Degrees by which it looks further to the left than the first camera.
        elevation: Degrees above the horizon.
        distance: Meters from the point.
    """
    up = frame.pose[:3, :3].T @ [0.0, 0.0, 1.0]
    ahead = np.array([0.0, 0.0, 1.0]) - up[2] * up
    ahead /= np.linalg.norm(ahead)
    level = Rotation.from_rotvec(np.radians(azimuth) * up).apply(ahead)
    direction = np.cos(np.radians(elevation)) * level - np.sin(np.radians(elevation)) * up
    right = np.cross(direction, up)
    right /= np.linalg.norm(right)
    turn = np.stack([right, np.cross(direction, right), direction])
    return View(turn, target - distance * direction, 1.1 * SIZE[0] * _FINER)


def draw_cloud(points: np.ndarray, colors: np.ndarray, view: View) -> np.ndarray:
    """Points as small squares, near ones over far ones: uint8 RGB."""
    canvas = np.full((SIZE[1] * _FINER, SIZE[0] * _FINER, 3), 255, np.uint8)
    pixels, depth = view.project(points)
    order = np.argsort(-depth)
    order = order[depth[order] > 0.1]
    sides = np.clip(view.focal * _POINT / depth[order], 1, 12).astype(int)
    places = pixels[order].round().astype(int)
    for across in range(sides.max()):
        for down in range(sides.max()):
            x, y = (places + (across, down)).T
            good = (sides > max(across, down)) & (x >= 0) & (y >= 0) & (x < canvas.shape[1]) & (y < canvas.shape[0])
            canvas[y[good], x[good]] = colors[order][good]
    return canvas


def draw_box(canvas: np.ndarray, place: SegmentGeometry, color: tuple[int, int, int], view: View) -> None:
    """The edges of a thing's box, in place."""
    signs = np.array([[(corner >> bit & 1) * 2 - 1 for bit in range(3)] for corner in range(8)])
    corners = Rotation.from_quat(place.orientation).apply(signs * place.oriented_extents / 2) + place.oriented_center
    pixels, depth = view.project(corners)
    if depth.min() > 0.1:
        for one, other in _EDGES:
            ends = [tuple(int(value) for value in pixels[corner].round()) for corner in (one, other)]
            cv2.line(canvas, ends[0], ends[1], (0, 0, 0), 3 * _FINER, cv2.LINE_AA)
            cv2.line(canvas, ends[0], ends[1], color, 2 * _FINER, cv2.LINE_AA)


def compose(frame: Frame, segmenter: Segmenter, arguments: argparse.Namespace) -> np.ndarray:
    """Image, overlay and view side by side, above a strip that names the colors: uint8 RGB."""
    snapshot = segmenter.vocabulary
    assert snapshot is not None
    result = segmenter(frame.image)
    matrix = frame.intrinsics
    camera = PinholeCamera(*SIZE, matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2])
    meters = depth_in_meters(frame.depth.astype(np.float32), SIZE)
    colors = dict(zip(snapshot.class_ids, snapshot.colors, strict=True))
    points = organized_cloud(frame.image, meters, camera, result)
    points = points[np.isfinite(points["z"]) & (points["z"] < arguments.farthest)]
    places = segment_geometry(meters, camera, result)
    things = [item for item in result.segments if item.is_thing and item.id in places]
    target = np.median([places[item.id].centroid for item in things], axis=0)
    view = beside(frame, target, arguments.azimuth, arguments.elevation, arguments.distance)
    table = np.full((max(colors) + 1, 3), 200, np.uint8)
    for number, color in colors.items():
        table[number] = color
    positions = np.stack([points[axis] for axis in "xyz"], axis=1)
    canvas = draw_cloud(positions, table[points["semantic_id"]], view)
    for item in things:
        draw_box(canvas, places[item.id], colors[item.class_id], view)
        print(f"{item.name} {item.score:.2f}: {np.round(places[item.id].oriented_extents, 2)} m")
    seen = cv2.resize(canvas, SIZE, interpolation=cv2.INTER_AREA)
    gap = np.full((SIZE[1], _GAP, 3), 255, np.uint8)
    row = np.hstack([frame.image, gap, draw_overlay(frame.image, result, colors), gap, seen])
    small = cv2.resize(row, None, fx=_SMALLER, fy=_SMALLER, interpolation=cv2.INTER_AREA)
    shown = {item.class_id: item.name for item in result.segments}
    return np.vstack(
        [small, draw_legend([(name, colors[number]) for number, name in shown.items()], small.shape[1], 14)]
    )


def main() -> None:
    """Renders a frame, labels it and saves the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", default="room", choices=("room", "table", "yard"))
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--time", type=float, default=6.0, help="seconds from the start of the drive")
    parser.add_argument("--azimuth", type=float, default=-50.0, help="degrees by which the view looks further left")
    parser.add_argument("--elevation", type=float, default=30.0, help="degrees")
    parser.add_argument("--distance", type=float, default=4.6, help="meters")
    parser.add_argument("--farthest", type=float, default=6.0, help="meters; points beyond are left out")
    parser.add_argument("--out", type=Path, default=PICTURE)
    arguments = parser.parse_args()
    segmenter = Segmenter.from_checkpoint("demo", device="cpu")
    segmenter.set_vocabulary(world_vocabulary())
    with Renderer() as renderer:
        drive = make_drive(arguments.seed, "all", arguments.kind, 0.4)
        frame = renderer.render(drive.scene, drive.camera(arguments.time), SIZE)
    print("in the picture:", ", ".join(sorted({item.name for item in frame.segments})))
    picture = compose(frame, segmenter, arguments)
    write_image(arguments.out, picture, optimize=True)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
