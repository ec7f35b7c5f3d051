"""Objects as rows of a file, and back: what a file says is checked before it is believed."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fcclip_core.memory.crops import MAX_CROP_BYTES
from fcclip_core.memory.objects import SECTORS, NameCount, RememberedObject, State, View
from fcclip_core.memory.observation import MAX_COORDINATE, MAX_DIMENSION

MAX_STATE_BYTES = 1 << 16
"""Largest JSON text of an object."""

MAX_VIEW_BYTES = 2 * MAX_DIMENSION * 16
"""Largest block of view embeddings."""

_IDENTITY = np.eye(3)
_MAX_TEXT = 1000
_MAX_COUNT = 2**53
_INT64 = 2**63


@dataclass(frozen=True)
class Row:
    """An object in the file.

    Attributes:
        id: Its id.
        state: JSON.
        embedding: float32, little-endian.
        views: float16, little-endian: a row for each view, then that of the approach view if there is one.
        crop: JPEG.
    """

    id: int
    state: str
    embedding: bytes
    views: bytes
    crop: bytes


def encode(item: RememberedObject) -> Row:
    """An object as a row."""
    views = [*item.views, *([item.approach] if item.approach else [])]
    state = {
        "state": item.state.value,
        "log_odds": item.log_odds,
        "is_thing": item.is_thing,
        "own_name": item.own_name,
        "names": {name: [count.looks, count.score_sum] for name, count in item.names.items()},
        "word_looks": dict(item.word_looks),
        "position": item.position.tolist(),
        "covariance": item.covariance.ravel().tolist(),
        "low": item.low.tolist(),
        "high": item.high.tolist(),
        "side_looks": list(item.side_looks),
        "seen": [item.first_seen, item.last_seen, item.first_look, item.last_look, item.looks],
        "views": [_view_state(view) for view in item.views],
        "approach": _view_state(item.approach) if item.approach else None,
    }
    return Row(
        item.id,
        json.dumps(state, separators=(",", ":"), allow_nan=False),
        item.embedding_sum.astype("<f4").tobytes(),
        np.stack([view.embedding for view in views]).astype("<f2").tobytes(),
        item.crop,
    )


def decode(row: Row) -> RememberedObject:
    """A row as an object.

    Raises:
        ValueError: The row is damaged; so are KeyError and TypeError here.
    """
    state: dict[str, Any] = json.loads(row.state)
    total = _vector(row.embedding, "<f4", 1)[0].astype(np.float32)
    looks = [_whole(value) for value in state["seen"]]
    approach_state = state["approach"]
    views_count = len(state["views"]) + (approach_state is not None)
    rows = _vector(row.views, "<f2", views_count).astype(np.float16)
    _require(rows.shape[1] == len(total) and len(looks) == 5 and looks[4] > 0 and len(state["views"]) > 0)
    _require(not row.crop or (row.crop[:2] == b"\xff\xd8" and len(row.crop) <= MAX_CROP_BYTES))
    _require(0 < row.id < _INT64 and bool(total.any()))
    position, low, high = (_numbers(state[key], 3, MAX_COORDINATE) for key in ("position", "low", "high"))
    covariance = _numbers(state["covariance"], 9, 1e9).reshape(3, 3)
    _require(bool((np.linalg.eigvalsh(covariance) > 0).all()))
    _require(bool(np.abs(covariance - covariance.T).max() <= 1e-3 * np.abs(covariance).max()))
    _require(bool((low <= high).all()))
    sides = tuple(_whole(value) for value in state["side_looks"])
    _require(len(sides) == SECTORS and isinstance(state["is_thing"], bool))
    return RememberedObject(
        id=row.id,
        state=State(state["state"]),
        log_odds=_number(state["log_odds"], 1e3),
        is_thing=state["is_thing"],
        own_name=_text(state["own_name"]),
        names={_text(name): _name_count(count) for name, count in state["names"].items()},
        word_looks={_text(key): _whole(count) for key, count in state["word_looks"].items()},
        position=position,
        covariance=covariance,
        low=low,
        high=high,
        side_looks=sides,
        embedding_sum=total,
        first_seen=looks[0],
        last_seen=looks[1],
        first_look=looks[2],
        last_look=looks[3],
        looks=looks[4],
        views=tuple(_view(*pair) for pair in zip(state["views"], rows, strict=False)),
        approach=_view(approach_state, rows[-1]) if approach_state is not None else None,
        crop=row.crop,
    )


def _view_state(view: View) -> list[Any]:
    return [view.stamp, view.camera_name, view.map_from_camera[:3].ravel().tolist(), view.distance, view.quality]


def _view(state: list[Any], embedding: np.ndarray) -> View:
    stamp, camera_name, pose, distance, quality = state
    matrix = np.eye(4)
    matrix[:3] = _numbers(pose, 12, MAX_COORDINATE).reshape(3, 4)
    turn = matrix[:3, :3]
    _require(bool(np.abs(turn @ turn.T - _IDENTITY).max() <= 1e-2))
    return View(_whole(stamp), _text(camera_name), matrix, _number(distance, 1e6), _number(quality, 1e6), embedding)


def _vector(data: bytes, kind: str, rows: int) -> np.ndarray:
    """Finite numbers `(rows, D)`."""
    values = np.frombuffer(data, kind)
    _require(rows > 0 and len(values) % rows == 0 and 0 < len(values) // rows <= MAX_DIMENSION)
    _require(bool(np.isfinite(values).all()))
    return values.reshape(rows, -1)


def _name_count(state: list[Any]) -> NameCount:
    looks, score_sum = state
    return NameCount(_whole(looks), _number(score_sum, float(_MAX_COUNT)))


def _numbers(values: list[Any], count: int, limit: float) -> np.ndarray:
    _require(isinstance(values, list) and len(values) == count)
    _require(all(type(value) in (int, float) for value in values))
    numbers: np.ndarray = np.array(values, np.float64)
    # NaN is no smaller than anything.
    _require(bool(np.abs(numbers).max() <= limit))
    return numbers


def _number(value: Any, limit: float) -> float:
    _require(isinstance(value, (int, float)) and not isinstance(value, bool))
    _require(math.isfinite(value) and abs(value) <= limit)
    return float(value)


def _whole(value: Any) -> int:
    _require(isinstance(value, int) and not isinstance(value, bool) and -_INT64 <= value < _INT64)
    return int(value)


def _text(value: Any) -> str:
    _require(isinstance(value, str) and len(value) <= _MAX_TEXT)
    return str(value)


def _require(holds: bool) -> None:
    if not holds:
        raise ValueError("the row is damaged")
