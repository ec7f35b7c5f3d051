"""camera_info: the subscription, and the message that belongs to an image."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import CameraInfo

from fcclip_ros.conversions.stamps import nanoseconds, nearest
from fcclip_ros.node.qos_matching import QosMatchingSubscription

_KEPT = 64
"""Buffered messages."""


class InfoInput:
    """The latest messages of a camera's camera_info."""

    def __init__(self, node: Node, topic: str) -> None:
        """Does not subscribe yet; `topic` is the name before remapping."""
        self._topic = topic
        self._subscription = QosMatchingSubscription(node, self._on_info, "camera_info")
        self._lock = threading.Lock()
        self._kept: deque[CameraInfo] = deque(maxlen=_KEPT)

    def start(self, reliability: str) -> None:
        """Subscribes; `reliability` is one of `qos.RELIABILITIES`."""
        self._subscription.start(CameraInfo, self._topic, reliability)

    def stop(self) -> None:
        """Unsubscribes and forgets all messages."""
        self._subscription.stop()
        with self._lock:
            self._kept.clear()

    def at(self, header: Any) -> CameraInfo | None:
        """The message with the stamp nearest to that of an image's header; None while there is none."""
        with self._lock:
            return nearest(nanoseconds(header.stamp), ((nanoseconds(info.header.stamp), info) for info in self._kept))

    def describe(self) -> str:
        """The topic with its QoS."""
        return self._subscription.describe()

    def _on_info(self, message: CameraInfo) -> None:
        with self._lock:
            self._kept.append(message)
