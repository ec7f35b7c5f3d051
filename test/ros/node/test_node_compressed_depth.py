"""A node that reads depth from image_transport's compressedDepth: the same places, and damaged depth by its name."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from depth_camera import DepthCamera, steps, valid_segments
from diagnostic_msgs.msg import DiagnosticArray
from ros_harness import Peer, Process, fake_node, running, status_of

from fcclip_ros import msg
from fcclip_ros.qos import OUTPUT

ARGUMENTS = ("-p", "use_depth:=true", "-p", "depth_transport:=compressedDepth", "-r", "depth:=/cam/depth")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A node whose depth topic is remapped as that of raw depth would be; image and camera_info are too."""
    others = ("-r", "image:=/cam/image", "-r", "camera_info:=/cam/camera_info")
    log = tmp_path_factory.mktemp("depth") / "node.log"
    with running(fake_node(0.002, *ARGUMENTS, *others), log, "reading depth from", "reading images from") as process:
        yield process


@pytest.mark.parametrize(("encoding", "codec"), [("16UC1", "png"), ("16UC1", "rvl"), ("32FC1", "png")])
def test_places_are_those_of_raw_depth(node: Process, peer: Peer, encoding: str, codec: str) -> None:
    segments = peer.listen(msg.SegmentArray, "/fcclip/segments", OUTPUT)
    eye = DepthCamera(peer, name="/cam", codec=codec)
    found = eye.publish_until(lambda: valid_segments(segments), meters=steps(), encoding=encoding)
    distances = sorted(item.geometry.centroid.z for item in found.segments)
    assert np.allclose(distances, [1.0, 2.0, 4.0], rtol=2e-3)
    assert "reading depth from /cam/depth/compressedDepth, reliable" in node.output


def test_damaged_depth_costs_no_frame_and_is_named(node: Process, peer: Peer) -> None:
    segments = peer.listen(msg.SegmentArray, "/fcclip/segments", OUTPUT)
    diagnostics = peer.listen(DiagnosticArray, "/diagnostics", 10)
    eye = DepthCamera(peer, name="/cam", codec="png")
    eye.publish_until(lambda: valid_segments(segments), meters=steps())
    failed = "cannot be decoded, it is probably cut short"
    found: list = []

    def said() -> bool:
        while not diagnostics.empty():
            found[:] = diagnostics.get()[1].status
        return bool(found) and failed in found[0].message

    eye.publish_until(said, meters=steps(), lost_bytes=60)
    values = {item.key: item.value for item in found[0].values}
    assert failed in values["depth problem"]
    assert values["frames failed"] == values["frames bad"] == "0"
    eye.publish_until(lambda: valid_segments(segments), meters=steps())
    eye.publish_until(lambda: not diagnostics.empty(), meters=steps())
    status_of(diagnostics, lambda status, about: about["depth problem"] == "")
