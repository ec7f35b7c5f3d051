"""A subscription that follows what the publishers of its topic offer, as they come and go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import ReliabilityPolicy
from rclpy.subscription import Subscription

from fcclip_ros.qos import choose_reliability, image_profile

_RECHECK_PERIOD = 0.5
"""Seconds between two looks at what the publishers offer."""


class Following:
    """Subscribes to a camera's topic while it is started.

    The subscription is made and ended by the executor, whatever thread asks for it: an executor that waits on a
    subscription does not bear its end in another thread.
    """

    def __init__(self, node: Node, callback: Callable[[Any], None], what: str) -> None:
        """Prepares.

        Args:
            node: The node.
            callback: Gets every message.
            what: What the messages are, in the plural, for the log.
        """
        self._node = node
        self._callback = callback
        self._what = what
        self._wanted: tuple[type, str, str] | None = None
        self._subscription: Subscription | None = None
        self._subscribed: tuple[type, str, ReliabilityPolicy] | None = None
        self._changed = node.create_guard_condition(self._update)
        # The machine's clock: simulated time may stand still while publishers come and go.
        self._timer = node.create_timer(_RECHECK_PERIOD, self._update, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def start(self, kind: type, topic: str, reliability: str) -> None:
        """Subscribes.

        Args:
            kind: Type of the messages.
            topic: Full name.
            reliability: One of `qos.RELIABILITIES`.
        """
        self._wanted = (kind, topic, reliability)
        self._changed.trigger()

    def stop(self) -> None:
        """Unsubscribes."""
        self._wanted = None
        self._changed.trigger()

    def describe(self) -> str:
        """The subscription in words, for people."""
        if self._subscribed is None:
            return "not subscribed"
        _, topic, reliability = self._subscribed
        publishers = self._node.count_publishers(topic)
        return f"{topic}, {reliability.name.lower()}, {publishers} publisher{'s' * (publishers != 1)}"

    def _update(self) -> None:
        wanted = self._wanted
        if wanted is None:
            self._unsubscribe()
            return
        kind, topic, reliability = wanted
        offered = [info.qos_profile.reliability for info in self._node.get_publishers_info_by_topic(topic)]
        target = (kind, topic, choose_reliability(reliability, offered))
        if self._subscribed == target or (self._subscribed is not None and not offered):
            # Without a publisher any choice is right; keeping the old one spares a camera's restart two changes.
            return
        self._unsubscribe()
        self._subscription = self._node.create_subscription(kind, topic, self._callback, image_profile(target[2]))
        self._subscribed = target
        self._node.get_logger().info(f"reading {self._what} from {self.describe()}")

    def _unsubscribe(self) -> None:
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
        self._subscription, self._subscribed = None, None
