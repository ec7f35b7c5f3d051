"""Segments as polygons and run-length codes, COCO's two mask formats.

Both are exact. Polygon corners are on pixel edges, not pixel centers, as COCO's tools expect. A hole is connected to
the outline around it by a slit of zero width, because COCO's polygons have no holes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from fcclip_core.errors import SettingsError
from fcclip_core.quoting import first_line

if TYPE_CHECKING:
    from fcclip_core.results import PanopticResult

CONTOUR_TYPES = ("", "polygons", "rle")
"""Contour types; empty: none."""


def check_contour_type(contour_type: str) -> None:
    """Checks that a contour type can be computed here.

    Raises:
        SettingsError: It is "rle", which needs pycocotools, and pycocotools cannot be imported.
    """
    if contour_type == "rle":
        try:
            import pycocotools.mask  # noqa: F401
        except Exception as error:  # missing, or built for another numpy
            raise SettingsError(
                f"contours as rle need pycocotools, which cannot be imported ({first_line(error)}); "
                "pip install pycocotools, or use polygons"
            ) from error


def polygons(result: PanopticResult) -> dict[int, list[np.ndarray]]:
    """The outlines of every segment.

    Args:
        result: The frame.

    Returns:
        Segment id -> polygons, one per 8-connected component, each int32 `(N, 2)`, N at least 4: corners (x, y) in 0..W
        and 0..H, without repeating the first. The pixel in column x and row y covers x to x + 1 and y to y + 1. Filled
        by the even-odd rule, or by pycocotools, the polygons cover exactly the segment's pixels.
    """
    return {
        segment.id: _polygons(_window(result, segment.box) == segment.id, segment.box) for segment in result.segments
    }


def run_lengths(result: PanopticResult) -> dict[int, str]:
    """Every segment's pixels as COCO's compressed run lengths.

    Args:
        result: The frame.

    Returns:
        Segment id -> `counts`, ASCII; with `size` = `[H, W]`, pycocotools decodes them to the segment's mask.

    Raises:
        SettingsError: See `check_contour_type`.
    """
    check_contour_type("rle")
    from pycocotools import mask as coco_masks

    height, width = result.segment_map.shape
    # Column by column, as in COCO: starts of runs and their segment ids.
    pixels = result.segment_map.T.ravel()
    starts = np.flatnonzero(np.diff(pixels, prepend=pixels[0] + 1))
    ends = np.append(starts[1:], pixels.size)
    order = np.argsort(pixels[starts], kind="stable")
    ids = pixels[starts][order]
    found = {}
    for segment in result.segments:
        own = order[np.searchsorted(ids, segment.id) : np.searchsorted(ids, segment.id, side="right")]
        # Alternating ends of gaps and runs; their differences are COCO's counts.
        bounds = np.stack([starts[own], ends[own]], axis=1).ravel()
        counts = np.diff(bounds, prepend=0, append=[] if bounds[-1] == pixels.size else pixels.size)
        packed = coco_masks.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
        found[segment.id] = packed["counts"].decode("ascii")
    return found


def coco_segmentations(result: PanopticResult, contour_type: str) -> dict[int, Any]:
    """COCO's field `segmentation` for every segment, as JSON values.

    Args:
        result: The frame.
        contour_type: One of `CONTOUR_TYPES`.

    Returns:
        Segment id -> list of polygons `[x, y, x, y, ...]`, or `{"size": [H, W], "counts": text}`; empty for "".

    Raises:
        SettingsError: See `check_contour_type`.
    """
    if contour_type == "polygons":
        outlines = polygons(result).items()
        return {number: [corners.ravel().tolist() for corners in parts] for number, parts in outlines}
    if contour_type == "rle":
        size = list(result.segment_map.shape)
        return {number: {"size": size, "counts": counts} for number, counts in run_lengths(result).items()}
    return {}


def _window(result: PanopticResult, box: tuple[int, int, int, int]) -> np.ndarray:
    left, top, right, bottom = box
    return result.segment_map[top:bottom, left:right]


def _polygons(mask: np.ndarray, box: tuple[int, int, int, int]) -> list[np.ndarray]:
    # OpenCV's contours pass through pixel centers. In an image of twice the size, the centers of the outermost half
    # pixels are next to the edges of whole pixels, and rounding moves them onto the edges.
    doubled = cv2.resize(mask.astype(np.uint8), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    contours, tree = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    if not contours:
        return []
    rings = [_corners((contour[:, 0] + 1) // 2) for contour in contours]
    parents = tree[0, :, 3]
    offset = np.array(box[:2], np.int32)
    found = []
    for index in np.flatnonzero(parents < 0):
        ring = rings[index]
        for hole in np.flatnonzero(parents == index):
            ring = _with_hole(ring, rings[hole])
        found.append(ring + offset)
    return found


def _corners(ring: np.ndarray) -> np.ndarray:
    """The corners of a closed axis-aligned line."""
    across, down = np.diff(ring, axis=0, append=ring[:1]).T
    moves = (across != 0) | (down != 0)
    is_across = across[moves] != 0
    return ring[moves][np.diff(is_across, prepend=is_across[-1])]


def _with_hole(ring: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """One closed line around both, connected between a corner of the hole and the nearest corner of the ring."""
    start = int(hole[:, 0].argmin())
    at = int(((ring - hole[start]) ** 2).sum(axis=1).argmin())
    hole = np.roll(hole, -start, axis=0)
    return np.concatenate([ring[: at + 1], hole, hole[:1], ring[at:]])
