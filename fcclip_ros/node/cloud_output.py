"""The organized point cloud of a camera, computed and published in the background."""

from __future__ import annotations

import threading
import time

from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import PointCloud2

from fcclip_ros.conversions.frame import LabeledFrame
from fcclip_ros.conversions.messages_3d import points_message
from fcclip_ros.node.worker import Worker
from fcclip_ros.qos import OUTPUT

LABELS_HEAD_START = 0.5
"""Seconds that clouds are delayed after a new subscription to the labels, so that the labels arrive first."""

_PATIENCE = 1.0
"""Seconds that `stop` waits for a cloud that is being published."""

_NO_LABELS = (
    "vision_msgs is not installed, so {labels} is not published: Nav2's semantic costmap layer crashes on a cloud "
    "without labels; install ros-$ROS_DISTRO-vision-msgs"
)
_WITHHELD = (
    "{points} is not published while {labels}, which needs vision_msgs, has subscriptions: Nav2's semantic costmap "
    "layer, which subscribes to both, crashes on a cloud without labels; install ros-$ROS_DISTRO-vision-msgs"
)


class CloudOutput:
    """Publishes the cloud of each frame on a thread of its own.

    A cloud has 24 bytes per pixel, more than all other outputs together, so the next frame does not wait for it. If
    clouds take longer than frames, older ones are dropped.

    A new subscriber of the labels receives them before the next cloud: Nav2's semantic costmap layer uses its table of
    labels as soon as it has the mask, confidence and cloud of a frame, even if it has not received the table yet.
    """

    def __init__(self, node: LifecycleNode, topic: str, labels: str, *, labeled: bool) -> None:
        """Creates the publisher; nothing is published before `start`.

        Args:
            node: The node.
            topic: Topic of the clouds.
            labels: Latched topic of the names of the class ids.
            labeled: Whether the labels are published.
        """
        self._node = node
        self._publisher = node.create_lifecycle_publisher(PointCloud2, topic, OUTPUT)
        # Unresolved: rclpy applies remapping rules to every name that it is given.
        self._labels = labels
        self._labeled = labeled
        self._subscribers: set[bytes] = set()
        self._due = 0.0
        self._ending = threading.Event()
        self._worker: Worker[LabeledFrame] | None = None

    def start(self) -> None:
        """Starts publishing."""
        if not self._labeled:
            text = _NO_LABELS.format(labels=self._node.resolve_topic_name(self._labels))
            self._node.get_logger().warning(text, once=True)
        self._ending.clear()
        self._worker = Worker("clouds", self._publish)

    def stop(self) -> None:
        """Stops publishing; a queued cloud is dropped."""
        self._ending.set()
        if self._worker is not None:
            self._worker.stop(_PATIENCE)
            self._worker = None

    def send(self, frame: LabeledFrame) -> None:
        """Enqueues a frame with depth; its cloud is computed if there are subscriptions."""
        worker = self._worker
        if worker is not None and self._publisher.is_activated and self._publisher.get_subscription_count() > 0:
            worker.replace(self, frame)

    def _publish(self, frames: list[LabeledFrame]) -> None:
        for frame in frames:
            try:
                message = points_message(frame)
                if self._labels_come_first():
                    self._publisher.publish(message)
            except Exception as error:  # Out of memory, for example: the next cloud may succeed.
                text = f"cloud not published: {type(error).__name__}: {error}"
                self._node.get_logger().warning(text, throttle_duration_sec=5.0)

    def _labels_come_first(self) -> bool:
        """Waits until every subscriber of the labels has had time to receive them; False to drop the cloud."""
        while (delay := self._delay()) > 0.0:
            if not self._labeled:
                labels = self._node.resolve_topic_name(self._labels)
                text = _WITHHELD.format(points=self._publisher.topic_name, labels=labels)
                self._node.get_logger().warning(text, throttle_duration_sec=60.0)
                return False
            if self._ending.wait(delay):
                return False
        return True

    def _delay(self) -> float:
        """Seconds until a cloud may be published; 0 or less for now."""
        # By GID: the count does not change when one subscription replaces another.
        subscribers = {bytes(info.endpoint_gid) for info in self._node.get_subscriptions_info_by_topic(self._labels)}
        now = time.monotonic()
        if subscribers - self._subscribers:
            self._due = now + LABELS_HEAD_START
        self._subscribers = subscribers
        if not self._labeled:
            return LABELS_HEAD_START if subscribers else 0.0
        return self._due - now
