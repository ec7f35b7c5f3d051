"""The demo's own node: hears the camera, its truth and every output of the perception node, and calls its services."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, TimeoutError
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import ReliabilityPolicy
from sensor_msgs.msg import Image

import fcclip_ros.msg as msg
import fcclip_ros.srv as srv
from demo.frame_log import FrameLog
from demo.frames import Frame, PublishedClass, SegmentList, SegmentRow, TruthRow
from fcclip_core.errors import FcclipError
from fcclip_core.vocabulary.classes import Vocabulary
from fcclip_ros.compat import optional_module
from fcclip_ros.conversions.images import to_labels, to_rgb
from fcclip_ros.conversions.messages import color_of
from fcclip_ros.conversions.stamps import nanoseconds
from fcclip_ros.qos import DIAGNOSTICS, LATCHED, OUTPUT, image_profile

_NODE = "/fcclip"


class Watcher:
    """Fills a `FrameLog` from the topics, in a thread of its own.

    Attributes:
        log: What was seen; read and change it only while holding `lock`.
        lock: Held while a message is noted.
        diagnostics: The perception node's latest status, key by key.
        diagnosed_at: When that came, on the monotonic clock.
        trouble: What that status says if its level is ERROR, else empty.
        on_frame: Called, under the lock, with stamp (ns) and frame when all of a frame has come.
        others: Messages by topic of the outputs that are counted only: detections and label_info, where vision_msgs is
            installed.
    """

    def __init__(self) -> None:
        """Subscribes."""
        self.log = FrameLog()
        self.lock = threading.Lock()
        self.diagnostics: Mapping[str, str] = {}
        self.diagnosed_at = 0.0
        self.trouble = ""
        self.others: dict[str, int] = {}
        self.on_frame: Callable[[int, Frame], None] = lambda stamp, frame: None
        self._node = Node("fcclip_demo")
        self._set_vocabulary = self._node.create_client(srv.SetVocabulary, f"{_NODE}/set_vocabulary")
        self._subscribe()
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._executor.spin, name="watcher", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops listening."""
        self._executor.shutdown()
        self._thread.join(timeout=5.0)
        self._node.destroy_node()

    def set_vocabulary(self, vocabulary: Vocabulary, seconds: float) -> tuple[int, float]:
        """Asks the perception node for a new vocabulary.

        Args:
            vocabulary: The classes.
            seconds: How long to wait.

        Returns:
            The version in force, and the seconds that the call took.

        Raises:
            FcclipError: Refused or not answered.
        """
        request = srv.SetVocabulary.Request(
            classes=[
                msg.VocabularyClass(synonyms=list(item.synonyms), is_thing=item.is_thing) for item in vocabulary.classes
            ]
        )
        began = time.monotonic()
        answer: Future = Future()
        self._set_vocabulary.call_async(request).add_done_callback(lambda done: answer.set_result(done.result()))
        try:
            response = answer.result(timeout=seconds)
        except TimeoutError:
            raise FcclipError(f"{_NODE}/set_vocabulary did not answer within {seconds:.0f} s") from None
        if not response.success:
            raise FcclipError(f"{_NODE}/set_vocabulary refused: {response.message}")
        return response.version, time.monotonic() - began

    def frames_in_work(self) -> int:
        """Frames that the node had received and not yet dealt with in any way, when it last told."""
        count = {key: int(value) for key, value in self.diagnostics.items() if key.startswith("frames ")}
        return 2 * count.get("frames received", 0) - sum(count.values())

    def _subscribe(self) -> None:
        subscribe = self._node.create_subscription
        subscribe(Image, "image", self._on_image, image_profile(ReliabilityPolicy.RELIABLE))
        subscribe(Image, "truth/panoptic", self._on_truth_map, OUTPUT)
        subscribe(msg.SegmentArray, "truth/segments", self._on_truth, OUTPUT)
        for output in ("panoptic", "semantic", "confidence"):
            subscribe(Image, f"{_NODE}/{output}", self._label_listener(output), OUTPUT)
        subscribe(msg.SegmentArray, f"{_NODE}/segments", self._on_segments, OUTPUT)
        subscribe(Image, f"{_NODE}/overlay", self._on_overlay, OUTPUT)
        subscribe(msg.Vocabulary, f"{_NODE}/vocabulary", self._on_vocabulary, LATCHED)
        subscribe(DiagnosticArray, "/diagnostics", self._on_diagnostics, DIAGNOSTICS)
        vision = optional_module("vision_msgs.msg")
        if vision is not None:
            subscribe(vision.Detection2DArray, f"{_NODE}/detections", self._counter("detections"), OUTPUT)
            subscribe(vision.LabelInfo, f"{_NODE}/label_info", self._counter("label_info"), LATCHED)

    def _on_image(self, message: Image) -> None:
        stamp, image = nanoseconds(message.header.stamp), to_rgb(message)
        with self.lock:
            self._note(stamp, self.log.image(stamp, image))

    def _on_truth_map(self, message: Image) -> None:
        stamp, segment_map = nanoseconds(message.header.stamp), to_labels(message)
        with self.lock:
            self._note(stamp, self.log.truth_map(stamp, segment_map))

    def _on_truth(self, message: msg.SegmentArray) -> None:
        stamp, rows = nanoseconds(message.header.stamp), tuple(TruthRow(row.id, row.name) for row in message.segments)
        with self.lock:
            self._note(stamp, self.log.truth(stamp, rows))

    def _label_listener(self, output: str) -> Callable[[Image], None]:
        def listen(message: Image) -> None:
            self._on_label(message, output, to_labels(message))

        return listen

    def _on_segments(self, message: msg.SegmentArray) -> None:
        rows = tuple(
            SegmentRow(
                id=row.id,
                class_id=row.class_id,
                name=row.name,
                score=row.score,
                area=row.area,
                box=(row.box.x_offset, row.box.y_offset, row.box.width, row.box.height),
            )
            for row in message.segments
        )
        found = SegmentList(message.vocabulary_version, message.height, message.width, rows)
        self._on_label(message, "segments", found)

    def _on_label(self, message: Any, output: str, value: np.ndarray | SegmentList) -> None:
        stamp = nanoseconds(message.header.stamp)
        latency = (self._node.get_clock().now().nanoseconds - stamp) / 1e9
        with self.lock:
            self._note(stamp, self.log.label(stamp, output, value, latency))

    def _on_overlay(self, message: Image) -> None:
        stamp, image = nanoseconds(message.header.stamp), to_rgb(message)
        with self.lock:
            self._note(stamp, self.log.overlay(stamp, image))

    def _on_vocabulary(self, message: msg.Vocabulary) -> None:
        classes = tuple(
            PublishedClass(item.id, tuple(item.synonyms), item.is_thing, item.seen == item.SEEN, color_of(item.color))
            for item in message.classes
        )
        with self.lock:
            self.log.vocabulary(message.version, classes)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name.startswith(_NODE.lstrip("/")):
                self.diagnostics = {item.key: item.value for item in status.values}
                self.diagnosed_at = time.monotonic()
                self.trouble = status.message if status.level == DiagnosticStatus.ERROR else ""

    def _counter(self, topic: str) -> Callable[[Any], None]:
        self.others[topic] = 0

        def count(message: Any) -> None:
            self.others[topic] += 1

        return count

    def _note(self, stamp: int, frame: Frame) -> None:
        if frame.whole:
            self.on_frame(stamp, frame)
