"""Clouds are published beside the stream: failures, starting and stopping."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from rclpy.lifecycle import LifecycleNode
from ros_harness import Peer, wait_until
from sensor_msgs.msg import PointCloud2

from fcclip_ros.node import cloud_output
from fcclip_ros.node.cloud_output import CloudOutput
from fcclip_ros.qos import LATCHED, OUTPUT


@pytest.fixture
def host() -> Iterator[Peer]:
    """A configured node."""
    host = Peer(lambda **options: LifecycleNode("cloudy", **options))
    host.node.trigger_configure()
    yield host
    host.close()


def cloud_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "clouds"]


def test_a_cloud_that_fails_is_said_and_the_next_one_comes(
    host: Peer, peer: Peer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def message_of(frame: SimpleNamespace) -> PointCloud2:
        if frame.broken:
            raise MemoryError("no room for a cloud")
        return PointCloud2(width=frame.width)

    monkeypatch.setattr(cloud_output, "points_message", message_of)
    clouds = CloudOutput(host.node, "/points", "/label_info", labeled=True)
    host.node.trigger_activate()
    arrived = peer.listen(PointCloud2, "/points", OUTPUT)
    wait_until(lambda: clouds._publisher.get_subscription_count())
    clouds.send(SimpleNamespace(broken=False, width=1))  # Not started: nothing comes of it.
    clouds.start()
    try:
        clouds.send(SimpleNamespace(broken=True, width=2))
        wait_until(lambda: "no room for a cloud" in capfd.readouterr().err)
        clouds.send(SimpleNamespace(broken=False, width=3))
        assert arrived.get(timeout=10)[1].width == 3
    finally:
        clouds.stop()
    assert cloud_threads() == []
    clouds.send(SimpleNamespace(broken=False, width=4))
    assert arrived.empty()


def test_nobody_subscribes_so_nothing_is_made(host: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    monkeypatch.setattr(cloud_output, "points_message", made.append)
    clouds = CloudOutput(host.node, "/points", "/label_info", labeled=True)
    host.node.trigger_activate()
    clouds.start()
    clouds.send(SimpleNamespace())
    time.sleep(0.2)  # For a thread that had something to do.
    clouds.stop()
    assert made == []


class Publishing:
    """A cloud output without its thread; what it published, and how long it waited on a clock that stands otherwise."""

    def __init__(self, host: Peer, monkeypatch: pytest.MonkeyPatch, *, labeled: bool) -> None:
        self.seconds = 100.0
        self.waits: list[float] = []
        self.published: list[int] = []
        self.output = CloudOutput(host.node, "/points", "/label_info", labeled=labeled)
        monkeypatch.setattr(cloud_output, "points_message", lambda frame: PointCloud2(width=frame.width))
        monkeypatch.setattr(cloud_output, "time", SimpleNamespace(monotonic=lambda: self.seconds))
        monkeypatch.setattr(self.output, "_ending", SimpleNamespace(wait=self._wait, set=list, clear=list))
        publisher = SimpleNamespace(topic_name="/points", publish=lambda cloud: self.published.append(cloud.width))
        monkeypatch.setattr(self.output, "_publisher", publisher)
        self._node = host.node

    def _wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        self.seconds += seconds
        return False

    def publish(self, width: int) -> None:
        """Publishes a cloud as the thread does."""
        self.output._publish([SimpleNamespace(width=width)])

    def wait_for_readers(self, count: int) -> None:
        """Waits until so many subscribers of the labels are known."""
        wait_until(lambda: len(self._node.get_subscriptions_info_by_topic("/label_info")) == count)


def test_clouds_wait_after_a_new_subscriber_of_the_labels_was_seen(
    host: Peer, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nav2's semantic layer crashes on a frame that comes before its first labels."""
    clouds = Publishing(host, monkeypatch, labeled=True)
    clouds.publish(1)
    assert clouds.waits == [], "nobody reads labels"
    subscribe = lambda: peer.node.create_subscription(PointCloud2, "/label_info", print, LATCHED)  # noqa: E731
    first = subscribe()
    clouds.wait_for_readers(1)
    clouds.publish(2)
    assert clouds.waits == [0.5]
    clouds.publish(3)
    assert clouds.waits == [0.5], "who is known has the labels"
    # One leaves and another one comes: as many as before, and still a new one.
    peer.node.destroy_subscription(first)
    clouds.wait_for_readers(0)
    subscribe()
    clouds.wait_for_readers(1)
    clouds.publish(4)
    assert clouds.waits == [0.5, 0.5]
    assert clouds.published == [1, 2, 3, 4]


def test_whoever_reads_labels_that_nobody_publishes_gets_no_clouds(
    host: Peer, peer: Peer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Without vision_msgs Nav2's semantic layer would crash on the first cloud, always."""
    clouds = Publishing(host, monkeypatch, labeled=False)
    clouds.publish(1)
    reader = peer.node.create_subscription(PointCloud2, "/label_info", print, LATCHED)
    clouds.wait_for_readers(1)
    clouds.publish(2)
    peer.node.destroy_subscription(reader)
    clouds.wait_for_readers(0)
    clouds.publish(3)
    assert clouds.published == [1, 3]
    assert (
        "/points is not published while /label_info, which needs vision_msgs, has subscriptions"
        in capfd.readouterr().err
    )


def test_labels_are_found_under_the_name_that_a_rule_gives_them(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = ["--ros-args", "-r", "/label_info:=/names", "-r", "/names:=/others"]
    host = Peer(lambda **options: LifecycleNode("cloudy", **options), args=rules)
    try:
        host.node.trigger_configure()
        clouds = Publishing(host, monkeypatch, labeled=True)
        peer.node.create_subscription(PointCloud2, "/names", print, LATCHED)
        clouds.wait_for_readers(1)
        clouds.publish(1)
        assert clouds.waits == [0.5]
    finally:
        host.close()


@pytest.mark.parametrize("labeled", [True, False])
def test_depth_without_vision_msgs_is_a_warning(host: Peer, capfd: pytest.CaptureFixture[str], labeled: bool) -> None:
    clouds = CloudOutput(host.node, "~/points", "~/label_info", labeled=labeled)
    assert "vision_msgs" not in capfd.readouterr().err, "only where depth is on"
    clouds.start()
    clouds.stop()
    said = "vision_msgs is not installed, so /cloudy/label_info is not published" in capfd.readouterr().err
    assert said is not labeled


def test_a_cloud_that_waits_for_labels_does_not_hold_up_the_end(
    host: Peer, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloud_output, "LABELS_HEAD_START", 3600.0)
    monkeypatch.setattr(cloud_output, "points_message", lambda frame: PointCloud2())
    clouds = CloudOutput(host.node, "/points", "/label_info", labeled=True)
    host.node.trigger_activate()
    for topic in ("/points", "/label_info"):
        peer.listen(PointCloud2, topic, OUTPUT)
        wait_until(lambda topic=topic: host.node.count_subscribers(topic))
    wait_until(lambda: clouds._publisher.get_subscription_count())
    clouds.start()
    clouds.send(SimpleNamespace())
    wait_until(lambda: clouds._subscribers)
    clouds.stop()
    assert cloud_threads() == []
