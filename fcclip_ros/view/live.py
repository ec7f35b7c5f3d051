"""A running node -> a scene."""

from __future__ import annotations

import time
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import NodeNameNonExistentError
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2

import fcclip_ros.msg as msg
from fcclip_core.errors import DepthError, ImageError
from fcclip_ros.node.qos_matching import QosMatchingSubscription
from fcclip_ros.process.guarded import GuardedNode
from fcclip_ros.process.runner import run
from fcclip_ros.qos import LATCHED, OUTPUT
from fcclip_ros.view.scene import Scene
from fcclip_ros.view.topics import (
    CAMERA_INFO,
    COMPRESSED,
    IMAGE,
    OUTPUTS,
    Part,
    Wanted,
    encoding_of,
    find_parts,
    may_be_input,
)

_LOOK_PERIOD = 1.0
"""Seconds between two looks at what topics there are: nodes come, go and change."""

_SILENCE = 5.0
"""Seconds without any message after which that is said."""

_WARNING_PERIOD = 5.0
"""Seconds between two lines about messages that cannot be shown."""

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
    """Subscribes to what belongs to a node's cameras, as it comes to be there, and shows it.

    Attributes:
        exit_status: Of the process.
    """

    def __init__(self, scene: Scene, wanted: Wanted, **options: Any) -> None:
        """Begins to look for the node.

        Args:
            scene: Where to show.
            wanted: What to show.
            **options: For rclpy's Node.
        """
        super().__init__("fcclip_view", **options)
        self.exit_status = 0
        self._scene = scene
        self._wanted = wanted
        self._parts: dict[str, Part] = {}
        self._followed: list[QosMatchingSubscription] = []
        self._encodings: dict[str, str] = {}
        self._asked: dict[str, QosMatchingSubscription] = {}
        self._problem = ""
        self._heard = time.monotonic()
        self._receiving: set[str] = set()
        self._complained = False
        # The machine's clock: simulated time may stand still.
        self._timer = self.create_timer(_LOOK_PERIOD, self._look, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def begin(self) -> None:
        """Says what to expect."""
        self.get_logger().info(f"showing what {self._wanted.node} publishes; Ctrl-C ends")

    def finish(self) -> bool:
        """Stops looking."""
        self._timer.cancel()
        return True

    def _look(self) -> None:
        """Subscribes to topics that are new, and complains of silence."""
        topics, inputs = self._topics(), self._inputs()
        for topic, kind in inputs.items():
            if topic in topics and may_be_input(topic, kind, self._wanted):
                self._ask(topic, kind)
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
        if time.monotonic() - self._heard > _SILENCE and not self._complained:
            self._complained = True
            self._receiving.clear()
            self.get_logger().warning(f"nothing has come for {_SILENCE:.0f} s: {self._problem or self._silent()}")

    def _ask(self, topic: str, kind: str) -> None:
        """Listens to a topic until its first message says whether it is a picture or depth."""
        if topic in self._encodings:
            if topic in self._asked:
                self._asked.pop(topic).stop()
            return
        if topic in self._asked:
            return

        def take(message: Any) -> None:
            if topic not in self._encodings:
                self._encodings[topic] = encoding_of(message)
                self._look()

        self._asked[topic] = QosMatchingSubscription(self, take, "the encoding")
        self._asked[topic].start(_CLASSES[kind], topic, "auto")

    def _topics(self) -> dict[str, str]:
        """The topics that somebody publishes, with their types."""
        found = self.get_topic_names_and_types()
        return {topic: kinds[0] for topic, kinds in found if self.count_publishers(topic)}

    def _inputs(self) -> dict[str, str]:
        """The topics that the node reads, with their types; nothing while there is no node."""
        namespace, _, name = self._wanted.node.rpartition("/")
        try:
            found = self.get_subscriber_names_and_types_by_node(name, namespace or "/")
        except NodeNameNonExistentError:
            return {}
        return {topic: kinds[0] for topic, kinds in found}

    def _subscribe(self, topic: str, part: Part) -> None:
        def take(message: Any) -> None:
            self._heard, self._complained = time.monotonic(), False
            if topic not in self._receiving:
                self._receiving.add(topic)
                self.get_logger().info(f"receiving {topic}")
            try:
                self._scene.show(part, message)
            except (ImageError, DepthError) as error:
                self.get_logger().warning(f"{topic}: {error}", throttle_duration_sec=_WARNING_PERIOD)

        if part.role in _INPUTS:
            following = QosMatchingSubscription(self, take, part.role)
            following.start(_CLASSES[part.kind], topic, "auto")
            self._followed.append(following)
        else:
            profile = LATCHED if part.role == "vocabulary" else OUTPUT
            self.create_subscription(_CLASSES[part.kind], topic, take, profile)

    def _silent(self) -> str:
        """What is subscribed to, and how many publish it."""
        counts = {topic: self.count_publishers(topic) for topic in sorted(self._parts)}
        about = ", ".join(f"{topic} ({count} publisher{'s' * (count != 1)})" for topic, count in counts.items())
        waiting = ", ".join(sorted(set(self._asked) - set(self._encodings)))
        about = f"{about}, and waits for a first message on {waiting}" if waiting else about
        return f"subscribed to {about}; is the node active, and does its camera send images?"


def show(scene: Scene, wanted: Wanted) -> int:
    """Shows what a node publishes until SIGINT or SIGTERM.

    Returns:
        The exit status.
    """
    return run(lambda _: LiveView(scene, wanted), [])
