"""The demo's own node: listens to the camera, its truth and every output of the perception node, and calls services."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

import fcclip_ros.msg as msg
from demo.frame_log import FrameLog
from demo.frames import Frame, PublishedClass, SegmentList, SegmentRow, TruthRow
from demo.peer import NODE, Peer
from fcclip_ros.compat import optional_module
from fcclip_ros.conversions.images import to_labels, to_rgb
from fcclip_ros.conversions.messages import color_of
from fcclip_ros.conversions.stamps import nanoseconds
from fcclip_ros.qos import DIAGNOSTICS, LATCHED, OUTPUT, image_profile

_FINISHED = ("labeled", "left out", "dropped", "bad", "failed")
"""Ways in which the perception node is done with a frame, as its diagnostics name them."""


class Watcher(Peer):
    """Fills a `FrameLog` from the topics.

    Attributes:
        log: What was seen; read and change it only while holding `changed`.
        diagnostics: The perception node's latest status, key by key.
        diagnosed_at: When that came, on the monotonic clock.
        trouble: The message of that status if its level is ERROR, else empty.
        on_frame: Called, with `changed` held, with stamp (ns) and frame when all of a frame has come.
        others: Messages by topic of the outputs that are only counted: detections and label_info, where vision_msgs is
            installed.
    """

    def __init__(self, check: Callable[[], object]) -> None:
        """Subscribes; `check` as for `Peer`."""
        super().__init__("fcclip_demo", check)
        self.log = FrameLog()
        self.diagnostics: Mapping[str, str] = {}
        self.diagnosed_at = 0.0
        self.trouble = ""
        self.others: dict[str, int] = {}
        self.on_frame: Callable[[int, Frame], None] = lambda stamp, frame: None
        self._subscribe()

    def frames_in_work(self) -> int:
        """Frames that the node had received and not finished in any way, as of its latest diagnostics."""
        said = self.diagnostics
        return int(said.get("frames received", 0)) - sum(int(said.get(f"frames {way}", 0)) for way in _FINISHED)

    def _subscribe(self) -> None:
        self._note(Image, "image", to_rgb, self.log.image, image_profile(ReliabilityPolicy.RELIABLE))
        self._note(Image, "truth/panoptic", to_labels, self.log.truth_map)
        self._note(msg.SegmentArray, "truth/segments", _truth_rows, self.log.truth)
        self._note(Image, f"{NODE}/overlay", to_rgb, self.log.overlay)
        for output in ("panoptic", "semantic", "confidence"):
            self._note(Image, f"{NODE}/{output}", to_labels, functools.partial(self._label, output))
        self._note(msg.SegmentArray, f"{NODE}/segments", _segment_list, functools.partial(self._label, "segments"))
        subscribe = self.node.create_subscription
        subscribe(msg.Vocabulary, f"{NODE}/vocabulary", self._on_vocabulary, LATCHED)
        subscribe(DiagnosticArray, "/diagnostics", self._on_diagnostics, DIAGNOSTICS)
        vision = optional_module("vision_msgs.msg")
        if vision is not None:
            subscribe(vision.Detection2DArray, f"{NODE}/detections", self._counter("detections"), OUTPUT)
            subscribe(vision.LabelInfo, f"{NODE}/label_info", self._counter("label_info"), LATCHED)

    def _note(
        self,
        kind: type,
        topic: str,
        read: Callable[[Any], Any],
        note: Callable[[int, Any], Frame],
        profile: QoSProfile = OUTPUT,
    ) -> None:
        """Subscribes: `note` gets the stamp (ns) and what `read` makes of each message, and returns its frame."""

        def on_message(message: Any) -> None:
            stamp, value = nanoseconds(message.header.stamp), read(message)
            with self.changed:
                frame = note(stamp, value)
                if frame.whole:
                    self.on_frame(stamp, frame)

        self.node.create_subscription(kind, topic, on_message, profile)

    def _label(self, output: str, stamp: int, value: np.ndarray | SegmentList) -> Frame:
        latency = (self.node.get_clock().now().nanoseconds - stamp) / 1e9
        return self.log.label(stamp, output, value, latency)

    def _on_vocabulary(self, message: msg.Vocabulary) -> None:
        classes = tuple(
            PublishedClass(item.id, tuple(item.synonyms), item.is_thing, item.seen == item.SEEN, color_of(item.color))
            for item in message.classes
        )
        with self.changed:
            self.log.vocabulary(message.version, classes)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name.startswith(NODE.lstrip("/")):
                self.diagnostics = {item.key: item.value for item in status.values}
                self.diagnosed_at = time.monotonic()
                self.trouble = status.message if status.level == DiagnosticStatus.ERROR else ""

    def _counter(self, topic: str) -> Callable[[Any], None]:
        self.others[topic] = 0

        def count(message: Any) -> None:
            self.others[topic] += 1

        return count


def _truth_rows(message: msg.SegmentArray) -> tuple[TruthRow, ...]:
    return tuple(TruthRow(row.id, row.name) for row in message.segments)


def _segment_list(message: msg.SegmentArray) -> SegmentList:
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
    return SegmentList(message.vocabulary_version, message.height, message.width, rows)
