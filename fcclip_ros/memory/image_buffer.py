"""The latest images of a camera, unconverted, until the segments of one of them arrive."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

import cv2
import numpy as np

from fcclip_core.errors import ImageError
from fcclip_ros.conversions.images import to_rgb
from fcclip_ros.conversions.stamps import nanoseconds

_KEPT_BYTES = 64 << 20
"""Size of a camera's buffer; the oldest are dropped first."""


class ImageBuffer:
    """Keeps images by their stamps. Thread-safe."""

    def __init__(self) -> None:
        """Starts empty."""
        self._lock = threading.Lock()
        self._kept: deque[tuple[int, Any]] = deque()
        self._bytes = 0

    def put(self, message: Any) -> None:
        """Adds an Image or CompressedImage."""
        with self._lock:
            self._kept.append((nanoseconds(message.header.stamp), message))
            self._bytes += len(message.data)
            while len(self._kept) > 1 and self._bytes > _KEPT_BYTES:
                self._bytes -= len(self._kept.popleft()[1].data)

    def clear(self) -> None:
        """Forgets all images."""
        with self._lock:
            self._kept.clear()
            self._bytes = 0

    def at(self, stamp: int, size: tuple[int, int]) -> np.ndarray | None:
        """The image of exactly this stamp, converted only now; it and all that came before are forgotten.

        Args:
            stamp: Nanoseconds.
            size: `(width, height)` that it is scaled to.

        Returns:
            uint8 RGB `(height, width, 3)`; None if there is none, or it cannot be converted.
        """
        message = self._take(stamp)
        if message is None:
            return None
        try:
            image = to_rgb(message)
        except ImageError:  # The perception node says so.
            return None
        return image if image.shape[1::-1] == size else cv2.resize(image, size, interpolation=cv2.INTER_AREA)

    def _take(self, stamp: int) -> Any:
        with self._lock:
            if not any(other == stamp for other, _ in self._kept):
                return None
            while True:
                other, message = self._kept.popleft()
                self._bytes -= len(message.data)
                if other == stamp:
                    return message
