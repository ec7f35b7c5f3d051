"""The bytes of a message that holds pixels or points."""

from __future__ import annotations

from array import array

import numpy as np


def blank_data(data: array, size: int) -> np.ndarray:
    """Makes the data of a new message so many zeros; what is written into them is in the message without a copy.

    The message's own array is grown, because rclpy may copy one that is given to it.

    Args:
        data: The message's own, empty.
        size: Bytes.

    Returns:
        uint8 `(size,)`.
    """
    data.append(0)
    data *= size
    return np.frombuffer(data, np.uint8)
