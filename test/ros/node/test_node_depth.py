"""A node that uses depth: points and places, matching stamps, and everything that depth can be wrong in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from depth_camera import HEIGHT, WIDTH, DepthCamera, cloud_of, same_stamp, steps, valid_segments
from diagnostic_msgs.msg import DiagnosticArray
from ros_harness import (
    BEST_EFFORT,
    Peer,
    Process,
    drain,
    fake_node,
    running,
    set_parameters,
    status_of,
    wait_until,
)
from sensor_msgs.msg import Image, PointCloud2

from fcclip_ros import msg, srv
from fcclip_ros.qos import OUTPUT

DEPTH = ("-p", "use_depth:=true")


@pytest.fixture(scope="module")
def depth_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A node with a model that takes 2 ms, and depth."""
    command, log = fake_node(0.002, *DEPTH), tmp_path_factory.mktemp("depth") / "node.log"
    with running(command, log, "reading depth from", "reading images from") as process:
        yield process


@pytest.mark.parametrize("encoding", ["16UC1", "32FC1"])
def test_points_and_places(depth_node: Process, peer: Peer, encoding: str) -> None:
    points = peer.listen(PointCloud2, "/fcclip/points", OUTPUT)
    segments = peer.listen(msg.SegmentArray, "/fcclip/segments", OUTPUT)
    semantic = peer.listen(Image, "/fcclip/semantic", OUTPUT)
    panoptic = peer.listen(Image, "/fcclip/panoptic", OUTPUT)
    found = DepthCamera(peer).publish_until(
        lambda: same_stamp(points, segments, semantic, panoptic), meters=steps(), encoding=encoding
    )
    cloud_message, places, semantic_message, panoptic_message = found
    assert cloud_message.header == places.header == semantic_message.header
    assert (cloud_message.height, cloud_message.width) == (HEIGHT, WIDTH)
    assert (cloud_message.point_step, cloud_message.row_step) == (24, 24 * WIDTH)
    assert len(cloud_message.data) == 24 * WIDTH * HEIGHT
    # Name, offset, datatype (7 is FLOAT32, 4 is UINT16) and count, as readers find them.
    assert [(field.name, field.offset, field.datatype, field.count) for field in cloud_message.fields] == [
        ("x", 0, 7, 1),
        ("y", 4, 7, 1),
        ("z", 8, 7, 1),
        ("rgb", 12, 7, 1),
        ("semantic_id", 16, 4, 1),
        ("segment_id", 18, 4, 1),
        ("confidence", 20, 7, 1),
    ]
    cloud = cloud_of(cloud_message)
    ids = np.frombuffer(semantic_message.data, np.uint8).reshape(HEIGHT, WIDTH)
    np.testing.assert_array_equal(cloud["semantic_id"], ids)
    numbers = np.frombuffer(panoptic_message.data, np.uint16).reshape(HEIGHT, WIDTH)
    np.testing.assert_array_equal(cloud["segment_id"], numbers)
    hole = np.zeros((HEIGHT, WIDTH), bool)
    hole[10:20, 5:10] = True
    np.testing.assert_array_equal(np.isnan(cloud["z"]), hole)
    rows, columns = np.indices((HEIGHT, WIDTH))
    expected = (columns - 29.5) / 50.0 * steps()
    np.testing.assert_allclose(cloud["x"][~hole], expected[~hole], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(cloud["y"][~hole], ((rows - 19.5) / 50.0 * steps())[~hole], rtol=1e-4, atol=1e-6)
    assert set(np.unique(cloud["rgb"]).tolist()) == {90 << 16 | 80 << 8 | 70}
    for segment, column, meters in zip(places.segments, (9.5, 29.5, 49.5), (1.0, 2.0, 4.0), strict=True):
        place = segment.geometry
        assert place.valid
        assert place.points >= 400
        assert place.centroid.z == pytest.approx(meters, abs=1e-3)
        assert place.centroid.x == pytest.approx((column - 29.5) / 50 * meters, abs=0.02 * meters)
        distance = np.linalg.norm([place.centroid.x, place.centroid.y, place.centroid.z])
        assert place.distance == pytest.approx(distance, rel=1e-5)
        sides = [place.extents.x, place.extents.y, place.extents.z]
        np.testing.assert_allclose(sides, [20 / 50 * meters, 40 / 50 * meters, 0], atol=0.06 * meters)
        assert place.oriented_extents.x == pytest.approx(place.extents.y, abs=0.01)
        q = place.oriented_center.orientation
        assert q.x**2 + q.y**2 + q.z**2 + q.w**2 == pytest.approx(1.0)
        confidence = cloud["confidence"][cloud["segment_id"] == segment.id]
        np.testing.assert_allclose(confidence, segment.score, rtol=1e-6)


def test_depth_of_half_the_size_is_accepted(depth_node: Process, peer: Peer) -> None:
    points = peer.listen(PointCloud2, "/fcclip/points", OUTPUT)
    half = np.repeat([[1.0, 3.0]], 15, axis=1).repeat(HEIGHT // 2, axis=0)
    accepted = lambda: [m for _, m in drain(points) if cloud_of(m)["z"][0, -1] == 3.0]  # noqa: E731
    cloud = cloud_of(DepthCamera(peer).publish_until(accepted, meters=half)[-1])
    np.testing.assert_array_equal(cloud["z"], np.repeat([[1.0, 3.0]], 30, axis=1).repeat(HEIGHT, axis=0))


def test_segments_give_up_their_rim_while_depth_erosion_says_so(depth_node: Process, peer: Peer) -> None:
    segments = peer.listen(msg.SegmentArray, "/fcclip/segments", OUTPUT)
    eye, find = DepthCamera(peer), srv.Find.Request(words=["plate"], minimum_score=0.0)

    def places() -> tuple[float, int]:
        """Width of the plate, 20 columns and 40 rows at 2 m, and the points that a gripper gets."""
        drain(segments)
        (_, middle, _) = eye.publish_until(lambda: valid_segments(segments), meters=steps()).segments
        (plate,) = peer.call(srv.Find, "/fcclip/find", find).found
        assert plate.segment.geometry == middle.geometry
        assert middle.area == 800, "of the mask, which stays as it is"
        return middle.geometry.extents.x, plate.cloud.width

    # All pixels' depth is right, so that each counts.
    assert places() == (pytest.approx(19 / 50 * 2, abs=0.001), 800)
    assert set_parameters(peer, depth_erosion=2)[0].successful
    try:
        wait_until(lambda: places() == (pytest.approx(15 / 50 * 2, abs=0.001), 16 * 40))
    finally:
        set_parameters(peer, depth_erosion=0)
    assert not set_parameters(peer, depth_erosion=51)[0].successful


def test_stamps_may_differ_by_the_tolerance(depth_node: Process, peer: Peer) -> None:
    segments = peer.listen(msg.SegmentArray, "/fcclip/segments", OUTPUT)
    eye = DepthCamera(peer)
    eye.publish_until(lambda: valid_segments(segments), offset=0.015)
    assert set_parameters(peer, depth_tolerance=0.005)[0].successful
    try:
        drain(segments)
        missing = lambda: any(not m.segments[0].geometry.valid for _, m in drain(segments))  # noqa: E731
        eye.publish_until(missing, offset=0.015)
    finally:
        set_parameters(peer, depth_tolerance=0.02)


def test_a_labeled_frame_waits_a_little_for_its_depth(depth_node: Process, peer: Peer) -> None:
    """The model takes 2 ms; depth comes 12 ms after its image."""
    segments = peer.listen(msg.SegmentArray, "/fcclip/segments", OUTPUT)
    assert set_parameters(peer, depth_wait=0.5)[0].successful
    eye = DepthCamera(peer)
    try:
        eye.publish_until(lambda: valid_segments(segments))
        drain(segments)
        stamp = eye.publish(delay=0.012)
        message = segments.get(timeout=5.0)[1]
        assert message.header.stamp == stamp
        assert all(segment.geometry.valid for segment in message.segments)
        for _ in range(3):
            eye.publish(offset=-0.04)
            assert not segments.get(timeout=5.0)[1].segments[0].geometry.valid
    finally:
        set_parameters(peer, depth_wait=0.03)


BAD = {
    "another frame": ({"frame_id": "lidar"}, "depth is in the frame 'lidar', the image in 'camera'"),
    "camera_info of another frame": ({"info_frame_id": "left"}, "camera_info is in the frame 'left'"),
    "another aspect ratio": (
        {"meters": np.full((40, 80), 2.0)},
        "depth has 80 x 40 pixels, but the image has 60 x 40, a different aspect ratio",
    ),
    "no focal length": (
        {"matrix": np.zeros((3, 3))},
        "camera_info has the focal lengths 0 and 0, so the camera is not calibrated",
    ),
    "unknown encoding": ({"encoding": "8UC1"}, "depth in the encoding '8UC1' is not supported; expected 16UC1"),
    "stamps that never match": ({"offset": -1000.0}, "no depth image has a stamp within 0.02 s of an image's"),
}


@pytest.mark.parametrize(("frame", "complaint"), BAD.values(), ids=BAD.keys())
def test_bad_depth_is_named_once_and_the_frames_go_on_without(
    depth_node: Process, peer: Peer, frame: dict, complaint: str
) -> None:
    segments = peer.listen(msg.SegmentArray, "/fcclip/segments", OUTPUT)
    diagnostics = peer.listen(DiagnosticArray, "/diagnostics", 10)
    eye = DepthCamera(peer)
    eye.publish_until(lambda: valid_segments(segments))
    status: list[Any] = []

    def said() -> bool:
        while not diagnostics.empty():
            status[:] = [diagnostics.get()[1].status[0]]
        values = {item.key: item.value for item in status[0].values} if status else {}
        problem = values.get("depth problem", "")
        # Depth of the good frames before is kept for two seconds; until then it is the nearest.
        settled = "offset" not in frame or " s earlier)" in problem
        return complaint in problem and settled and not valid_segments(segments)

    eye.publish_until(said, **frame)
    drain(segments)
    eye.publish(**frame)
    message = segments.get(timeout=5.0)[1]
    assert len(message.segments) == 3, "frames are labeled all the same"
    assert not any(segment.geometry.valid for segment in message.segments)
    values = {item.key: item.value for item in status[0].values}
    assert status[0].level == status[0].WARN
    assert complaint in status[0].message
    assert int(values["frames without depth"]) > 0 < int(values["frames with depth"])
    if "offset" in frame:
        assert "images come at " in values["depth problem"] and "depth at " in values["depth problem"]
        assert " s earlier)" in values["depth problem"]
    # Once in the log, and once in each status.
    assert depth_node.output.count(f"frames are published without depth: {complaint}") == 1
    assert sum(complaint in value for value in values.values()) == 1
    eye.publish_until(lambda: valid_segments(segments))
    drain(diagnostics)
    eye.publish_until(lambda: not diagnostics.empty())
    status_of(diagnostics, lambda s, v: v["depth problem"] == "")


def test_the_depth_subscription_follows_a_best_effort_publisher(depth_node: Process, peer: Peer) -> None:
    segments = peer.listen(msg.SegmentArray, "/fcclip/segments", OUTPUT)
    DepthCamera(peer, BEST_EFFORT).publish_until(lambda: valid_segments(segments))
