"""The publishers of one camera."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

import fcclip_ros.msg as msg
from fcclip_core.errors import DepthError
from fcclip_core.segments.visualization import draw_overlay
from fcclip_core.vocabulary.snapshot import VocabularySnapshot
from fcclip_ros.compat import optional_module
from fcclip_ros.conversions.camera_info import label_info
from fcclip_ros.conversions.compressed import compressed_message
from fcclip_ros.conversions.frame import LabeledFrame
from fcclip_ros.conversions.markers import markers_message
from fcclip_ros.conversions.messages import (
    MAX_MONO8_ID,
    confidence_message,
    detections_message,
    image_message,
    label_info_message,
    panoptic_message,
    segments_message,
    semantic_encoding,
    semantic_message,
    vocabulary_message,
)
from fcclip_ros.conversions.messages_3d import detections_3d_message, geometry_messages
from fcclip_ros.node.cloud_output import CloudOutput
from fcclip_ros.node.info_input import InfoInput
from fcclip_ros.node.mask_output import MaskOutput
from fcclip_ros.node.rate_limit import RateLimit
from fcclip_ros.qos import LATCHED, OUTPUT


class Outputs:
    """Publishes the outputs of a camera's frames while the node is active, and its vocabulary whenever that changes.

    Outputs without subscriptions are not computed.
    """

    def __init__(self, node: LifecycleNode, prefix: str, info: InfoInput) -> None:
        """Creates the publishers.

        Args:
            node: The node.
            prefix: Prefix of their topics, up to the last slash.
            info: The camera's camera_info.
        """
        self._node = node
        self._info = info
        self.overlay_rate = 0.0
        """Maximum number of overlays per second; 0 for none."""
        self.embedding_type = ""
        """Type of the embeddings in ~/segments; one of `EMBEDDING_TYPES`."""
        self.contour_type = ""
        """Type of the contours in ~/segments; one of `contours.CONTOUR_TYPES`."""
        self.show_ids = False
        """Whether the texts of ~/markers contain the segment ids."""
        self._overlay_limit = RateLimit()
        self._announced: dict[int, str] = {}
        self._vision = optional_module("vision_msgs.msg")
        self._visualization = optional_module("visualization_msgs.msg")
        self._vocabulary = node.create_publisher(msg.Vocabulary, f"{prefix}vocabulary", LATCHED)
        self.points = CloudOutput(node, f"{prefix}points", f"{prefix}label_info", labeled=self._vision is not None)
        """Publishes between its `start` and `stop`."""
        self.masks = MaskOutput(node, prefix)
        images = ("panoptic", "semantic", "confidence", "overlay")
        kinds = dict.fromkeys(images, Image) | {"segments": msg.SegmentArray, "camera_info": CameraInfo}
        kinds |= dict.fromkeys((f"{name}/compressed" for name in images), CompressedImage)
        if self._vision is None:
            node.get_logger().info(
                "vision_msgs is not installed: no detections, detections_3d and label_info", once=True
            )
        else:
            self._label_info = node.create_publisher(self._vision.LabelInfo, f"{prefix}label_info", LATCHED)
            kinds |= {"detections": self._vision.Detection2DArray, "detections_3d": self._vision.Detection3DArray}
        if self._visualization is None:
            node.get_logger().info("visualization_msgs is not installed: no markers", once=True)
        else:
            kinds["markers"] = self._visualization.MarkerArray
        self._publishers = {
            name: node.create_lifecycle_publisher(kind, f"{prefix}{name}", OUTPUT) for name, kind in kinds.items()
        }

    def forget_names(self) -> None:
        """Forgets the names of earlier class ids, which are no longer valid."""
        self._announced = {}

    def send_vocabulary(self, snapshot: VocabularySnapshot) -> msg.Vocabulary:
        """Publishes a vocabulary that is being activated, and returns its message."""
        stamp = self._node.get_clock().now().to_msg()
        message = vocabulary_message(snapshot, stamp)
        self._vocabulary.publish(message)
        self.masks.set_vocabulary(snapshot)
        if self._vision is not None:
            self._label_info.publish(label_info_message(snapshot, stamp, self._vision, self._announced))
        self._announced.update((row.id, row.item.name) for row in snapshot.published if row.id <= MAX_MONO8_ID)
        if semantic_encoding(snapshot.class_ids) == "mono16":
            self._node.get_logger().warning(
                f"the vocabulary has class ids up to {max(snapshot.class_ids)}: semantic is mono16, which Nav2's "
                "semantic layer and nvblox do not support; set class ids up to 255, or clean up and configure again",
                once=True,
            )
        return message

    def send(self, frame: LabeledFrame) -> None:
        """Publishes the outputs of a frame, with the header of its image."""
        header, result, vision, visualization = frame.header, frame.result, self._vision, self._visualization
        self._send_image("panoptic", lambda: panoptic_message(result, header))
        self._send_image("semantic", lambda: semantic_message(result, frame.snapshot.class_ids, header))
        self._send_image("confidence", lambda: confidence_message(result, header))
        self._send("segments", lambda: self._segments_of(frame))
        self._send_camera_info(frame)
        self.masks.send(frame)
        if vision is not None:
            self._send("detections", lambda: detections_message(result, header, vision))
        if frame.depth is not None:
            self.points.send(frame)
            if vision is not None:
                self._send("detections_3d", lambda: detections_3d_message(frame, vision))
            if visualization is not None:
                self._send("markers", lambda: markers_message(frame, visualization, show_ids=self.show_ids))
        if self._overlay_is_due():
            self._send_image("overlay", lambda: self._draw(frame))

    def _send(self, name: str, make_message: Callable[[], Any]) -> None:
        if self._is_wanted(name):
            self._publishers[name].publish(make_message())

    def _send_image(self, name: str, make_message: Callable[[], Image]) -> None:
        raw, packed = self._is_wanted(name), self._is_wanted(f"{name}/compressed")
        if raw or packed:
            message = make_message()
            if raw:
                self._publishers[name].publish(message)
            if packed:
                self._publishers[f"{name}/compressed"].publish(compressed_message(message))

    def _send_camera_info(self, frame: LabeledFrame) -> None:
        info = self._info.at(frame.header) if self._is_wanted("camera_info") else None
        if info is None:
            return
        height, width = frame.result.segment_map.shape
        try:
            message = label_info(info, (width, height), frame.header)
        except DepthError as error:
            self._node.get_logger().warning(f"camera_info not published: {error}", throttle_duration_sec=60.0)
            return
        self._publishers["camera_info"].publish(message)

    def _is_wanted(self, name: str) -> bool:
        publisher = self._publishers[name]
        return publisher.is_activated and publisher.get_subscription_count() > 0

    def _segments_of(self, frame: LabeledFrame) -> msg.SegmentArray:
        geometry = geometry_messages(frame)
        return segments_message(frame.result, frame.header, self.embedding_type, geometry, self.contour_type)

    def _draw(self, frame: LabeledFrame) -> Image:
        self._overlay_limit.spend(self.overlay_rate)
        colors = {row.id: row.color for row in frame.snapshot.published}
        return image_message(draw_overlay(frame.image, frame.result, colors), "rgb8", frame.header)

    def _overlay_is_due(self) -> bool:
        return self.overlay_rate > 0 and self._overlay_limit.is_due(self.overlay_rate)
