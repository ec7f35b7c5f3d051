"""A subscription that follows what the publishers of its topic offer, as they come and go."""

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
"""Seconds between two looks at what the publishers offer."""

_COMPRESSED_TYPE = "sensor_msgs/msg/CompressedImage"
_COMPRESSED = "/compressed"


@dataclass(frozen=True)
class _Target:
    """What to subscribe to, and how; `topic` before remapping."""

    kind: type
    topic: str
    reliability: ReliabilityPolicy
    durability: DurabilityPolicy


class QosMatchingSubscription:
    """Subscribes to a camera's topic while it is started.

    The subscription is made and ended by the executor, whatever thread asks for it: an executor that waits on a
    subscription does not bear its end in another thread.

    Attributes:
        problem: Why nothing can be heard, although somebody publishes; empty while nothing is wrong.
    """

    def __init__(self, node: Node, callback: Callable[[Any], None], what: str) -> None:
        """Prepares.

        Args:
            node: The node.
            callback: Gets every message.
            what: What the messages are, in the plural, for the log.
        """
        self.problem = ""
        self._node = node
        self._callback = callback
        self._what = what
        self._wanted: tuple[type, str, str] | None = None
        self._subscription: Subscription | None = None
        self._subscribed: _Target | None = None
        self._changed = node.create_guard_condition(self._update)
        # The machine's clock: simulated time may stand still while publishers come and go.
        self._timer = node.create_timer(_RECHECK_PERIOD, self._update, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def start(self, kind: type, topic: str, reliability: str) -> None:
        """Subscribes.

        Args:
            kind: Type of the messages.
            topic: Name before remapping: rclpy applies the rules, and applied twice they lead elsewhere.
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
        subscription, target = self._subscription, self._subscribed
        if subscription is None or target is None:
            return "not subscribed"
        count = len(self._node.get_publishers_info_by_topic(target.topic))
        latched = ", transient_local" if target.durability == DurabilityPolicy.TRANSIENT_LOCAL else ""
        publishers = f"{count} publisher{'s' * (count != 1)}"
        return f"{subscription.topic_name}, {target.reliability.name.lower()}{latched}, {publishers}"

    def _update(self) -> None:
        wanted = self._wanted
        if wanted is None:
            self._unsubscribe()
            return
        kind, topic, reliability = wanted
        publishers = self._node.get_publishers_info_by_topic(topic)
        self._look_for_mistakes(kind, topic, {info.topic_type for info in publishers})
        offered = [info.qos_profile for info in publishers if info.topic_type == type_name(kind)]
        target = _Target(
            kind,
            topic,
            choose_reliability(reliability, [profile.reliability for profile in offered]),
            choose_durability([profile.durability for profile in offered]),
        )
        if self._subscribed == target or (self._subscribed is not None and not offered):
            # Without a publisher any choice is right; keeping the old one spares a camera's restart two changes.
            return
        self._unsubscribe()
        self._subscription = self._node.create_subscription(
            kind, topic, self._callback, image_profile(target.reliability, target.durability)
        )
        self._subscribed = target
        self._node.get_logger().info(f"reading {self._what} from {self.describe()}")

    def _unsubscribe(self) -> None:
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
        self._subscription, self._subscribed, self.problem = None, None, ""

    def _look_for_mistakes(self, kind: type, topic: str, published: set[str]) -> None:
        """Says when a topic's publishers send something else, or send compressed what is read raw."""
        wanted, name = type_name(kind), self._node.resolve_topic_name(topic)
        problem = ""
        if published and wanted not in published:
            problem = (
                f"{name} carries {', '.join(sorted(published))}, but {self._what} are read as {wanted}; "
                f"{_advice(wanted, published)}"
            )
        elif not published:
            problem = self._elsewhere(wanted, name)
        if problem and problem != self.problem:
            self._node.get_logger().warning(problem)
        self.problem = problem

    def _elsewhere(self, wanted: str, name: str) -> str:
        """Where the images are that nobody publishes under `name`, if they are close by; empty if not."""
        # Full names, as the graph has them: no rule may move them.
        types = {topic: set(kinds) for topic, kinds in self._node.get_topic_names_and_types()}
        base = name.removesuffix(_COMPRESSED)
        if wanted == _COMPRESSED_TYPE and base.endswith(_COMPRESSED) and _COMPRESSED_TYPE in types.get(base, ()):
            return (
                f"nobody publishes {name}; compressed images are on {base}: remap image to "
                f"{base.removesuffix(_COMPRESSED)}, without {_COMPRESSED}"
            )
        compressed = name + _COMPRESSED
        if wanted == "sensor_msgs/msg/Image" and _COMPRESSED_TYPE in types.get(compressed, ()):
            return f"nobody publishes {name}, but {compressed} has compressed images; set image_transport:=compressed"
        return ""


def type_name(kind: type) -> str:
    """What the graph calls a message's type, such as sensor_msgs/msg/Image."""
    return f"{kind.__module__.partition('.')[0]}/msg/{kind.__name__}"


def _advice(wanted: str, published: set[str]) -> str:
    if published == {_COMPRESSED_TYPE}:
        return f"set image_transport:=compressed and remap image to the name without {_COMPRESSED}"
    if published == {"sensor_msgs/msg/Image"} and wanted == _COMPRESSED_TYPE:
        return "set image_transport:=raw"
    return "check the remapping"
