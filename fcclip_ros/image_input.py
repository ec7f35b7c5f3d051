"""The subscription to the camera: transport, reliability, and following the publishers as they come and go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image

from fcclip_ros.qos import choose_reliability, image_profile

TRANSPORTS = ("raw", "compressed")

_RECHECK_PERIOD = 0.5
"""Seconds between two looks at what the publishers offer."""


class ImageInput:
    """Subscribes to a camera topic while it is started.

    The subscription is made and ended by the executor, whatever thread asks for it: an executor that waits on a
    subscription does not bear its end in another thread.
    """

    def __init__(self, node: Node, name: str, callback: Callable[[Any], None]) -> None:
        """Prepares.

        Args:
            node: The node.
            name: Of the topic with raw images, before remapping; compressed ones are at `NAME/compressed`.
            callback: Gets every Image or CompressedImage.
        """
        self._node = node
        self._name = name
        self._callback = callback
        self._wanted: tuple[str, str] | None = None
        self._subscription: Subscription | None = None
        self._subscribed: tuple[str, ReliabilityPolicy] | None = None
        self._changed = node.create_guard_condition(self._update)
        # The machine's clock: simulated time may stand still while publishers come and go.
        self._timer = node.create_timer(_RECHECK_PERIOD, self._update, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def start(self, transport: str, reliability: str) -> None:
        """Subscribes.

        Args:
            transport: One of `TRANSPORTS`.
            reliability: One of `qos.RELIABILITIES`.
        """
        self._wanted = (transport, reliability)
        self._changed.trigger()

    def stop(self) -> None:
        """Unsubscribes."""
        self._wanted = None
        self._changed.trigger()

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
        if self._subscribed is None:
            return "not subscribed"
        topic, reliability = self._subscribed
        publishers = self._node.count_publishers(topic)
        return f"{topic}, {reliability.name.lower()}, {publishers} publisher{'s' * (publishers != 1)}"

    def _update(self) -> None:
        wanted = self._wanted
        if wanted is None:
            self._unsubscribe()
            return
        transport, reliability = wanted
        topic = self.topic(transport)
        offered = [info.qos_profile.reliability for info in self._node.get_publishers_info_by_topic(topic)]
        target = (topic, choose_reliability(reliability, offered))
        if self._subscribed == target or (self._subscribed is not None and not offered):
            # Without a publisher any choice is right; keeping the old one spares a camera's restart two changes.
            return
        self._unsubscribe()
        self._subscription = self._node.create_subscription(
            CompressedImage if transport == "compressed" else Image, topic, self._callback, image_profile(target[1])
        )
        self._subscribed = target
        self._node.get_logger().info(f"reading images from {self.describe()}")

    def _unsubscribe(self) -> None:
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
        self._subscription, self._subscribed = None, None
