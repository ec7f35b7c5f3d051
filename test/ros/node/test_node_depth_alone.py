"""Nodes of a test's own: what is subscribed and computed, depth before its calibration, memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from depth_camera import HEIGHT, MATRIX, WIDTH, DepthCamera, depth_message, valid_segments
from diagnostic_msgs.msg import DiagnosticArray
from fake_segmenter import fake_loader
from rclpy.parameter import Parameter
from ros_harness import (
    Peer,
    Process,
    camera,
    drain,
    fake_node,
    flat_image,
    publish_until,
    rgb_message,
    set_parameters,
    state,
    transition,
    wait_until,
)
from sensor_msgs.msg import CameraInfo, PointCloud2

from fcclip_ros import msg
from fcclip_ros.conversions import frame
from fcclip_ros.conversions.camera_info import camera_info_message
from fcclip_ros.conversions.messages_3d import points_message
from fcclip_ros.perception import Perception
from fcclip_ros.qos import OUTPUT

DEPTH = ("-p", "use_depth:=true")


def test_depth_without_camera_info(start_process: Callable[..., Process], peer: Peer) -> None:
    start_process(*fake_node(0.002, *DEPTH)).wait_for("reading images from")
    segments = peer.listen(msg.SegmentArray, "/fcclip/segments", OUTPUT)
    diagnostics = peer.listen(DiagnosticArray, "/diagnostics", 10)
    image, depth = camera(peer), camera(peer, "/depth")
    message = rgb_message(flat_image(HEIGHT, WIDTH))
    texts: list[str] = []

    def said(text: str) -> bool:
        for _, array in drain(diagnostics):
            texts.extend(item.value for item in array.status[0].values if item.key == "depth problem")
        return any(text in found for found in texts)

    publish_until(image, message, lambda: said("no depth on /depth, "))

    def no_calibration() -> bool:
        depth.publish(depth_message(np.full((HEIGHT, WIDTH), 2.0), message.header))
        return said("depth is received, but no camera_info on /camera_info")

    publish_until(image, message, no_calibration)
    assert not valid_segments(segments)
    info = camera(peer, "/camera_info", kind=CameraInfo)

    def placed() -> bool:
        info.publish(camera_info_message(message.header, WIDTH, HEIGHT, MATRIX))
        depth.publish(depth_message(np.full((HEIGHT, WIDTH), 2.0), message.header))
        return bool(valid_segments(segments))

    publish_until(image, message, placed)


def test_depth_is_subscribed_only_where_it_is_used(start_process: Callable[..., Process], peer: Peer) -> None:
    start_process(*fake_node(0.002)).wait_for("reading images from")
    wait_until(lambda: peer.node.count_subscribers("/camera_info") == 1)
    assert peer.node.count_subscribers("/depth") == 0
    assert not set_parameters(peer, use_depth=True)[0].successful, "not while configured"
    for label in ("deactivate", "cleanup"):
        assert transition(peer, label)
    assert set_parameters(peer, use_depth=True)[0].successful
    for label in ("configure", "activate"):
        assert transition(peer, label)
    wait_until(lambda: peer.node.count_subscribers("/depth") == peer.node.count_subscribers("/camera_info") == 1)
    assert transition(peer, "deactivate")
    wait_until(lambda: peer.node.count_subscribers("/depth") == peer.node.count_subscribers("/camera_info") == 0)


def test_what_nobody_subscribes_to_is_not_computed(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[str] = []

    def spy(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any) -> Any:
            computed.append(name)
            return function(*arguments)

        return called

    monkeypatch.setattr(frame, "segment_geometry", spy("places", frame.segment_geometry))
    monkeypatch.setattr("fcclip_ros.node.cloud_output.points_message", spy("points", points_message))
    monkeypatch.setattr(frame, "depth_in_meters", spy("meters", frame.depth_in_meters))
    values = {"checkpoint": "fake", "vocabulary": ["cup", "plate"], "use_depth": True}
    overrides = [Parameter(name, value=value) for name, value in values.items()]
    host = Peer(lambda **options: Perception(fake_loader(), parameter_overrides=overrides, **options))
    try:
        host.node.begin()
        wait_until(lambda: state(peer) == "active")
        diagnostics = peer.listen(DiagnosticArray, "/diagnostics", 10)
        eye = DepthCamera(peer)

        def frames_with_depth() -> int:
            statuses = [array.status[0] for _, array in drain(diagnostics)]
            found = [int(i.value) for s in statuses for i in s.values if i.key == "frames with depth"]
            return max(found, default=0)

        eye.publish_until(frames_with_depth)
        assert not computed
        segments = peer.listen(msg.SegmentArray, "/fcclip/segments", OUTPUT)
        eye.publish_until(lambda: valid_segments(segments))
        assert set(computed) == {"meters", "places"}
        points = peer.listen(PointCloud2, "/fcclip/points", OUTPUT)
        eye.publish_until(lambda: not points.empty())
        assert set(computed) == {"meters", "places", "points"}
        host.node.finish()
    finally:
        host.close()


def test_a_target_frame_without_tf2_is_refused_at_configure_and_while_the_node_works(
    peer: Peer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fcclip_ros.node.transforms.optional_module", lambda name: None)
    values = {"checkpoint": "fake", "vocabulary": ["cup"], "use_depth": True, "target_frame": "map"}
    overrides = [Parameter(name, value=value) for name, value in values.items()]
    host = Peer(lambda **options: Perception(fake_loader(), parameter_overrides=overrides, **options))
    try:
        assert not transition(peer, "configure")
        assert "cannot configure: target_frame needs tf2_ros, which is not installed; " in capfd.readouterr().err
        assert set_parameters(peer, target_frame="")[0].successful
        assert transition(peer, "configure") and transition(peer, "activate")
        (result,) = set_parameters(peer, target_frame="map")
        assert (result.successful, result.reason.partition(",")[0]) == (False, "target_frame needs tf2_ros")
        host.node.finish()
    finally:
        host.close()


@pytest.mark.slow
def test_two_thousand_frames_leave_the_memory_flat(start_process: Callable[..., Process], peer: Peer) -> None:
    node = start_process(*fake_node(0.0, *DEPTH))
    node.wait_for("reading images from", 240.0)
    segments = peer.listen(msg.SegmentArray, "/fcclip/segments", OUTPUT)
    points = peer.listen(PointCloud2, "/fcclip/points", OUTPUT)
    eye = DepthCamera(peer)
    matrix = np.array([[250.0, 0, 159.5], [0, 250, 119.5], [0, 0, 1]])
    frame = {"meters": np.full((240, 320), 2.0), "pixels": flat_image(240, 320), "matrix": matrix}
    eye.publish_until(lambda: valid_segments(segments), **frame)

    def run(frames: int) -> float:
        """Memory of the node in megabytes after so many frames."""
        for _ in range(frames):
            drain(segments)
            drain(points)
            eye.publish(**frame)
            assert all(s.geometry.valid for s in segments.get(timeout=5.0)[1].segments)
        pages = int(Path(f"/proc/{node.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    settled = run(400)
    assert run(1600) < settled + 12
