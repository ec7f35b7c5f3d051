"""What Nav2's semantic costmap layer asks of its inputs, played against the node.

The layer (kiwicampus/semantic_segmentation_layer, README and sources as of April 2026) joins mask, confidence and cloud
by their stamps, subscribes to them best effort and to the labels reliable and transient local; reads the mask's data
as width x height bytes without regard to encoding or step; walks through mask and cloud in step; keeps class ids in
8 bits; and must have its labels before its first whole frame, or it crashes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from depth_camera import HEIGHT, WIDTH, DepthCamera
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from ros_harness import Background, Peer, Process, fake_node, flat_image, running, wait_until
from sensor_msgs.msg import Image, PointCloud2

from fcclip_core.geometry.cloud import POINT
from fcclip_ros import msg, srv

SENSOR = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=50,
    reliability=ReliabilityPolicy.BEST_EFFORT,
    durability=DurabilityPolicy.VOLATILE,
)
LABELS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=5,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, vision_msgs: ModuleType) -> Iterator[Process]:
    command, log = fake_node(0.01, "-p", "use_depth:=true"), tmp_path_factory.mktemp("nav2") / "node.log"
    with running(command, log, "reading images from") as process:
        yield process


def names_of(message: Any) -> dict[int, str]:
    """Class id to name, of a LabelInfo or of our own Vocabulary."""
    if isinstance(message, msg.Vocabulary):
        return {0: "unlabeled"} | {item.id: item.synonyms[0] for item in message.classes}
    return {item.class_id: item.class_name for item in message.class_map}


class CostmapLayer:
    """Takes frames as the layer does and keeps what it would have had to complain about.

    What counts is the order in which the node publishes: between topics, an executor under load keeps none.
    """

    def __init__(self, peer: Peer, kind: type, topic: str) -> None:
        self.labels: dict[int, str] = {}
        self.ever: dict[int, str] = {}
        self._complaints: list[str] = []
        self._announced: list[tuple[int, dict[int, str]]] = []
        self._masks: list[tuple[int, set[int]]] = []
        self.dropped = self.buffered = 0
        self.seen: set[int] = set()
        self._parts: dict[tuple[int, int], dict[str, Any]] = {}
        self._lock = threading.Lock()
        self._peer = peer
        subscribe = peer.node.create_subscription
        self.subscriptions = [subscribe(kind, topic, self._on_labels, LABELS)]
        for part, part_kind, name in (
            ("mask", Image, "semantic"),
            ("confidence", Image, "confidence"),
            ("cloud", PointCloud2, "points"),
        ):
            receive = lambda message, info, part=part: self._on_part(part, message, info)  # noqa: E731
            self.subscriptions.append(subscribe(part_kind, f"/fcclip/{name}", receive, SENSOR))

    def close(self) -> None:
        for subscription in self.subscriptions:
            self._peer.node.destroy_subscription(subscription)

    @property
    def complaints(self) -> list[str]:
        with self._lock:
            complaints, announced = list(self._complaints), sorted(self._announced, key=lambda item: item[0])
            for published, ids in self._masks:
                labels = [names for when, names in announced if when < published]
                unknown = ids - (labels[-1].keys() if labels else set())
                complaints += [f"class ids {unknown} are not among the labels"] if unknown else []
            return complaints

    def _on_labels(self, message: Any, info: dict[str, int]) -> None:
        with self._lock:
            self.labels = names_of(message)
            self._announced.append((info["source_timestamp"], self.labels))
            for number, name in self.labels.items():
                self._demand(number < 256, f"class id {number} does not fit into 8 bits")
                known = self.ever.setdefault(number, name)
                self._demand(known == name, f"class id {number} was {known} and is now {name}")

    def _on_part(self, part: str, message: Any, info: dict[str, int]) -> None:
        with self._lock:
            stamp = (message.header.stamp.sec, message.header.stamp.nanosec)
            parts = self._parts.setdefault(stamp, {})
            parts[part] = message
            if part == "mask":
                parts["published"] = info["source_timestamp"]
            if len(parts) == 4:
                self._buffer(**self._parts.pop(stamp))

    def _buffer(self, mask: Image, confidence: Image, cloud: PointCloud2, published: int) -> None:
        pixels = mask.width * mask.height
        self._demand(cloud.width * cloud.height == pixels, "cloud and mask have different sizes")
        self._demand(mask.header.frame_id == cloud.header.frame_id, "cloud and mask are in different frames")
        for image in (mask, confidence):
            self._demand(image.encoding == "mono8", f"encoding {image.encoding}")
            self._demand(image.step == image.width, "rows are padded")
            self._demand(len(image.data) == pixels, "the data is no row after row of bytes")
        if not self.labels:
            self.dropped += 1
            return
        points = np.frombuffer(cloud.data, POINT)
        ids = np.frombuffer(mask.data, np.uint8)
        self._demand(len(points) == pixels, "a point is missing")
        self._demand(np.array_equal(points["semantic_id"], ids), "points are in another order than pixels")
        self._demand(bool(np.isfinite(points["z"]).any()), "no point has a place")
        present = {int(number) for number in np.unique(ids)}
        self._masks.append((published, present))
        self.seen |= present
        self.buffered += 1

    def _demand(self, fulfilled: bool, complaint: str) -> None:
        if not fulfilled:
            self._complaints.append(complaint)


class Driving(Background):
    """Publishes frames in the background until the block ends."""

    def __init__(self, peer: Peer) -> None:
        super().__init__()
        self._camera = DepthCamera(peer)

    def _run(self) -> None:
        pixels = flat_image(HEIGHT, WIDTH)
        pixels[-3:] = 0  # The fake model leaves black pixels unlabeled.
        while not self._stop.is_set():
            self._camera.publish(pixels=pixels)
            time.sleep(0.04)


def set_words(peer: Peer, *words: str) -> None:
    request = srv.SetVocabulary.Request(classes=[msg.VocabularyClass(synonyms=[word]) for word in words])
    answer = peer.call(srv.SetVocabulary, "/fcclip/set_vocabulary", request)
    assert answer.success, answer.message


@pytest.mark.parametrize("topic", ["vocabulary", "label_info"])
def test_the_layer_can_use_every_frame(node: Process, peer: Peer, vision_msgs: ModuleType, topic: str) -> None:
    kind = msg.Vocabulary if topic == "vocabulary" else vision_msgs.LabelInfo
    topic = f"/fcclip/{topic}"
    other = Peer()
    try:
        early = CostmapLayer(peer, kind, topic)
        with Driving(other):
            wait_until(lambda: early.buffered > 3, 20)
            for words in (["cup", "plate"], ["grass", "sidewalk", "cup"], ["person"], ["plate", "road"]):
                before = early.buffered
                set_words(peer, *words)
                wait_until(lambda before=before: early.buffered > before + 4, 20)
            late = CostmapLayer(peer, kind, topic)
            wait_until(lambda: late.buffered > 4, 20)
        assert early.complaints == []
        assert late.complaints == []
        assert early.labels == late.labels
        assert {"unlabeled", "plate", "road"} <= set(late.labels.values())
        assert 0 in early.seen and len(early.seen) >= 7, "several vocabularies, and unlabeled pixels"
    finally:
        other.close()


def test_a_layer_that_asks_for_more_would_notice(peer: Peer) -> None:
    """The played layer complains: else the test above could not fail."""
    layer = CostmapLayer(peer, msg.Vocabulary, "/nobody/vocabulary")
    mask = Image(encoding="mono16", width=2, height=2, step=4, data=bytes(8))
    cloud = PointCloud2(width=2, height=1, data=np.full(2, 0, POINT).tobytes())
    layer._buffer(mask, mask, cloud, 1)
    assert layer.complaints[0] == "cloud and mask have different sizes"
    assert {"encoding mono16", "rows are padded"} <= set(layer.complaints)
    assert layer.dropped == 1
    many = [msg.VocabularyClass(synonyms=[f"name {number}"], id=number) for number in (7, 300)]
    layer._on_labels(msg.Vocabulary(classes=many), {"source_timestamp": 1})
    other = [msg.VocabularyClass(synonyms=["other"], id=7)]
    layer._on_labels(msg.Vocabulary(classes=other), {"source_timestamp": 2})
    assert "class id 300 does not fit into 8 bits" in layer.complaints
    assert "class id 7 was name 7 and is now other" in layer.complaints
    good = Image(encoding="mono8", width=2, height=1, step=2, data=bytes([7, 9]))
    layer._buffer(good, good, PointCloud2(width=2, height=1, data=np.zeros(2, POINT).tobytes()), 3)
    assert "class ids {9} are not among the labels" in layer.complaints
    assert "points are in another order than pixels" in layer.complaints
    layer.close()
