"""The image subscription of a camera: raw, compressed or video."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image

from fcclip_core.images.image_limits import MAX_PIXELS
from fcclip_ros.conversions.video import packet_type
from fcclip_ros.node.qos_matching import QosMatchingSubscription
from fcclip_ros.node.transport_topic import transport_topic
from fcclip_ros.node.video_input import PACKETS_KEPT, VideoInput

RAW, COMPRESSED, VIDEO = TRANSPORTS = ("raw", "compressed", "ffmpeg")


class ImageInput:
    """Subscribes to the images of a camera between `start` and `stop`."""

    def __init__(
        self,
        node: Node,
        name: str,
        callback: Callable[[Any], None],
        on_bad: Callable[[str], None] = lambda reason: None,
    ) -> None:
        """Does not subscribe yet.

        Args:
            node: The node.
            name: Topic of raw images before remapping; those of another transport are on `NAME/TRANSPORT`.
            callback: Called with each Image or CompressedImage; of video with Images, on a thread of its own.
            on_bad: Called with the reason why a video packet gave no image, on that thread or in the executor.
        """
        self._node = node
        self._name = name
        self._callback = callback
        self._video = VideoInput(callback, on_bad)
        self._is_video = False
        self._subscription = QosMatchingSubscription(node, self._take, "images")

    def start(self, transport: str, reliability: str, max_pixels: int = MAX_PIXELS) -> None:
        """Subscribes.

        Args:
            transport: One of `TRANSPORTS`.
            reliability: One of `qos.RELIABILITIES`.
            max_pixels: Maximum number of pixels of a video's images.
        """
        self._is_video = transport == VIDEO
        if self._is_video:
            self._video.start(max_pixels)
            topic = transport_topic(self._node, self._name, "/ffmpeg", "video packets")
            self._subscription.start(packet_type(), topic, reliability, PACKETS_KEPT)
            return
        kind, suffix = (CompressedImage, "/compressed") if transport == COMPRESSED else (Image, "")
        topic = transport_topic(self._node, self._name, suffix, "compressed images")
        self._subscription.start(kind, topic, reliability)

    def stop(self) -> None:
        """Unsubscribes."""
        self._subscription.stop()
        self._video.stop()

    def set_max_pixels(self, max_pixels: int) -> None:
        """Changes the maximum number of pixels of a video's images."""
        self._video.set_max_pixels(max_pixels)

    @property
    def problem(self) -> str:
        """Why no image can be received although the topic has publishers; empty if there is no problem."""
        return self._subscription.problem

    def describe(self) -> str:
        """Human-readable description of the subscription."""
        waiting = ", waiting for a key frame" if self._video.waits_for_key_frame else ""
        return f"{self._subscription.describe()}{waiting}"

    def _take(self, message: Any) -> None:
        (self._video.put if self._is_video else self._callback)(message)
