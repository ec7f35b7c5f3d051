"""Where a camera was in the map at the stamp of an image: by transforms on /tf, or by a topic of poses."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from geometry_msgs.msg import PoseStamped, PoseWithCovarianceStamped
from rclpy.node import Node
from scipy.spatial.transform import Rotation

from fcclip_core.errors import SettingsError
from fcclip_core.geometry.transform import rigid_matrix
from fcclip_core.memory.observation import pose_covariance
from fcclip_core.settings import AUTO
from fcclip_ros.compat import optional_module
from fcclip_ros.conversions.stamps import nanoseconds
from fcclip_ros.memory.parameters import TF, TOPIC, MemoryParameters
from fcclip_ros.memory.pose_history import MissingPose, PoseHistory, StampedPose
from fcclip_ros.node.qos_matching import QosMatchingSubscription
from fcclip_ros.node.transforms import Lookup, MissingTransform, PatientLookup, Transforms, frame_of

_SILENCE = 1.0
"""Seconds without a pose after which frames no longer wait for one."""


@dataclass(frozen=True)
class CameraPose:
    """Where a camera was.

    Attributes:
        matrix: float64 `(4, 4)`, from its optical frame to the map.
        covariance: float64 `(6, 6)`, as `Observation.pose_covariance`.
        base_from_camera: float64 `(4, 4)`, from its optical frame to the robot's base; None if unknown.
    """

    matrix: np.ndarray
    covariance: np.ndarray
    base_from_camera: np.ndarray | None = None


class PoseSource(Protocol):
    """Poses of one camera; `find` and `camera_from` are called on the memory's thread."""

    def start(self, parameters: MemoryParameters, offset: np.ndarray) -> None:
        """Begins to receive poses; `offset` is `MemoryParameters.offset_of` the camera."""
        ...

    def stop(self) -> None:
        """Ends that."""
        ...

    def apply(self, parameters: MemoryParameters) -> None:
        """Applies the parameters that may change at any time."""
        ...

    def clear(self) -> None:
        """Forgets what was received, after the clock jumped back."""
        ...

    def find(self, header: Any, deadline: float) -> CameraPose:
        """The pose at the stamp of an image, waited for until a monotonic time in seconds.

        Raises:
            MissingPose: There is none.
        """
        ...

    def camera_from(self, frame: str, header: Any, pose: CameraPose) -> np.ndarray:
        """A transform `(4, 4)` from a frame, other than the image's, to the camera's optical frame.

        Raises:
            MissingPose: It is not known.
        """
        ...

    def describe(self) -> str:
        """Human-readable description, for the diagnostics."""
        ...


def chosen_source(requested: str) -> tuple[str, str]:
    """Where poses come from: `TF` or `TOPIC`, and a sentence for the log if that was not obvious.

    Raises:
        SettingsError: Transforms are requested, and tf2_ros is not installed.
    """
    available = optional_module("tf2_ros") is not None
    if requested == TF and not available:
        raise SettingsError(
            "pose_source is tf, but tf2_ros is not installed; install ros-$ROS_DISTRO-tf2-ros-py (there is no wheel of "
            "it), or set pose_source:=topic and publish poses"
        )
    if requested != AUTO:
        return requested, ""
    if available:
        return TF, ""
    return TOPIC, "tf2_ros is not installed: the cameras' poses are read from the topic pose"


class TransformPoses:
    """Poses from /tf, at the stamp of the image; see `Transforms`."""

    def __init__(self, transforms: Transforms) -> None:
        """Does not subscribe: the node does, once for all cameras."""
        self._transforms = transforms
        self._lookup = PatientLookup(transforms)
        self._parameters = MemoryParameters.defaults()
        self._base_from_camera: np.ndarray | None = None

    def start(self, parameters: MemoryParameters, offset: np.ndarray) -> None:
        """See `PoseSource`; the offset is part of /tf."""
        self._parameters = parameters
        self._base_from_camera = None
        self._lookup.restart()

    def stop(self) -> None:
        """See `PoseSource`."""

    def apply(self, parameters: MemoryParameters) -> None:
        """See `PoseSource`."""
        self._parameters = parameters

    def clear(self) -> None:
        """See `PoseSource`."""
        self._lookup.restart()

    def find(self, header: Any, deadline: float) -> CameraPose:
        """See `PoseSource`."""
        try:
            source, stamp = frame_of(header), nanoseconds(header.stamp)
            found = self._lookup.find(Lookup(self._parameters.map_frame, source, stamp, deadline))
        except MissingTransform as missing:
            raise MissingPose(
                f"there is no transform from {header.frame_id!r} to {self._parameters.map_frame!r}: {missing}"
            ) from None
        covariance = pose_covariance(self._parameters.pose_translation_std, self._parameters.pose_rotation_std)
        self._note_base(source, stamp)
        return CameraPose(rigid_matrix(found.rotation, found.translation), covariance, self._base_from_camera)

    def camera_from(self, frame: str, header: Any, pose: CameraPose) -> np.ndarray:
        """See `PoseSource`."""
        if frame == self._parameters.map_frame:
            return np.linalg.inv(pose.matrix)
        try:
            lookup = Lookup(frame_of(header), frame.lstrip("/"), nanoseconds(header.stamp), time.monotonic())
            found = self._transforms.find(lookup, wait=False)
        except MissingTransform as missing:
            raise MissingPose(f"there is no transform from {frame!r} to {header.frame_id!r}: {missing}") from None
        return rigid_matrix(found.rotation, found.translation)

    def describe(self) -> str:
        """See `PoseSource`."""
        return f"/tf, to {self._parameters.map_frame}"

    def _note_base(self, camera: str, stamp: int) -> None:
        if not self._parameters.base_frame:
            return
        try:
            lookup = Lookup(self._parameters.base_frame, camera, stamp, time.monotonic())
            found = self._transforms.find(lookup, wait=False)
        except MissingTransform:  # a camera without a robot
            return
        self._base_from_camera = rigid_matrix(found.rotation, found.translation)


