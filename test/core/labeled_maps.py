"""Results made from maps of segment ids."""

from __future__ import annotations

import numpy as np

from fcclip_core.results import PanopticResult, Segment


def labeled(ids: np.ndarray) -> PanopticResult:
    """A result whose segments are those of a map."""
    segments = []
    for number in np.unique(ids[ids > 0]).tolist():
        rows, columns = np.nonzero(ids == number)
        box = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
        segments.append(Segment(number, 1, "thing", 1.0, True, len(rows), box, np.zeros(4, np.float32)))
    return PanopticResult(ids.astype(np.int32), segments, 1, {})
