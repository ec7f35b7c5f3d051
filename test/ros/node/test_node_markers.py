"""A node's markers: boxes of tracked things, computed while somebody looks."""

from __future__ import annotations

import queue
from types import ModuleType
from typing import Any

import pytest
from depth_camera import DepthCamera, steps, valid_segments
from fake_segmenter import fake_loader
from rclpy.parameter import Parameter
from ros_harness import Peer, state, wait_until

from fcclip_ros import msg
from fcclip_ros.conversions.markers import markers_message
from fcclip_ros.conversions.stamps import nanoseconds
from fcclip_ros.perception import Perception
from fcclip_ros.qos import OUTPUT


def stamped_alike(markers: queue.Queue, segments: queue.Queue) -> tuple[Any, Any] | None:
    """The markers and segments of one frame, as soon as there are any."""
    drawn = {nanoseconds(message.markers[0].header.stamp): message for _, message in list(markers.queue)}
    found = {nanoseconds(message.header.stamp): message for _, message in list(segments.queue)}
    both = drawn.keys() & found.keys()
    return (drawn[max(both)], found[max(both)]) if both else None


def test_markers_are_computed_for_subscribers_and_follow_the_segments(
    peer: Peer, visualization_msgs: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = []
    monkeypatch.setattr(
        "fcclip_ros.node.outputs.markers_message",
        lambda frame, *more, **options: frames.append(frame) or markers_message(frame, *more, **options),
    )
    values = {"checkpoint": "fake", "vocabulary": ["cup", "plate"], "use_depth": True, "track": True}
    overrides = [Parameter(name, value=value) for name, value in values.items()]
    host = Peer(lambda **options: Perception(fake_loader(), parameter_overrides=overrides, **options))
    try:
        host.node.begin()
        wait_until(lambda: state(peer) == "active")
        segments, eye = peer.listen(msg.SegmentArray, "/fcclip/segments", OUTPUT), DepthCamera(peer)
        eye.publish_until(lambda: valid_segments(segments), meters=steps())
        assert not frames, "nobody subscribes"
        markers = peer.listen(visualization_msgs.MarkerArray, "/fcclip/markers", OUTPUT)
        drawn, found = eye.publish_until(lambda: stamped_alike(markers, segments), meters=steps())
        boxes = {item.id: item for item in drawn.markers if item.ns == "boxes"}
        names = {item.id: item.text for item in drawn.markers if item.ns == "names"}
        assert names == {item.id: f"{item.name} #{item.id} {item.score:.2f}" for item in found.segments}
        for segment in found.segments:
            assert boxes[segment.id].header == found.header
            assert boxes[segment.id].pose == segment.geometry.oriented_center
        host.node.finish()
    finally:
        host.close()
