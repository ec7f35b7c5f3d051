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

from fcclip_ros import cloud_output
from fcclip_ros.cloud_output import CloudOutput
from fcclip_ros.qos import OUTPUT


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
    clouds = CloudOutput(host.node, "/points")
    host.node.trigger_activate()
    arrived = peer.listen(PointCloud2, "/points", OUTPUT)
    wait_until(lambda: clouds._publisher.get_subscription_count())
    clouds.put(SimpleNamespace(broken=False, width=1))  # Not started: nothing comes of it.
    clouds.start()
    try:
        clouds.put(SimpleNamespace(broken=True, width=2))
        wait_until(lambda: "no room for a cloud" in capfd.readouterr().err)
        clouds.put(SimpleNamespace(broken=False, width=3))
        assert arrived.get(timeout=10)[1].width == 3
    finally:
        clouds.stop()
    assert cloud_threads() == []
    clouds.put(SimpleNamespace(broken=False, width=4))
    assert arrived.empty()


def test_nobody_subscribes_so_nothing_is_made(host: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    monkeypatch.setattr(cloud_output, "points_message", made.append)
    clouds = CloudOutput(host.node, "/points")
    host.node.trigger_activate()
    clouds.start()
    clouds.put(SimpleNamespace())
    time.sleep(0.2)  # For a thread that had something to do.
    clouds.stop()
    assert made == []
