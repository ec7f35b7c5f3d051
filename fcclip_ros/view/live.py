"""Shows the topics of a running node."""

from __future__ import annotations

import time
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import NodeNameNonExistentError
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2

import fcclip_ros.msg as msg
from fcclip_core.errors import DepthError, ImageError
from fcclip_ros.bags.input_topics import CAMERA_INFO, COMPRESSED, IMAGE, encoding_of
from fcclip_ros.node.qos_matching import QosMatchingSubscription
from fcclip_ros.process.guarded import GuardedNode
from fcclip_ros.process.runner import run
from fcclip_ros.qos import LATCHED, OUTPUT
from fcclip_ros.view.scene import Scene
from fcclip_ros.view.topics import OUTPUTS, Part, Wanted, find_parts, may_be_input

_DISCOVERY_PERIOD = 1.0
"""Seconds between checks for new topics."""

_SILENCE = 5.0
"""Seconds without a message until a warning."""

_WARNING_PERIOD = 5.0
"""Seconds between warnings about messages that cannot be shown."""

_INPUTS = {"image", "camera_info"}
_SHOWN = _INPUTS | {"vocabulary", "semantic", "segments", "points"}
_CLASSES: dict[str, type] = {
    IMAGE: Image,
    COMPRESSED: CompressedImage,
    CAMERA_INFO: CameraInfo,
    OUTPUTS["vocabulary"]: msg.Vocabulary,
    OUTPUTS["segments"]: msg.SegmentArray,
    OUTPUTS["points"]: PointCloud2,
}


class LiveView(GuardedNode):
    """Subscribes to the topics of a node's cameras as they appear, and shows them."""

    def __init__(self, scene: Scene, wanted: Wanted, **options: Any) -> None:
        """Starts looking for the node.

        Args:
            scene: The scene that shows the messages.
            wanted: What to show.
            **options: Options of rclpy's Node.
        """
        super().__init__("fcclip_view", **options)
        self._scene = scene
        self._wanted = wanted
        self._parts: dict[str, Part] = {}
        self._input_subscriptions: list[QosMatchingSubscription] = []
        self._encodings: dict[str, str] = {}
        self._probes: dict[str, QosMatchingSubscription] = {}
        self._problem = ""
        self._last_message = time.monotonic()
        self._receiving: set[str] = set()
        self._warned = False
        # Steady time: simulated time may be paused.
        self._timer = self.create_timer(
            _DISCOVERY_PERIOD, self._discover, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )

    def begin(self) -> None:
        """Logs what is shown."""
        self.get_logger().info(f"showing what {self._wanted.node} publishes; Ctrl-C ends")

    def finish(self) -> bool:
        """Stops looking for topics."""
        self._timer.cancel()
        return True

    def _discover(self) -> None:
        """Subscribes to new topics, and warns if no messages arrive."""
        topics, inputs = self._topics(), self._inputs()
        for topic, kind in inputs.items():
            if topic in topics and may_be_input(topic, kind, self._wanted):
                self._probe(topic, kind)
        try:
            parts = find_parts(topics, self._wanted, self._encodings, inputs)
            self._problem = ""
        except ImageError as error:
            parts, self._problem = {}, str(error)
        new = {topic: part for topic, part in parts.items() if topic not in self._parts and part.role in _SHOWN}
        if new:
            self._parts |= new
            self._scene.arrange(self._parts.values())
            for topic, part in new.items():
                self._subscribe(topic, part)
        if time.monotonic() - self._last_message > _SILENCE and not self._warned:
            self._warned = True
            self._receiving.clear()
            self.get_logger().warning(f"no messages for {_SILENCE:.0f} s: {self._problem or self._describe_silence()}")

    def _probe(self, topic: str, kind: str) -> None:
        """Subscribes to a topic until its first message tells whether it has images or depth."""
        if topic in self._encodings:
            if topic in self._probes:
                self._probes.pop(topic).stop()
            return
        if topic in self._probes:
            return

        def take(message: Any) -> None:
            if topic not in self._encodings:
                self._encodings[topic] = encoding_of(message)
                self._discover()

        self._probes[topic] = QosMatchingSubscription(self, take, "the encoding")
        self._probes[topic].start(_CLASSES[kind], topic, "auto")

    def _topics(self) -> dict[str, str]:
        """The topics that have publishers, with their types."""
        found = self.get_topic_names_and_types()
        return {topic: kinds[0] for topic, kinds in found if self.count_publishers(topic)}

    def _inputs(self) -> dict[str, str]:
        """The topics that the node subscribes to, with their types; empty while the node does not exist."""
        namespace, _, name = self._wanted.node.rpartition("/")
        try:
            found = self.get_subscriber_names_and_types_by_node(name, namespace or "/")
        except NodeNameNonExistentError:
            return {}
        return {topic: kinds[0] for topic, kinds in found}

    def _subscribe(self, topic: str, part: Part) -> None:
        def take(message: Any) -> None:
            self._last_message, self._warned = time.monotonic(), False
            if topic not in self._receiving:
                self._receiving.add(topic)
                self.get_logger().info(f"receiving {topic}")
            try:
                self._scene.show(part, message)
            except (ImageError, DepthError) as error:
                self.get_logger().warning(f"{topic}: {error}", throttle_duration_sec=_WARNING_PERIOD)

        if part.role in _INPUTS:
            subscription = QosMatchingSubscription(self, take, part.role)
            subscription.start(_CLASSES[part.kind], topic, "auto")
            self._input_subscriptions.append(subscription)
        else:
            profile = LATCHED if part.role == "vocabulary" else OUTPUT
            self.create_subscription(_CLASSES[part.kind], topic, take, profile)

    def _describe_silence(self) -> str:
        """The subscribed topics, with their numbers of publishers."""
        counts = {topic: self.count_publishers(topic) for topic in sorted(self._parts)}
        about = ", ".join(f"{topic} ({count} publisher{'s' * (count != 1)})" for topic, count in counts.items())
        waiting = ", ".join(sorted(set(self._probes) - set(self._encodings)))
        about = f"{about}, waiting for a first message on {waiting}" if waiting else about
        return f"subscribed to {about}; is the node active, and is its camera publishing?"


def show(scene: Scene, wanted: Wanted) -> int:
    """Shows the topics of a node until SIGINT or SIGTERM.

    Returns:
        The exit status.
    """
    return run(lambda _: LiveView(scene, wanted), [])
