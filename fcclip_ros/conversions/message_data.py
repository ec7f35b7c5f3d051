"""Data buffers of messages that contain pixels or points."""

from __future__ import annotations

from array import array

import numpy as np


def blank_data(data: array[int], size: int) -> np.ndarray:
    """Zero-fills the data of a new message and returns a view to write into, which avoids a copy.

    The message's own array is extended, because rclpy may copy an array that is assigned.

    Args:
        data: The empty data of a message.
        size: Size in bytes.

    Returns:
        View of the data, uint8 `(size,)`.
    """
    data.append(0)
    data *= size
    return np.frombuffer(data, np.uint8)
