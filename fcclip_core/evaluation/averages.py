"""Groups of classes, and means over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def class_groups(things: Sequence[bool], seen: Sequence[bool]) -> dict[str, np.ndarray]:
    """Name -> members, bool `(C,)`, of the reported groups: all, things, stuff, seen, unseen."""
    is_thing, is_seen = np.array(things, bool), np.array(seen, bool)
    return {
        "all": np.ones(len(is_thing), bool),
        "things": is_thing,
        "stuff": ~is_thing,
        "seen": is_seen,
        "unseen": ~is_seen,
    }


def group_means(per_class: np.ndarray, groups: Mapping[str, np.ndarray]) -> dict[str, float | None]:
    """Mean of `(C,)` values over each group, ignoring NaN; None if a group has no value."""
    means = {}
    for name, members in groups.items():
        values = per_class[members & ~np.isnan(per_class)]
        means[name] = float(values.mean()) if len(values) else None
    return means


def group_ratios(
    name: str, counts: np.ndarray, totals: np.ndarray, groups: Mapping[str, np.ndarray]
) -> dict[str, float | None]:
    """`NAME.GROUP` -> sum of `counts` over sum of `totals`, both `(C,)`, in each group; None if the total is 0."""
    return {
        f"{name}.{group}": float(counts[members].sum() / total) if (total := totals[members].sum()) else None
        for group, members in groups.items()
    }
