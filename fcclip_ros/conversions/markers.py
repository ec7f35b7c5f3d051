"""3D results -> markers for RViz: a box for each thing, and its name above it."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

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
        sides = (max(float(side), _THINNEST) for side in geometry.oriented_extents)
        box = kind(
            **common,
            ns="boxes",
            type=kind.CUBE,
            pose=make_pose(geometry.oriented_center, geometry.orientation),
            scale=Vector3(**dict(zip("xyz", sides, strict=True))),
            color=ColorRGBA(r=red, g=green, b=blue, a=_OPACITY),
        )
        name = kind(
            **common,
            ns="names",
            type=kind.TEXT_VIEW_FACING,
            pose=Pose(position=_above(frame, geometry)),
            scale=Vector3(z=_TEXT_HEIGHT),
            color=ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0),
            text=_text(segment, show_ids),
        )
        markers += [box, name]
    return visualization.MarkerArray(markers=markers)


def _above(frame: LabeledFrame, geometry: SegmentGeometry) -> Point:
    """The middle of a text above a box: up is -y in the camera's optical frame, z in all others (REP 103)."""
    axis, up = (1, -1.0) if frame.depth is None or frame.depth.transform is None else (2, 1.0)
    place = geometry.center.copy()
    place[axis] += up * (geometry.extents[axis] / 2 + _TEXT_HEIGHT)
    return Point(**dict(zip("xyz", place.tolist(), strict=True)))


def _text(segment: Segment, show_ids: bool) -> str:
    return f"{segment.name}{f' #{segment.id}' if show_ids else ''} {segment.score:.2f}"
