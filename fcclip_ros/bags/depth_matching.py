"""Which recorded depth and camera_info belong to a recorded image, and why there is none."""

from __future__ import annotations

from collections import Counter
from typing import TypeVar

from fcclip_core.errors import DepthError
from fcclip_core.geometry.camera import PinholeCamera

TOLERANCE = 20_000_000
"""Maximum difference between the stamps of an image and its depth in nanoseconds, as `depth_tolerance` of the node."""

Depth = TypeVar("Depth")


class TooFarError(DepthError):
    """The nearest depth is too far away.

    Attributes:
        seconds: How far.
    """

    def __init__(self, seconds: float) -> None:
        """The nearest depth is so many seconds away."""
        super().__init__(f"the nearest depth was {1000 * seconds:.0f} ms away, more than {TOLERANCE // 1_000_000} ms")
        self.seconds = seconds


def matched(
    image: tuple[int, str], depth: tuple[int, str, Depth] | None, calibration: tuple[str, PinholeCamera] | None
) -> tuple[Depth, PinholeCamera]:
    """The depth and the camera of an image, if they belong to it.

    Args:
        image: Its stamp in nanoseconds, and its frame_id.
        depth: Stamp, frame_id and pixels of the depth with the nearest stamp; None if there is none.
        calibration: frame_id and camera of the camera_info with the nearest stamp; None if there is none.

    Raises:
        DepthError: They are missing, too far away, or in another frame.
    """
    if depth is None:
        raise DepthError("no depth was recorded")
    if calibration is None:
        raise DepthError("no valid camera_info was recorded")
    off = abs(depth[0] - image[0])
    if off > TOLERANCE:
        raise TooFarError(1e-9 * off)
    for what, other in (("depth", depth[1]), ("camera_info", calibration[0])):
        if other.lstrip("/") != image[1].lstrip("/"):
            raise DepthError(f"{what} is in the frame {other!r}, the image in {image[1]!r}")
    return depth[2], calibration[1]


class MissingDepth:
    """Counts why images have no depth."""

    def __init__(self) -> None:
        """Starts without any."""
        self._problems: Counter[str] = Counter()
        self._apart: list[float] = []

    @property
    def count(self) -> int:
        """Number of images without depth."""
        return self._problems.total()

    def add(self, error: Exception) -> None:
        """Counts an image."""
        if isinstance(error, TooFarError):
            self._apart.append(error.seconds)
            self._problems[""] += 1
        else:
            self._problems[str(error)] += 1

    def reasons(self, images: int) -> list[str]:
        """The problems, the most frequent first, each with how many of so many images have it."""
        return [
            f"{problem or self._too_far()} ({times} of {images})" for problem, times in self._problems.most_common()
        ]

    def _too_far(self) -> str:
        low, high = (f"{1000 * seconds:.0f}" for seconds in (min(self._apart), max(self._apart)))
        away = f"{low} ms" if low == high else f"{low} to {high} ms"
        return f"the nearest depth was {away} away, more than {TOLERANCE // 1_000_000} ms"
