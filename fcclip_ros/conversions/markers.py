"""3D results -> markers for RViz: a box for each thing, and its name above it."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point, Pose, Vector3
from std_msgs.msg import ColorRGBA

from fcclip_ros.conversions.messages_3d import make_pose

if TYPE_CHECKING:
    from fcclip_core.geometry.segments import SegmentGeometry
    from fcclip_core.results import Segment
    from fcclip_ros.conversions.frame import LabeledFrame

_LIFETIME = Duration(sec=5)
"""Boxes of a node that died disappear after this time; longer than the slowest models take for a frame."""

_OPACITY = 0.4

_TEXT_HEIGHT = 0.1
"""Height of the letters in meters."""

_UP = np.array([0.0, 0.0, 1.0])

_THINNEST = 0.005
"""Smallest side of a box in meters: RViz refuses markers without thickness."""


def markers_message(frame: LabeledFrame, visualization: ModuleType, *, show_ids: bool = False) -> object:
    """The thing segments with 3D geometry as visualization_msgs/MarkerArray.

    Each has an oriented box (namespace `boxes`) and a text above it (`names`), both with the segment id as marker id.

    Args:
        frame: The frame.
        visualization: The module `visualization_msgs.msg`.
        show_ids: Whether texts contain the segment ids, which are stable with tracking.
    """
    kind, header = visualization.Marker, frame.header_3d
    # All earlier markers at once: a subscriber that lost a message, since only the latest is kept, would keep markers
    # that are deleted one by one.
    markers = [kind(header=header, action=kind.DELETEALL)]
    colors = {row.id: row.color for row in frame.snapshot.published}
    for segment in frame.result.segments:
        geometry = frame.geometry.get(segment.id)
        if geometry is None or not segment.is_thing:
            continue
        red, green, blue = (channel / 255 for channel in colors.get(segment.class_id, (255, 255, 255)))
        # Not frame-locked: a box stays where it was at its stamp, although the camera moves on.
        common: dict[str, Any] = {"header": header, "id": segment.id, "action": kind.ADD, "lifetime": _LIFETIME}
        markers += box_with_name(
            kind,
            common,
            make_pose(geometry.oriented_center, geometry.orientation),
            geometry.oriented_extents,
            ColorRGBA(r=red, g=green, b=blue),
            _text(segment, show_ids),
            *_top(frame, geometry),
        )
    return visualization.MarkerArray(markers=markers)


def box_with_name(
    kind: Any,
    common: dict[str, Any],
    pose: Pose,
    sides: np.ndarray,
    color: ColorRGBA,
    text: str,
    top: np.ndarray,
    up: np.ndarray = _UP,
) -> list[Any]:
    """Two markers: a translucent box (namespace `boxes`), and a text above it (`names`).

    Args:
        kind: The class `visualization_msgs.msg.Marker`.
        common: Header, id and action of both.
        pose: Center and axes of the box.
        sides: `(3,)`, sides of the box, meters.
        color: Of the box; its opacity is ignored.
        text: The text.
        top: `(3,)`, where the text stands.
        up: `(3,)`, unit vector upwards.
    """
    thick = (max(float(side), _THINNEST) for side in sides)
    box = kind(
        **common,
        ns="boxes",
        type=kind.CUBE,
        pose=pose,
        scale=Vector3(**dict(zip("xyz", thick, strict=True))),
        color=ColorRGBA(r=color.r, g=color.g, b=color.b, a=_OPACITY),
    )
    place = dict(zip("xyz", (top + up * _TEXT_HEIGHT).tolist(), strict=True))
    name = kind(
        **common,
        ns="names",
        type=kind.TEXT_VIEW_FACING,
        pose=Pose(position=Point(**place)),
        scale=Vector3(z=_TEXT_HEIGHT),
        color=ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0),
        text=text,
    )
    return [box, name]


def _top(frame: LabeledFrame, geometry: SegmentGeometry) -> tuple[np.ndarray, np.ndarray]:
    """The top of a box, and up: -y in the camera's optical frame, z in all others (REP 103)."""
    up = np.array([0.0, -1.0, 0.0]) if frame.depth is None or frame.depth.transform is None else _UP
    return geometry.center + up * (geometry.extents / 2), up


def _text(segment: Segment, show_ids: bool) -> str:
    return f"{segment.name}{f' #{segment.id}' if show_ids else ''} {segment.score:.2f}"
