"""The organized cloud of a camera, made and published beside the stream."""

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
"""Seconds that clouds wait after a new subscriber of the labels was seen, so that the labels arrive first."""

_PATIENCE = 1.0
"""Seconds that stopping waits for a cloud that is being published."""

_NO_LABELS = (
    "vision_msgs is not installed, so {labels} is not published: Nav2's semantic costmap layer crashes on a cloud "
    "without it; install ros-$ROS_DISTRO-vision-msgs"
)
_WITHHELD = (
    "{points} is held back while somebody subscribes to {labels}, which needs vision_msgs: Nav2's semantic costmap "
    "layer, which subscribes to both, crashes on a cloud without labels; install ros-$ROS_DISTRO-vision-msgs"
)


class CloudOutput:
    """Publishes the cloud of each frame on a thread of its own.

    A cloud has 24 bytes a pixel, more than all other outputs together: the next frame need not wait for it. If clouds
    take longer than frames, the newest one counts.

    Whoever subscribes to the labels gets them before the next cloud: Nav2's semantic costmap layer uses its table of
    labels as soon as it has mask, confidence and cloud of a frame, whether that table is there or not.
    """

    def __init__(self, node: LifecycleNode, topic: str, labels: str, *, labeled: bool) -> None:
        """Makes the publisher; nothing is published before `start`.

        Args:
            node: The node.
            topic: Of the clouds.
            labels: Topic of the names of class ids, latched.
            labeled: Whether somebody publishes there.
        """
        self._node = node
        self._publisher = node.create_lifecycle_publisher(PointCloud2, topic, OUTPUT)
        # Unresolved: rclpy applies the rules of remapping to whatever name it is asked about.
        self._labels = labels
        self._labeled = labeled
        self._readers: set[bytes] = set()
        self._due = 0.0
        self._ending = threading.Event()
        self._worker: Worker[LabeledFrame] | None = None

    def start(self) -> None:
        """Begins to publish."""
        if not self._labeled:
            text = _NO_LABELS.format(labels=self._node.resolve_topic_name(self._labels))
            self._node.get_logger().warning(text, once=True)
        self._ending.clear()
        self._worker = Worker("clouds", self._publish)

    def stop(self) -> None:
        """Ends; a cloud that waits is dropped."""
        self._ending.set()
        if self._worker is not None:
            self._worker.stop(_PATIENCE)
            self._worker = None

    def send(self, frame: LabeledFrame) -> None:
        """Takes a frame with depth; its cloud is made if somebody subscribes."""
        worker = self._worker
        if worker is not None and self._publisher.is_activated and self._publisher.get_subscription_count() > 0:
            worker.replace(self, frame)

    def _publish(self, frames: list[LabeledFrame]) -> None:
        for frame in frames:
            try:
                message = points_message(frame)
                if self._labels_come_first():
                    self._publisher.publish(message)
            except Exception as error:  # Out of memory, a publisher that is gone: the next cloud may be fine.
                text = f"cloud not published: {type(error).__name__}: {error}"
                self._node.get_logger().warning(text, throttle_duration_sec=5.0)

    def _labels_come_first(self) -> bool:
        """Waits until every subscriber of the labels has had time to get them; False: this cloud is dropped."""
        while (wait := self._wait()) > 0.0:
            if not self._labeled:
                labels = self._node.resolve_topic_name(self._labels)
                text = _WITHHELD.format(points=self._publisher.topic_name, labels=labels)
                self._node.get_logger().warning(text, throttle_duration_sec=60.0)
                return False
            if self._ending.wait(wait):
                return False
        return True

    def _wait(self) -> float:
        """Seconds until a cloud may be published; 0 for at once."""
        # By identity: when one leaves and another one comes, their number stays.
        readers = {bytes(info.endpoint_gid) for info in self._node.get_subscriptions_info_by_topic(self._labels)}
        now = time.monotonic()
        if readers - self._readers:
            self._due = now + LABELS_HEAD_START
        self._readers = readers
        if not self._labeled:
            return LABELS_HEAD_START if readers else 0.0
        return self._due - now
