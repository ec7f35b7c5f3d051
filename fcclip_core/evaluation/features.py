"""What CLIP's frozen features tell apart, drawn: k-means over an image's features at several sizes (Figure 1)."""

from __future__ import annotations

import colorsys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.cluster.vq import kmeans2
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fcclip_core.errors import SettingsError
from fcclip_core.evaluation.clip_masks import settings_for
from fcclip_core.evaluation.clips import Clip
from fcclip_core.inference.preprocess import preprocess
from fcclip_core.segments.visualization import draw_caption

_STARTS = 4
"""Clusterings from different first centers, of which the tightest counts."""
_ROUNDS = 50
_COMMON = 256
"""Cells along each side at which clusterings of different grids are compared."""
_GAP = 8


@dataclass(frozen=True)
class ClusterMap:
    """The clusters of one CLIP's features at one input size.

    Attributes:
        title: "ViT-L-14 @224px".
        cells: int64 `(h, w)`, the cluster of each cell of the image, 0..K-1.
    """

    title: str
    cells: np.ndarray


def cluster_maps(
    image: np.ndarray, clips: Sequence[Clip], sizes: Sequence[int], clusters: int, seed: int = 0
) -> list[list[ClusterMap]]:
    """Clusters the features of an image, for each CLIP and input size by themselves.

    Features are those that CLIP's head pools, of unit length. Which cluster has which number is arbitrary, so each
    clustering is renumbered to agree with the one before it on as much of the image as it can.

    Args:
        image: uint8 RGB `(H, W, 3)`.
        clips: The CLIPs, one row each.
        sizes: Lengths of the shorter image side in pixels, one column each.
        clusters: K, 2 to 32.
        seed: Of the first centers.

    Returns:
        A row for each CLIP, an entry for each size.

    Raises:
        ImageError: Not such an image.
        SettingsError: K is out of range, or an input size has fewer cells.
    """
    if not 2 <= clusters <= 32:
        raise SettingsError(f"--kmeans is {clusters}; expected 2 to 32 clusters")
    rows: list[list[ClusterMap]] = []
    before: np.ndarray | None = None
    for clip in clips:
        row = []
        for size in sizes:
            features = _features(image, clip, size)
            cells = features.shape[0] * features.shape[1]
            if cells < clusters:
                raise SettingsError(
                    f"--kmeans is {clusters}, but {clip.name} has only {cells} cells at {size} pixels; ask for fewer "
                    "clusters or larger sizes"
                )
            found = _clustered(features, clusters, seed)
            if before is not None:
                found = _agreeing(found, before, clusters)
            before = found
            row.append(ClusterMap(f"{clip.name} @{size}px", found))
        rows.append(row)
        before = row[0].cells
    return rows


def draw_clusters(image: np.ndarray, rows: Sequence[Sequence[ClusterMap]], width: int = 240) -> np.ndarray:
    """The picture: the image, then a row for each CLIP with a column for each input size.

    Args:
        image: uint8 RGB `(H, W, 3)`.
        rows: From `cluster_maps`.
        width: Of each panel, in pixels.

    Returns:
        uint8 RGB on white.
    """
    count = 1 + max(int(entry.cells.max()) for row in rows for entry in row)
    colors = _colors(count)
    size = (width, max(1, round(width * image.shape[0] / image.shape[1])))
    photo = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
    lines = []
    for row in rows:
        panels = [_panel("image", photo)]
        for entry in row:
            drawn = Image.fromarray(colors[entry.cells]).resize(size, Image.Resampling.NEAREST)
            panels.append(_panel(entry.title, np.asarray(drawn)))
        lines.append(_joined(panels, axis=1))
    return _joined(lines, axis=0)


@torch.inference_mode()
def _features(image: np.ndarray, clip: Clip, size: int) -> np.ndarray:
    """Unit features of the cells that show a part of the image: float32 `(h, w, C)`."""
    pixels, geometry = preprocess(image, settings_for(size), clip.device)
    features: Tensor = F.normalize(clip.tower(pixels).res5[0].float(), dim=0)
    height, width = (-(-side // clip.tower.stride) for side in geometry.resized)
    return features[:, :height, :width].permute(1, 2, 0).cpu().numpy()


def _clustered(features: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    rows = features.reshape(-1, features.shape[-1]).astype(np.float64)
    best, tightest = np.zeros(len(rows), np.int64), np.inf
    for start in range(_STARTS):
        with warnings.catch_warnings():
            # A cluster may become empty, for instance where an image has fewer colors than clusters.
            warnings.simplefilter("ignore")
            centers, labels = kmeans2(rows, clusters, iter=_ROUNDS, minit="++", seed=seed + start)
        spread = float(((rows - centers[labels]) ** 2).sum())
        if spread < tightest:
            best, tightest = labels.astype(np.int64), spread
    return best.reshape(features.shape[:2])


def _agreeing(cells: np.ndarray, other: np.ndarray, clusters: int) -> np.ndarray:
    """The clustering with its numbers permuted so that it equals another one in as many places as possible."""
    here, there = _enlarged(cells), _enlarged(other)
    overlap = np.bincount((here * clusters + there).ravel(), minlength=clusters**2).reshape(clusters, clusters)
    numbers, matched = linear_sum_assignment(-overlap)
    table = np.empty(clusters, np.int64)
    table[numbers] = matched
    return table[cells]


def _enlarged(cells: np.ndarray) -> np.ndarray:
    rows, columns = (np.arange(_COMMON) * side // _COMMON for side in cells.shape)
    return cells[np.ix_(rows, columns)]


def _colors(count: int) -> np.ndarray:
    """Hues all around the circle, neighbors of different brightness: uint8 `(count, 3)`."""
    tones = ((0.85, 0.95), (0.55, 0.6), (0.4, 1.0))
    colors = [colorsys.hsv_to_rgb(number / count, *tones[number % len(tones)]) for number in range(count)]
    return np.rint(255 * np.array(colors)).astype(np.uint8)


def _panel(title: str, picture: np.ndarray) -> np.ndarray:
    return np.concatenate((draw_caption(title, picture.shape[1], 14), picture))


def _joined(pictures: Sequence[np.ndarray], axis: int) -> np.ndarray:
    shape = list(pictures[0].shape)
    shape[axis] = _GAP
    gap = np.full(shape, 255, np.uint8)
    pieces = [piece for picture in pictures for piece in (gap, picture)][1:]
    return np.concatenate(pieces, axis)
