"""The topics with all objects: messages of our own, markers, and detections."""

from __future__ import annotations

from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node

import fcclip_ros.msg as msg
from fcclip_ros.compat import optional_module
from fcclip_ros.conversions.remembered_objects import object_detections, object_markers, objects_message
from fcclip_ros.memory.access import Access
from fcclip_ros.qos import LATCHED


class ObjectPublisher:
    """Publishes the confirmed objects at a rate, when something has changed or somebody has subscribed.

    `changed` may be called on any thread; messages are made on the thread that answers requests.
    """

    def __init__(self, node: Node, access: Access) -> None:
        """Creates the publishers; publishes nothing yet."""
        self._node = node
        self._access = access
        self._vision = optional_module("vision_msgs.msg")
        self._visualization = optional_module("visualization_msgs.msg")
        self._objects = node.create_publisher(msg.RememberedObjectArray, "~/objects", LATCHED)
        self._markers: Any = None
        self._detections: Any = None
        if self._visualization is not None:
            self._markers = node.create_publisher(self._visualization.MarkerArray, "~/markers", LATCHED)
        else:
            node.get_logger().info("visualization_msgs is not installed: no markers")
        if self._vision is not None:
            self._detections = node.create_publisher(self._vision.Detection3DArray, "~/detections_3d", LATCHED)
        else:
            node.get_logger().info("vision_msgs is not installed: no detections_3d")
        self._is_due = False
        self._is_pending = False
        self._subscribers = 0
        self._timer: Any = None
        self._rate = 0.0

    def changed(self) -> None:
        """Notes that the objects have changed."""
        self._is_due = True

    # In the executor

    def start(self, rate: float) -> None:
        """Publishes from now on, at most so many times a second; another rate takes effect at once."""
        if self._timer is not None and rate == self._rate:
            return
        self.stop()
        # Steady time: simulated time may be paused.
        self._timer = self._node.create_timer(1.0 / rate, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._rate = rate

    def stop(self) -> None:
        """Publishes nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._node.destroy_timer(self._timer)
            self._timer = None

    def _tick(self) -> None:
        publishers = (self._markers, self._detections)
        subscribers = sum(item.get_subscription_count() for item in publishers if item is not None)
        if subscribers > self._subscribers:
            self._is_due = True
        self._subscribers = subscribers
        if self._is_due and not self._is_pending:
            self._is_due, self._is_pending = False, True
            self._access.requests.submit(self._publish)

    # On the thread of requests

    def _publish(self) -> None:
        try:
            parameters, header = self._access.parameters(), self._access.header()
            found = self._access.memory().objects()
            shown = sorted(found, key=lambda item: -item.last_seen)[: parameters.publish_limit]
            self._objects.publish(objects_message(shown, len(found), header, embeddings=parameters.publish_embeddings))
            if self._visualization is not None and self._markers.get_subscription_count():
                self._markers.publish(object_markers(shown, header, self._visualization))
            if self._vision is not None and self._detections.get_subscription_count():
                self._detections.publish(object_detections(shown, header, self._vision))
        except Exception as error:  # The future of this task is not checked.
            self._access.refuse("objects are not published", error)
        finally:
            self._is_pending = False
