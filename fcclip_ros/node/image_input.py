"""The subscription to the camera's images, raw or compressed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image

from fcclip_ros.node.qos_matching import QosMatchingSubscription

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
        self._following = QosMatchingSubscription(node, callback, "images")

    def start(self, transport: str, reliability: str) -> None:
        """Subscribes.

        Args:
            transport: One of `TRANSPORTS`.
            reliability: One of `qos.RELIABILITIES`.
        """
        kind = CompressedImage if transport == "compressed" else Image
        self._following.start(kind, self._name_to_ask_for(transport), reliability)

    def stop(self) -> None:
        """Unsubscribes."""
        self._following.stop()

    @property
    def problem(self) -> str:
        """Why no image can be heard, although somebody publishes; empty while nothing is wrong."""
        return self._following.problem

    def describe(self) -> str:
        """The subscription in words, for people."""
        return self._following.describe()

    def _name_to_ask_for(self, transport: str) -> str:
        """The name to subscribe to, before remapping.

        A remapping of the raw topic moves the compressed one along, as image_transport does; a remapping of that one
        goes before it.
        """
        if transport == "raw":
            return self._name
        compressed = f"{self._name}/compressed"
        if self._node.resolve_topic_name(compressed) != self._node.resolve_topic_name(compressed, only_expand=True):
            return compressed
        moved = f"{self._node.resolve_topic_name(self._name)}/compressed"
        # rclpy applies the rules to this name too; one that starts where another ends leads on.
        if (led_on := self._node.resolve_topic_name(moved)) != moved:
            self._node.get_logger().warning(
                f"compressed images are read from {led_on}: {self._name} is remapped to "
                f"{moved.removesuffix('/compressed')}, and {moved} to {led_on}; remap {compressed} itself to choose"
            )
        return moved
