"""What the names and messages of topics say of a camera's images, depth and camera_info."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fcclip_ros.conversions.compressed_depth import SUFFIX, is_compressed_depth

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"

DEPTH_ENCODINGS = {"16UC1", "32FC1"}
"""Encodings of depth in sensor_msgs/Image; mono16, which infrared cameras use, counts as an image."""


def encoding_of(message: Any) -> str:
    """The encoding of an image or depth message, or the format of a compressed one."""
    return str(message.format if hasattr(message, "format") else message.encoding)


def is_depth(kind: str, encoding: str) -> bool:
    """Whether a topic of images has depth that can be read, raw or of image_transport's compressedDepth."""
    return is_compressed_depth(encoding) if kind == COMPRESSED else encoding in DEPTH_ENCODINGS


def namespace_of(topic: str) -> str:
    """The namespace of a camera's topic, which its camera_info shares."""
    return raw_name(topic).rpartition("/")[0]


def raw_name(topic: str) -> str:
    """The name to which image_transport appended that of a transport."""
    return topic.removesuffix("/compressed").removesuffix(SUFFIX)


def listed(names: Iterable[str]) -> str:
    """Names in a line, sorted."""
    return ", ".join(sorted(names)) or "none"
