"""The poses of keyframes, which objects follow when the map is corrected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from rclpy.node import Node
from scipy.spatial.transform import Rotation

from fcclip_core.errors import ObservationError, SettingsError
from fcclip_ros.compat import optional_module
from fcclip_ros.conversions.stamps import nanoseconds
from fcclip_ros.memory.parameters import MemoryParameters
from fcclip_ros.node.qos_matching import QosMatchingSubscription


class Keyframes:
    """Subscribes to a nav_msgs/Path between `start` and `stop`."""

    def __init__(self, node: Node, on_path: Callable[[Any], None]) -> None:
        """Does not subscribe yet; `on_path` is called with each message, in the executor."""
        self._subscription = QosMatchingSubscription(node, on_path, "keyframes")
        self.is_used = False

    def start(self, parameters: MemoryParameters) -> None:
        """Subscribes if the parameter path_topic names a topic.

        Raises:
            SettingsError: nav_msgs is not installed.
        """
        self.is_used = bool(parameters.path_topic)
        if not self.is_used:
            return
        navigation = optional_module("nav_msgs.msg")
        if navigation is None:
            raise SettingsError(
                "path_topic needs nav_msgs, which is not installed; install ros-$ROS_DISTRO-nav-msgs (as a wheel: pip "
                "install ros-nav-msgs==5.3.6), or leave path_topic empty"
            )
        self._subscription.start(navigation.Path, parameters.path_topic, parameters.image_reliability)

    def stop(self) -> None:
        """Unsubscribes."""
        self._subscription.stop()


def keyframes_of(message: Any, map_frame: str) -> tuple[np.ndarray, np.ndarray]:
    """Stamps `(N,)` in nanoseconds and poses `(N, 4, 4)` of a nav_msgs/Path.

    Raises:
        ObservationError: It is in another frame, or its poses have no stamps of their own.
    """
    if message.header.frame_id.lstrip("/") != map_frame:
        raise ObservationError(
            f"the path of keyframes is in {message.header.frame_id!r}, map_frame is {map_frame!r}; make them one"
        )
    stamps = np.array([nanoseconds(item.header.stamp) for item in message.poses], np.int64)
    if len(stamps) > 1 and (np.diff(stamps) == 0).any():
        raise ObservationError(
            "poses of the path of keyframes have the same stamp; path_topic needs a path whose poses have the times of "
            "their keyframes, not one for a planner"
        )
    places = np.array([[*_values(item.pose.position, "xyz")] for item in message.poses]).reshape(-1, 3)
    turns = np.array([[*_values(item.pose.orientation, "xyzw")] for item in message.poses]).reshape(-1, 4)
    if not np.isfinite(places).all() or not np.isfinite(turns).all() or not turns.any(axis=1).all():
        raise ObservationError("a pose of the path is not a rotation and a translation; normalize its quaternion")
    poses = np.tile(np.eye(4), (len(stamps), 1, 1))
    if len(stamps):
        poses[:, :3, :3], poses[:, :3, 3] = Rotation.from_quat(turns).as_matrix(), places
    return stamps, poses


def _values(message: Any, names: str) -> list[float]:
    return [getattr(message, name) for name in names]