class TopicPoses:
    """Poses from a topic, with a fixed offset of the camera."""

    def __init__(self, node: Node, topic: str) -> None:
        """Does not subscribe yet; `topic` is the name before remapping."""
        self._node = node
        self._topic = topic
        self._subscription = QosMatchingSubscription(node, self._on_pose, "poses")
        self._parameters = MemoryParameters.defaults()
        self._offset = np.eye(4)
        self._changed = threading.Condition()
        self._history = PoseHistory()
        self._arrived = 0.0
        self._problem = ""

    def start(self, parameters: MemoryParameters, offset: np.ndarray) -> None:
        """See `PoseSource`.

        Raises:
            SettingsError: The messages' package is not installed.
        """
        kind = pose_message_type(parameters.pose_type)
        with self._changed:
            self._parameters, self._offset, self._problem = parameters, offset, ""
            self._history.clear()
        self._subscription.start(kind, self._topic, parameters.image_reliability, depth=20)

    def stop(self) -> None:
        """See `PoseSource`."""
        self._subscription.stop()

    def apply(self, parameters: MemoryParameters) -> None:
        """See `PoseSource`."""
        with self._changed:
            self._parameters = parameters

    def clear(self) -> None:
        """See `PoseSource`; a jump back of the poses' own stamps is noticed by themselves."""

    def find(self, header: Any, deadline: float) -> CameraPose:
        """See `PoseSource`."""
        stamp = nanoseconds(header.stamp)
        with self._changed:
            seconds = deadline - time.monotonic()
            if seconds > 0 and time.monotonic() - self._arrived < _SILENCE:
                self._changed.wait_for(lambda: self._history.newest >= stamp, seconds)
            if self._problem:
                raise MissingPose(self._problem)
            try:
                pose = self._history.at(stamp)
            except MissingPose as missing:
                raise MissingPose(f"{missing} ({self._subscription.describe()})") from None
            parameters, offset = self._parameters, self._offset
        own = pose.covariance if parameters.use_pose_covariance else None
        covariance = pose_covariance(parameters.pose_translation_std, parameters.pose_rotation_std)
        covariance = _at_camera(covariance if own is None else own, pose.matrix[:3, :3] @ offset[:3, 3])
        return CameraPose(pose.matrix @ offset, covariance, None if np.array_equal(offset, np.eye(4)) else offset)

    def camera_from(self, frame: str, header: Any, pose: CameraPose) -> np.ndarray:
        """See `PoseSource`."""
        if frame == self._parameters.map_frame:
            return np.linalg.inv(pose.matrix)
        raise MissingPose(
            f"the segments' geometry is in {frame!r}, and poses from a topic do not say where that is; set the "
            f"perception node's target_frame to empty or to {self._parameters.map_frame}"
        )

    def describe(self) -> str:
        """See `PoseSource`."""
        return self._subscription.describe()

    def _on_pose(self, message: Any) -> None:
        pose, covariance = message.pose, None
        if not isinstance(message, PoseStamped):
            pose, covariance = message.pose.pose, np.array(message.pose.covariance, np.float64).reshape(6, 6)
        expected = self._parameters.map_frame
        problem = ""
        if message.header.frame_id.lstrip("/") != expected:
            problem = (
                f"the poses are in the frame {message.header.frame_id!r}, map_frame is {expected!r}; make them one"
            )
        place, turn = pose.position, pose.orientation
        values = np.array([place.x, place.y, place.z, turn.x, turn.y, turn.z, turn.w])
        if not np.isfinite(values).all() or not 0.99 < np.linalg.norm(values[3:]) < 1.01:
            problem = (
                problem or "the poses have numbers that are not finite, or no unit quaternion; check their publisher"
            )
        with self._changed:
            self._problem, self._arrived = problem, time.monotonic()
            if not problem:
                matrix = rigid_matrix(Rotation.from_quat(values[3:]).as_matrix(), values[:3])
                self._history.add(StampedPose(nanoseconds(message.header.stamp), matrix, _usable(covariance)))
            self._changed.notify_all()


def pose_message_type(name: str) -> type:
    """The message type of one of `POSE_TYPES`.

    Raises:
        SettingsError: Its package is not installed.
    """
    if name != "Odometry":
        return PoseStamped if name == "PoseStamped" else PoseWithCovarianceStamped
    navigation = optional_module("nav_msgs.msg")
    if navigation is None:
        raise SettingsError(
            "pose_type is Odometry, but nav_msgs is not installed; install ros-$ROS_DISTRO-nav-msgs (as a wheel: pip "
            "install ros-nav-msgs==5.3.6), or publish a PoseWithCovarianceStamped"
        )
    kind: type = navigation.Odometry
    return kind


def _usable(covariance: np.ndarray | None) -> np.ndarray | None:
    """A covariance, None if the message left it at zero or it is none."""
    if covariance is None or not np.isfinite(covariance).all() or not (np.diag(covariance) > 0).any():
        return None
    return covariance if (np.diag(covariance) >= 0).all() else None


def _at_camera(covariance: np.ndarray, lever: np.ndarray) -> np.ndarray:
    """The covariance of a camera's pose, from that of the base, at the end of a lever in the map's axes."""
    x, y, z = lever
    moved = np.eye(6)
    moved[:3, 3:] = [[0, z, -y], [-z, 0, x], [y, -x, 0]]
    result: np.ndarray = moved @ covariance @ moved.T
    return result
