"""The organized cloud of a camera, made and published beside the stream."""

from __future__ import annotations

from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import PointCloud2

from fcclip_ros.messages_3d import points_message
from fcclip_ros.pipeline import LabelledFrame
from fcclip_ros.qos import OUTPUT
from fcclip_ros.worker import Worker

_PATIENCE = 1.0
"""Seconds that stopping waits for a cloud that is being published."""


class CloudOutput:
    """Publishes the cloud of each frame on a thread of its own.

    A cloud has 24 bytes a pixel, more than all other outputs together: the next frame need not wait for it. If clouds
    take longer than frames, the newest one counts.
    """

    def __init__(self, node: LifecycleNode, topic: str) -> None:
        """Makes the publisher; nothing is published before `start`."""
        self._node = node
        self._publisher = node.create_lifecycle_publisher(PointCloud2, topic, OUTPUT)
        self._worker: Worker[LabelledFrame] | None = None

    def start(self) -> None:
        """Begins to publish."""
        self._worker = Worker("clouds", self._publish)

    def stop(self) -> None:
        """Ends; a cloud that waits is dropped."""
        if self._worker is not None:
            self._worker.stop(_PATIENCE)
            self._worker = None

    def put(self, frame: LabelledFrame) -> None:
        """Takes a frame with depth; its cloud is made if somebody subscribes."""
        worker = self._worker
        if worker is not None and self._publisher.is_activated and self._publisher.get_subscription_count() > 0:
            worker.put(self, frame)

    def _publish(self, frames: list[LabelledFrame]) -> None:
        for frame in frames:
            try:
                self._publisher.publish(points_message(frame))
            except Exception as error:  # Out of memory, a publisher that is gone: the next cloud may be fine.
                text = f"cloud not published: {type(error).__name__}: {error}"
                self._node.get_logger().warning(text, throttle_duration_sec=5.0)
