"""The image subscription of a camera, raw or compressed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image

from fcclip_ros.node.qos_matching import QosMatchingSubscription

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
        kind = CompressedImage if transport == "compressed" else Image
        self._subscription.start(kind, self._topic(transport), reliability)

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

    def _topic(self, transport: str) -> str:
        """The topic to subscribe to, before remapping.

        A remapping of the raw topic also applies to the compressed one, as in image_transport; a remapping of the
        compressed topic itself takes precedence.
        """
        if transport == "raw":
            return self._name
        compressed = f"{self._name}/compressed"
        if self._node.resolve_topic_name(compressed) != self._node.resolve_topic_name(compressed, only_expand=True):
            return compressed
        moved = f"{self._node.resolve_topic_name(self._name)}/compressed"
        # rclpy remaps this name once more, so that two rules may be chained.
        if (chained := self._node.resolve_topic_name(moved)) != moved:
            self._node.get_logger().warning(
                f"compressed images are read from {chained}: {self._name} is remapped to "
                f"{moved.removesuffix('/compressed')}, and {moved} to {chained}; remap {compressed} to change that"
            )
        return moved
