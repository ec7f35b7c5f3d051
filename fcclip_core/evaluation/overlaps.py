"""Intersections of ground-truth and predicted segments in pixels."""

from __future__ import annotations

import numpy as np
import torch

from fcclip_core.datasets.records import PanopticSample
from fcclip_core.segmenter import EncodedImage


def segment_overlaps(truth: PanopticSample, predicted_map: np.ndarray, predicted: int) -> np.ndarray:
    """Intersections of ground-truth and predicted segments.

    Args:
        truth: T segments.
        predicted_map: int `(H, W)`, 0 = none, else 1..P.
        predicted: P.

    Returns:
        int64 `(T+1, P+1)`; row 0 counts unlabeled pixels, column 0 pixels without a prediction.
    """
    rows, columns = len(truth.segments) + 1, predicted + 1
    pairs = truth.segment_map.astype(np.int64) * columns + predicted_map
    return np.bincount(pairs.ravel(), minlength=rows * columns).reshape(rows, columns)


def mask_overlaps(truth: PanopticSample, encoded: EncodedImage) -> np.ndarray:
    """Intersections of ground-truth segments and the masks of all object queries, at image size.

    Returns:
        int64 `(T+1, Q+1)` as `segment_overlaps`; the masks may overlap, and column 0 is always 0.
    """
    logits = encoded.output.mask_logits[0]
    truth_map = torch.from_numpy(truth.segment_map).to(logits.device, torch.int64)
    shared = torch.zeros((len(truth.segments) + 1, len(logits)), dtype=torch.float64, device=logits.device)
    for rows, band in encoded.resizer().bands(logits):
        members = torch.nn.functional.one_hot(truth_map[rows].flatten(), len(shared)).float()
        shared += (members.T @ (band > 0).float().flatten(1).T).double()
    table = np.zeros((shared.shape[0], shared.shape[1] + 1), np.int64)
    table[:, 1:] = shared.round().long().cpu().numpy()
    return table


def pairwise_iou(overlaps: np.ndarray, truth_areas: np.ndarray) -> np.ndarray:
    """Intersection over union of segments, ignoring unlabeled pixels.

    Args:
        overlaps: `(T+1, P+1)`.
        truth_areas: `(T+1,)`, pixels of each row.

    Returns:
        float64 `(T, P)`.
    """
    shared = overlaps[1:, 1:]
    union = truth_areas[1:, None] + overlaps[1:, 1:].sum(0) - shared
    return shared / np.maximum(union, 1)
