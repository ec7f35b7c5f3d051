"""3D results -> messages, in the optical frame of the camera or the target frame."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from geometry_msgs.msg import Point, Pose, Quaternion, TransformStamped, Vector3
from sensor_msgs.msg import PointCloud2, PointField

import fcclip_ros.msg as msg
from fcclip_core.geometry.cloud import POINT, organized_cloud
from fcclip_core.geometry.segments import SegmentGeometry, eroded
from fcclip_core.geometry.transform import RigidTransform
from fcclip_ros.conversions.message_data import blank_data

if TYPE_CHECKING:
    from fcclip_ros.conversions.frame import LabeledFrame

_DATATYPES = {"<f4": PointField.FLOAT32, "<u2": PointField.UINT16}


def _fields() -> list[PointField]:
    fields, offset = [], 0
    for name in POINT.names or ():
        # By convention of PCL and RViz the packed color is declared as a float.
        datatype = PointField.FLOAT32 if name == "rgb" else _DATATYPES[POINT[name].str]
        fields.append(PointField(name=name, offset=offset, datatype=datatype, count=1))
        offset += POINT[name].itemsize
    return fields


_FIELDS = _fields()


def points_message(frame: LabeledFrame) -> PointCloud2:
    """The organized point cloud of a frame, one point per pixel; x, y, z are NaN where depth is unknown.

    Args:
        frame: A frame with depth.
    """
    if frame.depth is None:
        raise ValueError("the frame has no depth")
    height, width = frame.result.segment_map.shape
    message, out = _blank_cloud(frame, height, width, is_dense=False)
    depth = frame.depth
    organized_cloud(frame.image, depth.meters, depth.camera, frame.result, out, depth.transform)
    return message


def fill_geometry(found: Sequence[msg.FoundSegment], frame: LabeledFrame) -> None:
    """Fills the 3D geometry and points of matches into their messages.

    Args:
        found: The messages; their points get the ids and scores of the messages.
        frame: A frame with depth; the segments of its result are the matches, with the ids 1, 2, ... in their order.
    """
    if frame.depth is None:
        raise ValueError("the frame has no depth")
    depth, geometry = frame.depth, geometry_messages(frame)
    points = organized_cloud(frame.image, depth.meters, depth.camera, frame.result, transform=depth.transform)
    used = eroded(frame.result.segment_map.astype(np.uint16), np.isfinite(points["z"]), frame.depth_erosion)
    for number, message in enumerate(found, 1):
        message.segment.geometry = geometry.get(number, msg.SegmentGeometry())
        own = points[used == number]
        own["segment_id"], own["confidence"] = message.segment.id, message.score
        message.cloud, data = _blank_cloud(frame, 1, len(own), is_dense=True)
        data[0] = own


def geometry_messages(frame: LabeledFrame) -> dict[int, msg.SegmentGeometry]:
    """The 3D geometry of the segments that have one, by segment id."""
    frame_id = frame.header_3d.frame_id
    return {number: geometry_message(geometry, frame_id) for number, geometry in frame.geometry.items()}


def geometry_message(geometry: SegmentGeometry, frame_id: str) -> msg.SegmentGeometry:
    """The 3D geometry of a segment in the frame `frame_id`."""
    return msg.SegmentGeometry(
        valid=True,
        frame_id=frame_id,
        centroid=_point(geometry.centroid),
        distance=geometry.distance,
        center=_point(geometry.center),
        extents=_vector(geometry.extents),
        oriented_center=make_pose(geometry.oriented_center, geometry.orientation),
        oriented_extents=_vector(geometry.oriented_extents),
        points=geometry.points,
    )


def detections_3d_message(frame: LabeledFrame, vision: ModuleType) -> object:
    """The thing segments with 3D geometry as vision_msgs/Detection3DArray; `id` is the segment id.

    The bounding box is the oriented one; the pose of the hypothesis is the centroid, without rotation.

    Args:
        frame: The frame.
        vision: The module `vision_msgs.msg`.
    """
    detections, header = [], frame.header_3d
    for segment in frame.result.segments:
        geometry = frame.geometry.get(segment.id)
        if geometry is None or not segment.is_thing:
            continue
        hypothesis = vision.ObjectHypothesisWithPose(
            hypothesis=vision.ObjectHypothesis(class_id=str(segment.class_id), score=segment.score)
        )
        hypothesis.pose.pose.position = _point(geometry.centroid)
        center = make_pose(geometry.oriented_center, geometry.orientation)
        bounds = vision.BoundingBox3D(center=center, size=_vector(geometry.oriented_extents))
        detections.append(vision.Detection3D(header=header, id=str(segment.id), bbox=bounds, results=[hypothesis]))
    return vision.Detection3DArray(header=header, detections=detections)


def _blank_cloud(frame: LabeledFrame, height: int, width: int, *, is_dense: bool) -> tuple[PointCloud2, np.ndarray]:
    """A cloud of zeros, and a view of its points `(height, width)` to write into."""
    message = PointCloud2(
        header=frame.header_3d,
        height=height,
        width=width,
        fields=_FIELDS,
        is_bigendian=False,
        point_step=POINT.itemsize,
        row_step=POINT.itemsize * width,
        is_dense=is_dense,
    )
    return message, blank_data(message.data, message.row_step * height).view(POINT).reshape(height, width)


def transform_from_message(message: TransformStamped) -> RigidTransform:
    """The transform of a message, from its child frame to the frame of its header.

    Raises:
        DepthError: It is no rigid transform.
    """
    moved, turned = message.transform.translation, message.transform.rotation
    return RigidTransform.from_quaternion((moved.x, moved.y, moved.z), (turned.x, turned.y, turned.z, turned.w))


def make_pose(position: np.ndarray, quaternion: np.ndarray) -> Pose:
    """A geometry_msgs/Pose from a position `(3,)` in meters and a quaternion (x, y, z, w)."""
    orientation = Quaternion(**dict(zip("xyzw", quaternion.tolist(), strict=True)))
    return Pose(position=_point(position), orientation=orientation)


def _point(values: np.ndarray) -> Point:
    return Point(**dict(zip("xyz", values.tolist(), strict=True)))


def _vector(values: np.ndarray) -> Vector3:
    return Vector3(**dict(zip("xyz", values.tolist(), strict=True)))
