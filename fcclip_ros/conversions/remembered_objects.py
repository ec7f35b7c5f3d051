"""Remembered objects and answers -> messages; and what requests ask for -> questions and areas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Pose, PoseStamped, PoseWithCovariance, Vector3
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import ColorRGBA, Header

import fcclip_ros.msg as msg
import fcclip_ros.srv as srv
from fcclip_core.errors import SettingsError
from fcclip_core.memory.areas import Area, Circle, Polygon
from fcclip_core.memory.asking import Answer, Question
from fcclip_core.memory.objects import RememberedObject, State, View
from fcclip_core.vocabulary.query import Query
from fcclip_ros.conversions.markers import box_with_name
from fcclip_ros.conversions.messages_3d import make_pose

_STATES = {
    State.TENTATIVE: msg.RememberedObject.TENTATIVE,
    State.CONFIRMED: msg.RememberedObject.CONFIRMED,
    State.GONE: msg.RememberedObject.GONE,
}

_COLORS = ((0.12, 0.47, 0.71), (1.0, 0.5, 0.05), (0.17, 0.63, 0.17), (0.84, 0.15, 0.16), (0.58, 0.4, 0.74))
"""Of objects, by their ids; red, green, blue, 0..1."""


def object_message(item: RememberedObject, *, embedding: bool = False) -> msg.RememberedObject:
    """An object, with its embedding if wanted."""
    names = sorted(item.names, key=lambda name: -item.names[name].score_sum)
    covariance = np.zeros((6, 6))
    covariance[:3, :3] = item.covariance
    pose = PoseWithCovariance(pose=Pose(position=_point(item.position)), covariance=covariance.ravel())
    message = msg.RememberedObject(
        id=item.id,
        name=item.name,
        own_name=item.own_name,
        names=names,
        name_looks=[item.names[name].looks for name in names],
        name_scores=[item.names[name].score_sum for name in names],
        state=_STATES[item.state],
        existence=item.existence,
        is_thing=item.is_thing,
        pose=pose,
        box_center=_point(item.center),
        extents=Vector3(**_xyz(item.extents)),
        first_seen=time_message(item.first_seen),
        last_seen=time_message(item.last_seen),
        looks=item.looks,
        camera=item.best_view.camera_name,
    )
    if embedding:
        message.embedding_type = "float32"
        message.embedding.frombytes(item.embedding.astype("<f4").tobytes())
    return message


def objects_message(
    items: Sequence[RememberedObject], total: int, header: Header, *, embeddings: bool
) -> msg.RememberedObjectArray:
    """The objects of a map.

    Args:
        items: The objects to list.
        total: Number of confirmed objects in all.
        header: The map's frame and the time.
        embeddings: Whether they have their embeddings.
    """
    objects = [object_message(item, embedding=embeddings) for item in items]
    return msg.RememberedObjectArray(header=header, total=total, objects=objects)


def object_markers(items: Sequence[RememberedObject], header: Header, visualization: ModuleType) -> object:
    """A box and a name for each object, as visualization_msgs/MarkerArray; marker ids are object ids."""
    kind = visualization.Marker
    markers = [kind(header=header, action=kind.DELETEALL)]
    for item in items:
        red, green, blue = _COLORS[item.id % len(_COLORS)]
        markers += box_with_name(
            kind,
            {"header": header, "id": item.id, "action": kind.ADD},
            make_pose(item.center, np.array([0.0, 0.0, 0.0, 1.0])),
            item.extents,
            ColorRGBA(r=red, g=green, b=blue),
            f"{item.name or 'unnamed'} #{item.id}",
            item.center + (0, 0, item.extents[2] / 2),
        )
    return visualization.MarkerArray(markers=markers)


def object_detections(items: Sequence[RememberedObject], header: Header, vision: ModuleType) -> object:
    """The objects as vision_msgs/Detection3DArray: `id` is the object id, `class_id` its name, the score existence."""
    detections = []
    for item in items:
        hypothesis = vision.ObjectHypothesisWithPose(
            hypothesis=vision.ObjectHypothesis(class_id=item.name, score=item.existence)
        )
        hypothesis.pose = object_message(item).pose
        box = vision.BoundingBox3D(
            center=make_pose(item.center, np.array([0.0, 0.0, 0.0, 1.0])), size=Vector3(**_xyz(item.extents))
        )
        detections.append(vision.Detection3D(header=header, id=str(item.id), bbox=box, results=[hypothesis]))
    return vision.Detection3DArray(header=header, detections=detections)


def answer_message(
    answer: Answer, header: Header, base_from_camera: Callable[[str], np.ndarray | None]
) -> msg.RecalledObject:
    """An answer of ~/recall.

    Args:
        answer: The answer.
        header: The map's frame and the time of the answer.
        base_from_camera: Gives the transform `(4, 4)` from a camera's optical frame to the robot's base, by the
            camera's name; None if it is unknown.
    """
    item, view = answer.object, answer.approach
    message = msg.RecalledObject(object=object_message(item), probability=answer.probability, age=answer.age)
    if item.crop:
        seen = Header(stamp=time_message(item.best_view.stamp), frame_id=header.frame_id)
        message.crop = CompressedImage(header=seen, format="jpeg")
        message.crop.data.frombytes(item.crop)
    if view is not None:
        message.has_approach = True
        pose = view.map_from_camera
        turn = Rotation.from_matrix(pose[:3, :3]).as_quat()
        message.approach = PoseStamped(header=header, pose=make_pose(pose[:3, 3], turn))
        message.goal = PoseStamped(header=header, pose=goal_pose(view, base_from_camera(view.camera_name)))
    return message


def goal_pose(view: View, base_from_camera: np.ndarray | None) -> Pose:
    """Where the robot's base stood at a view, on the floor; where the camera stood if its place is unknown."""
    x, y, yaw = view.ground_pose
    if base_from_camera is not None:
        base = view.map_from_camera @ np.linalg.inv(base_from_camera)
        x, y, yaw = float(base[0, 3]), float(base[1, 3]), float(np.arctan2(base[1, 0], base[0, 0]))
    return make_pose(np.array([x, y, 0.0]), np.array([0.0, 0.0, np.sin(yaw / 2), np.cos(yaw / 2)]))


def question_of(request: srv.Recall.Request) -> Question:
    """The question of a request.

    Raises:
        VocabularyError: No word, or an invalid one.
        SettingsError: A number is out of range.
    """
    states = (State.CONFIRMED, State.GONE) if request.include_gone else (State.CONFIRMED,)
    return Question(
        query=Query.of(request.words, request.distractors),
        area=area_of(request),
        max_age=request.max_age or None,
        min_probability=request.minimum_probability,
        called=tuple(request.called),
        states=states,
        limit=request.limit,
    )


def area_of(request: srv.Recall.Request | srv.ForgetObjects.Request) -> Area | None:
    """The area of a request; None for everywhere.

    Raises:
        SettingsError: It is no area, or there are two.
    """
    corners = [(corner.x, corner.y) for corner in request.area.points]
    if corners and request.radius:
        raise SettingsError("area and radius are both given; give one of them")
    if corners:
        return Polygon(corners)
    return Circle(request.center.x, request.center.y, request.radius) if request.radius else None


def time_message(nanoseconds: int) -> Time:
    """A time; beyond what the message holds, its limits."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return Time(sec=min(max(seconds, -(2**31)), 2**31 - 1), nanosec=rest)


def _point(values: np.ndarray) -> Point:
    return Point(**_xyz(values))


def _xyz(values: np.ndarray) -> dict[str, Any]:
    return dict(zip("xyz", values.tolist(), strict=True))
