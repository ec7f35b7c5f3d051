"""Remembered objects as JSON values, for programs that are not of this package."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from fcclip_core.memory.objects import RememberedObject, View

_DIGITS = 6


def document_of(item: RememberedObject) -> dict[str, Any]:
    """An object without its embedding and picture: meters in the map, stamps in nanoseconds, names by their scores."""
    names = sorted(item.names.items(), key=lambda pair: -pair[1].score_sum)
    return {
        "id": item.id,
        "name": item.name,
        "own_name": item.own_name,
        "names": [
            {"name": name, "looks": count.looks, "mean_score": round(count.score_sum / max(count.looks, 1), _DIGITS)}
            for name, count in names
        ],
        "state": item.state.value,
        "existence": round(item.existence, _DIGITS),
        "is_thing": item.is_thing,
        "position": _rounded(item.position),
        "covariance": [_rounded(row, digits=9) for row in item.covariance],
        "box": {"center": _rounded(item.center), "size": _rounded(item.extents)},
        "looks": item.looks,
        "first_seen": item.first_seen,
        "last_seen": item.last_seen,
        "views": [view_document(view) for view in item.views],
        "approach": None if item.approach is None else view_document(item.approach),
    }


def view_document(view: View) -> dict[str, Any]:
    """A view: the pose of the camera's optical frame in the map, and on the floor with its heading in radians."""
    x, y, yaw = view.ground_pose
    return {
        "stamp": view.stamp,
        "camera": view.camera_name,
        "position": _rounded(view.map_from_camera[:3, 3]),
        "orientation": _rounded(Rotation.from_matrix(view.map_from_camera[:3, :3]).as_quat()),
        "ground": {"x": round(x, _DIGITS), "y": round(y, _DIGITS), "yaw": round(yaw, _DIGITS)},
        "distance": round(view.distance, _DIGITS),
    }


def _rounded(values: np.ndarray, digits: int = _DIGITS) -> list[float]:
    return [round(float(value), digits) for value in values]
