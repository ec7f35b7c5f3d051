"""What a camera saw lately, as examples are compared with words by it."""

from __future__ import annotations

import numpy as np

from fcclip_core.results import Segment
from fcclip_core.segments.seen_segments import SeenSegments


def segments(*rows: np.ndarray) -> list[Segment]:
    return [Segment(1, 1, "a", 0.5, True, 9, (0, 0, 3, 3), row.astype(np.float32)) for row in rows]


def test_a_frame_a_second_counts_and_what_stands_still_counts_once() -> None:
    seen, axes = SeenSegments(), np.eye(8)
    assert len(seen.rows) == 0
    seen.add(segments(axes[0], axes[1]), 10.0)
    seen.add(segments(axes[2]), 10.5)
    assert len(seen.rows) == 2
    seen.add(segments(axes[1], axes[3]), 11.0)
    np.testing.assert_array_equal(seen.rows, axes[[1, 3, 0]])


def test_rows_that_are_no_unit_vectors_are_left_out() -> None:
    seen = SeenSegments()
    seen.add(segments(np.zeros(8), np.full(8, np.nan), np.eye(8)[0]), 0.0)
    assert len(seen.rows) == 1


def test_memory_is_bounded_and_the_latest_stay() -> None:
    seen, rng = SeenSegments(), np.random.default_rng(0)
    for frame in range(20):
        rows = rng.normal(size=(50, 64))
        last = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        seen.add(segments(*last), float(frame))
    assert len(seen.rows) == 600
    np.testing.assert_allclose(seen.rows[:50], last, atol=1e-6)


def test_another_model_begins_anew() -> None:
    seen = SeenSegments()
    seen.add(segments(np.eye(8)[0]), 0.0)
    seen.add(segments(np.eye(4)[0]), 2.0)
    assert seen.rows.shape == (1, 4)
