"""fcclip_ros/SegmentArray -> the segments of an observation of the object memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

import fcclip_ros.msg as msg
from fcclip_core.errors import ObservationError
from fcclip_core.geometry.segments import SegmentGeometry
from fcclip_core.memory.observation import SeenSegment, is_cut
from fcclip_core.quoting import short
from fcclip_ros.conversions.messages import EMBEDDING_TYPES


def seen_segments(
    message: msg.SegmentArray,
    map_frame: str,
    map_from_camera: np.ndarray,
    camera_from: Callable[[str], np.ndarray],
) -> list[SeenSegment]:
    """The segments that have an embedding, in the camera's optical frame.

    Args:
        message: A frame's segments; their geometry may be in any one frame.
        map_frame: The map's frame.
        map_from_camera: float64 `(4, 4)`, the camera's pose at the frame's stamp.
        camera_from: Gives the transform `(4, 4)` from another frame than the image's to the camera; may raise.

    Raises:
        ObservationError: An embedding has an unknown type or the wrong size.
    """
    known: dict[str, np.ndarray | None] = {"": None, message.header.frame_id: None}
    found = []
    for item in message.segments:
        if not item.embedding_type:
            continue
        box = item.box
        corners = (box.x_offset, box.y_offset, box.x_offset + box.width, box.y_offset + box.height)
        geometry, bounds = None, None
        if item.geometry.valid:
            frame = item.geometry.frame_id
            if frame not in known:
                known[frame] = camera_from(frame)
            geometry = geometry_of_message(item.geometry)
            if frame == map_frame:
                half = geometry.extents / 2
                bounds = np.stack([geometry.center - half, geometry.center + half]) - map_from_camera[:3, 3]
            transform = known[frame]
            if transform is not None:
                geometry = in_camera(geometry, transform)
        found.append(
            SeenSegment(
                id=item.id,
                class_id=item.class_id,
                name=item.name,
                is_thing=item.is_thing,
                score=item.score,
                embedding=embedding_of(item),
                area=item.area,
                box=corners,
                geometry=geometry,
                cut=is_cut(corners, message.width, message.height),
                bounds=bounds,
            )
        )
    return found


def embedding_of(segment: msg.Segment) -> np.ndarray:
    """The embedding of a segment, float32 `(D,)`.

    Raises:
        ObservationError: Its type is unknown, or its size does not fit that.
    """
    kind = EMBEDDING_TYPES.get(segment.embedding_type)
    if not kind or len(segment.embedding) % np.dtype(kind).itemsize:
        raise ObservationError(
            f"segment {segment.id} has {len(segment.embedding)} bytes of an embedding of the type "
            f"{short(segment.embedding_type)}; expected float16 or float32"
        )
    return np.frombuffer(segment.embedding, kind).astype(np.float32)


def geometry_of_message(message: msg.SegmentGeometry) -> SegmentGeometry:
    """The geometry of a message, in the message's frame; its numbers are not checked."""
    turn = message.oriented_center.orientation
    return SegmentGeometry(
        centroid=_xyz(message.centroid),
        distance=message.distance,
        center=_xyz(message.center),
        extents=_xyz(message.extents),
        oriented_center=_xyz(message.oriented_center.position),
        orientation=np.array([turn.x, turn.y, turn.z, turn.w]),
        oriented_extents=_xyz(message.oriented_extents),
        points=message.points,
    )


def in_camera(geometry: SegmentGeometry, transform: np.ndarray) -> SegmentGeometry:
    """A geometry in the camera's frame, which a transform `(4, 4)` leads to.

    The oriented box is the same box; the axis-aligned one becomes what is inside both boxes, seen along the new axes.
    """
    turn, offset = transform[:3, :3], transform[:3, 3]
    if not geometry.orientation.any() or not np.isfinite(geometry.orientation).all():
        return geometry  # which the memory leaves out
    oriented = Rotation.from_quat(geometry.orientation)
    center, oriented_center = turn @ geometry.center + offset, turn @ geometry.oriented_center + offset
    half = np.abs(turn) @ (geometry.extents / 2)
    oriented_half = np.abs(turn @ oriented.as_matrix()) @ (geometry.oriented_extents / 2)
    low = np.maximum(center - half, oriented_center - oriented_half)
    high = np.maximum(np.minimum(center + half, oriented_center + oriented_half), low)
    return replace(
        geometry,
        centroid=turn @ geometry.centroid + offset,
        center=(low + high) / 2,
        extents=high - low,
        oriented_center=oriented_center,
        orientation=(Rotation.from_matrix(turn) * oriented).as_quat(),
    )


def _xyz(message: Any) -> np.ndarray:
    return np.array([message.x, message.y, message.z], np.float64)
