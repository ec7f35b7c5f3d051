"""The subscription to the camera's images, raw or compressed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image

from fcclip_ros.following import Following

TRANSPORTS = ("raw", "compressed")


class ImageInput:
    """Subscribes to a camera topic while it is started."""

    def __init__(self, node: Node, name: str, callback: Callable[[Any], None]) -> None:
        """Prepares.

        Args:
            node: The node.
            name: Of the topic with raw images, before remapping; compressed ones are at `NAME/compressed`.
            callback: Gets every Image or CompressedImage.
        """
        self._node = node
        self._name = name
        self._following = Following(node, callback, "images")

    def start(self, transport: str, reliability: str) -> None:
        """Subscribes.

        Args:
            transport: One of `TRANSPORTS`.
            reliability: One of `qos.RELIABILITIES`.
        """
        kind = CompressedImage if transport == "compressed" else Image
        self._following.start(kind, self.topic(transport), reliability)

    def stop(self) -> None:
        """Unsubscribes."""
        self._following.stop()

    def topic(self, transport: str) -> str:
        """The full name of the topic that a transport reads.

        A remapping of the raw topic moves the compressed one along, as image_transport does; a remapping of that one
        goes before it.
        """
        if transport == "raw":
            return self._node.resolve_topic_name(self._name)
        compressed = f"{self._name}/compressed"
        direct = self._node.resolve_topic_name(compressed)
        if direct != self._node.resolve_topic_name(compressed, only_expand=True):
            return direct
        return f"{self._node.resolve_topic_name(self._name)}/compressed"

    def describe(self) -> str:
        """The subscription in words, for people."""
        return self._following.describe()
