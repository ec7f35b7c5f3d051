"""A subscription whose QoS matches what the publishers of its topic offer, as they come and go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from rclpy.subscription import Subscription

from fcclip_ros.qos import choose_durability, choose_reliability, image_profile

_RECHECK_PERIOD = 0.5
"""Seconds between checks of the offered QoS."""

_COMPRESSED_TYPE = "sensor_msgs/msg/CompressedImage"
_RAW_TYPE = "sensor_msgs/msg/Image"


@dataclass(frozen=True)
class _Compressed:
    """How an input is read compressed: its topic before remapping, the value of its parameter, and a verb."""

    topic: str
    transport: str
    verb: str

    @property
    def suffix(self) -> str:
        """What image_transport appends to the topic."""
        return f"/{self.transport}"

    @property
    def parameter(self) -> str:
        """The parameter that chooses the transport."""
        return f"{self.topic}_transport"


_COMPRESSED = {
    "images": _Compressed("image", "compressed", "are"),
    "depth": _Compressed("depth", "compressedDepth", "is"),
}
"""By what the messages are."""


@dataclass(frozen=True)
class _Target:
    """Message type, topic before remapping, and QoS of a subscription."""

    kind: type
    topic: str
    depth: int
    reliability: ReliabilityPolicy
    durability: DurabilityPolicy


class QosMatchingSubscription:
    """Subscribes to a camera topic between `start` and `stop`.

    The subscription is created and destroyed in the executor, whichever thread calls: an executor must not wait on a
    subscription that another thread destroys.

    Attributes:
        problem: Why no message can be received although the topic has publishers; empty if there is no problem.
    """

    def __init__(self, node: Node, callback: Callable[[Any], None], what: str) -> None:
        """Does not subscribe yet.

        Args:
            node: The node.
            callback: Called with each message.
            what: What the messages are, in the plural, for the log.
        """
        self.problem = ""
        self._node = node
        self._callback = callback
        self._what = what
        self._requested: tuple[type, str, str, int] | None = None
        self._subscription: Subscription | None = None
        self._subscribed: _Target | None = None
        self._changed = node.create_guard_condition(self._update)
        # Steady time: simulated time may be paused while publishers come and go.
        self._timer = node.create_timer(_RECHECK_PERIOD, self._update, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def start(self, kind: type, topic: str, reliability: str, depth: int = 1) -> None:
        """Subscribes.

        Args:
            kind: Message type.
            topic: Name before remapping: rclpy applies the rules, which must not be applied twice.
            reliability: One of `qos.RELIABILITIES`.
            depth: Most messages that wait for the executor; the newest ones are kept.
        """
        self._requested = (kind, topic, reliability, depth)
        self._changed.trigger()

    def stop(self) -> None:
        """Unsubscribes."""
        self._requested = None
        self._changed.trigger()

    def describe(self) -> str:
        """Human-readable description of the subscription."""
        subscription, target = self._subscription, self._subscribed
        if subscription is None or target is None:
            return "not subscribed"
        count = len(self._node.get_publishers_info_by_topic(target.topic))
        latched = ", transient_local" if target.durability == DurabilityPolicy.TRANSIENT_LOCAL else ""
        publishers = f"{count} publisher{'s' * (count != 1)}"
        return f"{subscription.topic_name}, {target.reliability.name.lower()}{latched}, {publishers}"

    def _update(self) -> None:
        requested = self._requested
        if requested is None:
            self._unsubscribe()
            return
        kind, topic, reliability, depth = requested
        publishers = self._node.get_publishers_info_by_topic(topic)
        self._update_problem(kind, topic, {info.topic_type for info in publishers})
        offered = [info.qos_profile for info in publishers if info.topic_type == type_name(kind)]
        target = _Target(
            kind,
            topic,
            depth,
            choose_reliability(reliability, [profile.reliability for profile in offered]),
            choose_durability([profile.durability for profile in offered]),
        )
        if self._subscribed == target or (self._subscribed is not None and not offered):
            # Without publishers any QoS will do; keeping it avoids two resubscriptions when a camera restarts.
            return
        self._unsubscribe()
        self._subscription = self._node.create_subscription(
            kind, topic, self._callback, image_profile(target.reliability, target.durability, target.depth)
        )
        self._subscribed = target
        self._node.get_logger().info(f"reading {self._what} from {self.describe()}")

    def _unsubscribe(self) -> None:
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
        self._subscription, self._subscribed, self.problem = None, None, ""

    def _update_problem(self, kind: type, topic: str, published: set[str]) -> None:
        """Detects a topic of another type, and images that are published raw or compressed on another topic."""
        expected, name = type_name(kind), self._node.resolve_topic_name(topic)
        problem = ""
        if published and expected not in published:
            problem = (
                f"{name} has the type {', '.join(sorted(published))}, but {self._what} are subscribed as {expected}; "
                f"{self._advice(expected, published)}"
            )
        elif not published:
            problem = self._elsewhere(expected, name)
        if problem and problem != self.problem:
            self._node.get_logger().warning(problem)
        self.problem = problem

    def _elsewhere(self, expected: str, name: str) -> str:
        """Which related topic has the messages while `name` has no publishers; empty if there is none."""
        # Fully qualified names from the graph, which must not be remapped.
        types = {topic: set(kinds) for topic, kinds in self._node.get_topic_names_and_types()}
        packed = _COMPRESSED.get(self._what)
        if packed is None:
            return ""
        base = name.removesuffix(packed.suffix)
        if expected == _COMPRESSED_TYPE and base.endswith(packed.suffix) and _COMPRESSED_TYPE in types.get(base, ()):
            return (
                f"{name} has no publishers; compressed {self._what} {packed.verb} on {base}: remap {packed.topic} to "
                f"{base.removesuffix(packed.suffix)}, without {packed.suffix}"
            )
        compressed = name + packed.suffix
        if expected == _RAW_TYPE and _COMPRESSED_TYPE in types.get(compressed, ()):
            return (
                f"{name} has no publishers, but {compressed} has compressed {self._what}; set "
                f"{packed.parameter}:={packed.transport}"
            )
        return ""

    def _advice(self, expected: str, published: set[str]) -> str:
        packed = _COMPRESSED.get(self._what)
        if packed is not None and published == {_COMPRESSED_TYPE}:
            return (
                f"set {packed.parameter}:={packed.transport} and remap {packed.topic} to the name without "
                f"{packed.suffix}"
            )
        if packed is not None and published == {_RAW_TYPE} and expected == _COMPRESSED_TYPE:
            return f"set {packed.parameter}:=raw"
        return "check the remapping"


def type_name(kind: type) -> str:
    """Name of a message type in the ROS graph, such as sensor_msgs/msg/Image."""
    return f"{kind.__module__.partition('.')[0]}/msg/{kind.__name__}"
