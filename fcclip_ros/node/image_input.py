"""The image subscription of a camera, raw or compressed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image

from fcclip_ros.node.qos_matching import QosMatchingSubscription
from fcclip_ros.node.transport_topic import transport_topic

TRANSPORTS = ("raw", "compressed")


class ImageInput:
    """Subscribes to the images of a camera between `start` and `stop`."""

    def __init__(self, node: Node, name: str, callback: Callable[[Any], None]) -> None:
        """Does not subscribe yet.

        Args:
            node: The node.
            name: Topic of raw images before remapping; compressed images are on `NAME/compressed`.
            callback: Called with each Image or CompressedImage.
        """
        self._node = node
        self._name = name
        self._subscription = QosMatchingSubscription(node, callback, "images")

    def start(self, transport: str, reliability: str) -> None:
        """Subscribes.

        Args:
            transport: One of `TRANSPORTS`.
            reliability: One of `qos.RELIABILITIES`.
        """
        kind, suffix = (CompressedImage, "/compressed") if transport == "compressed" else (Image, "")
        topic = transport_topic(self._node, self._name, suffix, "compressed images")
        self._subscription.start(kind, topic, reliability)

    def stop(self) -> None:
        """Unsubscribes."""
        self._subscription.stop()

    @property
    def problem(self) -> str:
        """Why no image can be received although the topic has publishers; empty if there is no problem."""
        return self._subscription.problem

    def describe(self) -> str:
        """Human-readable description of the subscription."""
        return self._subscription.describe()
