"""How `fcclip memory` prints objects."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import numpy as np

from fcclip_core.commands.printing import print_table, say

if TYPE_CHECKING:
    from fcclip_core.memory.objects import RememberedObject, View

_CLOCK_SINCE = 946_684_800
"""Seconds: stamps before the year 2000 are of a clock that began with the robot, or of a simulation."""


def print_json(document: Any) -> None:
    """Prints JSON."""
    say(json.dumps(document, indent=1, ensure_ascii=False))


def print_objects(items: Sequence[RememberedObject], now: int) -> None:
    """A table with a row for each object."""
    columns = ("id", "name", "state", "x, y, z (m)", "looks", "last seen")
    rows = (
        (item.id, item.name or "-", item.state.value, _vector(item.position), item.looks, ago(item.age(now)))
        for item in items
    )
    print_table(columns, rows)


def print_answers(answers: Iterable[tuple[RememberedObject, float]], now: int) -> None:
    """A table with a row for each answer, narrow enough for most terminals: the largest standard deviation alone."""
    rows = []
    for item, probability in answers:
        std = np.sqrt(np.diag(item.covariance))
        rows.append(
            (
                item.id,
                f"{probability:.2f}",
                item.name or "-",
                _vector(item.position),
                f"{100 * float(std.max()):.0f} cm",
                ago(item.age(now)),
                _ground(item.approach),
            )
        )
    columns = ("id", "prob.", "seen as", "x, y, z (m)", "std", "last seen", "approach")
    print_table(columns, rows)


def print_object(item: RememberedObject, now: int) -> None:
    """Everything that is known of an object."""
    rows = [(label, value) for label, value in _facts(item, now)]
    width = max(len(label) for label, _ in rows)
    for label, value in rows:
        say(f"{label:<{width}}  {value}")


def ago(seconds: float) -> str:
    """An age, such as "3 h ago"."""
    for unit, length in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def _facts(item: RememberedObject, now: int) -> Iterator[tuple[str, str]]:
    std = np.sqrt(np.diag(item.covariance))
    yield "id", str(item.id)
    yield "name", item.name or "-"
    if item.own_name:
        yield "given by", "a user"
    yield "state", f"{item.state.value}, exists with probability {item.existence:.2f}"
    yield "kind", "thing" if item.is_thing else "stuff"
    yield "position", f"{_vector(item.position)} m, standard deviations {_vector(std)} m"
    yield "box", f"center {_vector(item.center)} m, size {_size(item.extents)} m"
    yield "looks", f"{item.looks}, from {sum(map(bool, item.side_looks))} of {len(item.side_looks)} sides"
    yield "first seen", f"{_moment(item.first_seen)}"
    yield "last seen", f"{_moment(item.last_seen)}, {ago(item.age(now))}"
    for name, count in sorted(item.names.items(), key=lambda pair: -pair[1].score_sum):
        yield "called", f"{name or '-'}: {count.looks} looks, mean score {count.score_sum / max(count.looks, 1):.2f}"
    for view in item.views:
        yield "view", _view(view)
    yield "approach", _view(item.approach) if item.approach else "none: it was never seen from manipulation distance"
    yield "picture", f"{len(item.crop)} bytes (--crop FILE.jpg writes it)" if item.crop else "none"


def _view(view: View) -> str:
    camera = f", camera {view.camera_name}" if view.camera_name else ""
    return f"from {_ground(view)}, {view.distance:.2f} m away, {_moment(view.stamp)}{camera}"


def _ground(view: View | None) -> str:
    if view is None:
        return "-"
    x, y, yaw = view.ground_pose
    return f"{x:.2f}, {y:.2f}, {np.degrees(yaw):.0f}\N{DEGREE SIGN}"


def _moment(stamp: int) -> str:
    seconds = stamp / 1e9
    if not _CLOCK_SINCE <= seconds < 2**33:
        return f"{seconds:.3f} s"
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def _vector(values: np.ndarray) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


def _size(values: np.ndarray) -> str:
    return " x ".join(f"{value:.2f}" for value in values)
