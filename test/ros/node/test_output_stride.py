"""A node whose labels are smaller than the images: every output fits every other one, and the published camera_info."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from depth_camera import HEIGHT, MATRIX, WIDTH, DepthCamera, same_stamp, steps, valid_segments
from ros_harness import (
    Peer,
    Process,
    camera,
    drain,
    fake_node,
    flat_image,
    pixels_of,
    publish_until,
    rgb_message,
    running,
    set_parameters,
)
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

from fcclip_core.geometry.cloud import POINT
from fcclip_ros import msg, srv
from fcclip_ros.qos import OUTPUT

HALF = (HEIGHT // 2, WIDTH // 2)


@pytest.fixture(scope="module")
def half_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A node with depth whose labels have half the images' size."""
    given = ("-p", "use_depth:=true", "-p", "output_stride:=2", "-p", "track:=true", "-p", "publish_masks:=['cup']")
    log = tmp_path_factory.mktemp("half") / "node.log"
    with running(fake_node(0.002, *given), log, "reading depth from", "reading images from") as process:
        yield process


def test_all_outputs_have_half_the_size(half_node: Process, peer: Peer) -> None:
    topics = {"panoptic": Image, "semantic": Image, "confidence": Image, "overlay": Image, "mask/cup": Image}
    topics |= {"points": PointCloud2, "segments": msg.SegmentArray, "camera_info": CameraInfo}
    heard = {name: peer.listen(kind, f"/fcclip/{name}", OUTPUT) for name, kind in topics.items()}
    set_parameters(peer, publish_overlay_rate=120.0)
    found = DepthCamera(peer).publish_until(lambda: same_stamp(*heard.values()), meters=steps())
    frame = dict(zip(heard, found, strict=True))
    for name in ("panoptic", "semantic", "confidence", "overlay", "mask/cup", "points", "camera_info"):
        assert (frame[name].height, frame[name].width) == HALF, name
        assert frame[name].header == frame["segments"].header, name
    panoptic = pixels_of(frame["panoptic"], np.uint16)
    for segment in frame["segments"].segments:
        rows, columns = np.nonzero(panoptic == segment.id)
        assert segment.area == len(rows) == 200
        assert (segment.box.x_offset, segment.box.width) == (columns.min(), 10)


def test_points_lie_where_those_of_the_full_size_do(half_node: Process, peer: Peer) -> None:
    points = peer.listen(PointCloud2, "/fcclip/points", OUTPUT)
    infos = peer.listen(CameraInfo, "/fcclip/camera_info", OUTPUT)
    segments = peer.listen(msg.SegmentArray, "/fcclip/segments", OUTPUT)
    found = DepthCamera(peer).publish_until(lambda: same_stamp(points, infos, segments), meters=steps())
    cloud = np.frombuffer(found[0].data, POINT).reshape(HALF)
    rows, columns = np.indices(HALF)
    known = np.isfinite(cloud["z"])
    # The label of column 0 covers the columns 0 and 1 of the image, whose middle is 0.5.
    x, y = (2 * columns + 0.5 - MATRIX[0, 2]) / MATRIX[0, 0], (2 * rows + 0.5 - MATRIX[1, 2]) / MATRIX[1, 1]
    np.testing.assert_allclose(cloud["x"][known], (x * cloud["z"])[known], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(cloud["y"][known], (y * cloud["z"])[known], rtol=1e-5, atol=1e-6)
    assert set(np.unique(cloud["z"][known])) == {1.0, 2.0, 4.0}
    # Who reads ~/camera_info beside ~/panoptic finds the same rays.
    k = found[1].k.reshape(3, 3)
    np.testing.assert_allclose((columns - k[0, 2]) / k[0, 0], x, rtol=1e-6)
    np.testing.assert_allclose((rows - k[1, 2]) / k[1, 1], y, rtol=1e-6)
    for segment, column, meters in zip(found[2].segments, (9.5, 29.5, 49.5), (1.0, 2.0, 4.0), strict=True):
        assert segment.geometry.centroid.x == pytest.approx((column - 29.5) / 50 * meters, abs=0.02 * meters)
        assert segment.geometry.extents.y == pytest.approx(HEIGHT / 50 * meters, abs=0.08 * meters)


def test_what_is_found_has_masks_and_points_of_that_size(half_node: Process, peer: Peer) -> None:
    segments = peer.listen(msg.SegmentArray, "/fcclip/segments", OUTPUT)
    DepthCamera(peer).publish_until(lambda: valid_segments(segments), meters=steps())
    for words in (["plate"], ["something new"]):
        answer = peer.call(srv.Find, "/fcclip/find", srv.Find.Request(words=words, minimum_score=0.0, limit=0))
        assert answer.success, answer.message
        for item in answer.found:
            box = item.segment.box
            assert (item.mask.height, item.mask.width) == (box.height, box.width)
            assert box.x_offset + box.width <= HALF[1] and item.segment.geometry.valid


def test_an_image_in_a_request_is_labeled_alike(half_node: Process, peer: Peer) -> None:
    request = srv.SegmentImage.Request(image=rgb_message(flat_image(41, 61)))
    answer = peer.call(srv.SegmentImage, "/fcclip/segment_image", request)
    assert answer.success and (answer.panoptic.height, answer.panoptic.width) == (21, 31), "rounded up"


def test_the_stride_changes_while_the_node_works(half_node: Process, peer: Peer) -> None:
    segments = peer.listen(msg.SegmentArray, "/fcclip/segments", OUTPUT)
    panoptic = peer.listen(Image, "/fcclip/panoptic", OUTPUT)
    eye = DepthCamera(peer)
    try:
        for stride in (4, 1):
            assert set_parameters(peer, output_stride=stride)[0].successful
            size = (HEIGHT // stride, WIDTH // stride)
            eye.publish_until(lambda size=size: [m for _, m in drain(panoptic) if (m.height, m.width) == size])
            drain(segments)
            places = eye.publish_until(lambda: valid_segments(segments), meters=steps())
            assert [round(item.geometry.centroid.z) for item in places.segments] == [1, 2, 4]
    finally:
        assert set_parameters(peer, output_stride=2)[0].successful
    refused = set_parameters(peer, output_stride=3)[0]
    assert not refused.successful and "output_stride is 3; it must be one of 1, 2, 4" in refused.reason


def test_a_camera_info_of_another_image_is_not_published(half_node: Process, peer: Peer) -> None:
    infos = peer.listen(CameraInfo, "/fcclip/camera_info", OUTPUT)
    DepthCamera(peer).publish_until(lambda: drain(infos))
    said = "camera_info not published: camera_info is for 60 x 40 pixels, but the labels have 25 x 20"
    publish_until(camera(peer), rgb_message(flat_image(40, 50)), lambda: said in half_node.output)
