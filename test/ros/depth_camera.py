"""A camera with depth, as a test plays it: image, depth and camera_info of equal or other stamps."""

from __future__ import annotations

import queue
import time
from array import array
from collections.abc import Callable
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from packed_depth import packed_depth
from ros_harness import RELIABLE, Peer, camera, chosen_reliabilities, drain, flat_image, rgb_message, wait_until
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Header

from fcclip_core.geometry.cloud import POINT
from fcclip_ros import msg
from fcclip_ros.conversions.camera_info import camera_info_message

HEIGHT, WIDTH = 40, 60
MATRIX = np.array([[50.0, 0.0, 29.5], [0.0, 50.0, 19.5], [0.0, 0.0, 1.0]])


def stamp_of(seconds: float) -> Time:
    nanoseconds = round(seconds * 1e9)
    return Time(sec=nanoseconds // 1_000_000_000, nanosec=nanoseconds % 1_000_000_000)


def depth_message(meters: np.ndarray, header: Header, encoding: str = "16UC1") -> Image:
    pixels = (meters * 1000).round().astype("<u2") if encoding != "32FC1" else meters.astype("<f4")
    return Image(
        header=header,
        height=pixels.shape[0],
        width=pixels.shape[1],
        step=pixels.strides[0],
        encoding=encoding,
        data=array("B", pixels.tobytes()),
    )


def cloud_of(message: PointCloud2) -> np.ndarray:
    """The points of an organized cloud, `POINT` `(H, W)`."""
    return np.frombuffer(message.data, POINT).reshape(message.height, message.width)


def valid_segments(segments: queue.Queue) -> msg.SegmentArray | None:
    """The newest message, if its segments have places."""
    messages = [message for _, message in drain(segments)]
    return messages[-1] if messages and all(item.geometry.valid for item in messages[-1].segments) else None


def same_stamp(*listeners: queue.Queue) -> list[Any] | None:
    """Messages of one frame, one from each queue, as soon as there are any."""
    arrived = [{(m.header.stamp.sec, m.header.stamp.nanosec): m for _, m in list(q.queue)} for q in listeners]
    stamps = set.intersection(*(set(found) for found in arrived))
    return [found[max(stamps)] for found in arrived] if stamps else None


def steps() -> np.ndarray:
    """Depth of the fake model's three bands: 1 m, 2 m, 4 m; a hole in the first."""
    meters = np.repeat([[1.0, 2.0, 4.0]], 20, axis=1).repeat(HEIGHT, axis=0)
    meters[10:20, 5:10] = 0
    return meters


class DepthCamera:
    """Publishes frames; each differs from a good one in what its test changes."""

    def __init__(self, peer: Peer, depth_reliability: Any = RELIABLE, name: str = "", codec: str = "") -> None:
        """`name` is what the topics begin with, such as "/front"; `codec` that of compressed depth, png or rvl."""
        self._codec = codec
        self._peer = peer
        self._depth_reliability = depth_reliability
        self._image = camera(peer, f"{name}/image")
        depth, kind = (f"{name}/depth/compressedDepth", CompressedImage) if codec else (f"{name}/depth", Image)
        self._depth = camera(peer, depth, depth_reliability, kind)
        self._info = camera(peer, f"{name}/camera_info", RELIABLE, CameraInfo)
        # No two cameras have frames of one stamp.
        self._time = time.monotonic()

    def publish(
        self,
        *,
        meters: np.ndarray | None = None,
        encoding: str = "16UC1",
        frame_id: str = "camera",
        info_frame_id: str = "camera",
        matrix: np.ndarray | None = MATRIX,
        offset: float = 0.0,
        delay: float = 0.0,
        pixels: np.ndarray | None = None,
        lost_bytes: int = 0,
    ) -> Time:
        """Publishes a frame and returns the stamp of its image.

        Args:
            meters: Depth; None is 2 m everywhere.
            encoding: Of the depth.
            frame_id: Of the depth.
            info_frame_id: Of the camera_info.
            matrix: Of the camera_info; None publishes none.
            offset: Seconds between the stamps of image and depth.
            delay: Seconds between the publishing of image and depth.
            pixels: The image.
            lost_bytes: Bytes that compressed depth lacks at its end.
        """
        self._time += 0.1
        stamp = stamp_of(self._time)
        pixels = flat_image(HEIGHT, WIDTH) if pixels is None else pixels
        if matrix is not None:
            height, width = pixels.shape[:2]
            self._info.publish(camera_info_message(Header(stamp=stamp, frame_id=info_frame_id), width, height, matrix))
        meters = np.full((HEIGHT, WIDTH), 2.0) if meters is None else meters
        header = Header(stamp=stamp_of(self._time + offset), frame_id=frame_id)
        if self._codec:
            values = meters if encoding == "32FC1" else (meters * 1000).round()
            depth = packed_depth(np.where(values > 0, values, np.inf), encoding, self._codec, header)
            depth.data = depth.data[: len(depth.data) - lost_bytes]
        else:
            depth = depth_message(meters, header, encoding)
        if not delay:
            self._depth.publish(depth)
        self._image.publish(rgb_message(pixels, "camera", stamp))
        if delay:
            time.sleep(delay)
            self._depth.publish(depth)
        return stamp

    def publish_until(self, arrived: Callable[[], Any], timeout: float = 20.0, rate: float = 20.0, **frame: Any) -> Any:
        """Publishes frames until `arrived` returns something true, and returns that; nothing is lost from then on."""
        wait_until(self._settled, timeout)
        end = time.monotonic() + timeout
        while not (value := arrived()):
            assert time.monotonic() < end, f"published for {timeout} s in vain"
            self.publish(**frame)
            time.sleep(1.0 / rate)
        return value

    def _settled(self) -> bool:
        """Whether the image is subscribed to, and with the reliability that is offered; before, frames may be lost."""
        offered = {self._image: RELIABLE, self._depth: self._depth_reliability, self._info: RELIABLE}
        chosen = {publisher: chosen_reliabilities(self._peer, publisher.topic_name) for publisher in offered}
        return bool(chosen[self._image]) and all(chosen[publisher] <= {offered[publisher]} for publisher in offered)
