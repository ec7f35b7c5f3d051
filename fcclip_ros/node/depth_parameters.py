"""Parameters of the depth input, which every node with one declares alike."""

from __future__ import annotations

from typing import Any

from fcclip_ros.declarations import declared
from fcclip_ros.node.depth_input import DEPTH_TRANSPORTS


def depth_transport() -> Any:
    """How depth is published."""
    return declared(
        "raw",
        "raw reads `depth`, compressedDepth reads `depth/compressedDepth` (PNG or RVL)",
        choices=DEPTH_TRANSPORTS,
    )


def depth_tolerance() -> Any:
    """How far apart the stamps may be."""
    return declared(
        0.02,
        "Largest difference between the stamps of an image and its depth, in seconds",
        limits=(0.0, 10.0),
        live=True,
    )


def image_rectified() -> Any:
    """Which matrix of camera_info counts."""
    return declared(
        True, "Whether image and depth are rectified, so that camera_info's P describes them; otherwise K and D do"
    )
