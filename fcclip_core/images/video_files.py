"""Reads videos with frame times, and writes videos atomically."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from fcclip_core.errors import ImageError
from fcclip_core.files.atomic_write import atomic_write
from fcclip_core.images.encoded_images import check_size
from fcclip_core.images.image_limits import MAX_PIXELS

FALLBACK_RATE = 25.0
"""Frames per second if a file does not state a rate."""

_LARGEST_TERM = 65535
"""MPEG-4 stores a rate as a fraction of 16-bit integers."""
_RATES = (0.01, 1000.0)
_SAME_RATE = 0.02
"""Relative difference above which the measured rate is used instead of the file's stated rate."""
_HIDDEN_FRAMES = frozenset({"VP80"})
"""Codecs with invisible packets, for which the number of packets is not the number of frames."""


@dataclass(frozen=True)
class VideoFrame:
    """One frame.

    Attributes:
        image: uint8 RGB `(H, W, 3)`.
        time: Seconds since the first frame, from the file, or computed from the rate.
    """

    image: np.ndarray
    time: float


@dataclass(frozen=True)
class VideoFile:
    """A video.

    Attributes:
        path: The file.
        rate: Average frames per second, from the frames' times if they differ from the file's header.
        packets: Number of video packets, which is the number of frames with most codecs.
        counts_frames: Whether `packets` is the number of frames.
    """

    path: Path
    rate: float
    packets: int
    counts_frames: bool

    @classmethod
    def open(cls, path: Path, max_pixels: int = MAX_PIXELS) -> VideoFile:
        """Scans the file once without decoding it.

        Args:
            path: The file.
            max_pixels: Largest number of pixels of a frame.

        Raises:
            ImageError: OpenCV cannot read the video, or its frames are too large.
        """
        with _captured(path) as capture:
            height, width = (int(capture.get(side)) for side in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH))
            if height and width:
                check_size(height, width, max_pixels)
            stated = float(capture.get(cv2.CAP_PROP_FPS))
            codec = int(capture.get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF
            # Raw packets instead of decoded frames; without support for them, there are no times.
            times = _packet_times(capture) if capture.set(cv2.CAP_PROP_FORMAT, -1) else []
        if not math.isfinite(stated) or stated <= 0:
            stated = 0.0
        span = max(times) - min(times) if times else 0.0
        measured = (len(times) - 1) / span if span > 0 else 0.0
        differs = measured and abs(measured - stated) > _SAME_RATE * stated
        rate = (measured if differs else stated) or FALLBACK_RATE
        return cls(path, rate, len(times), codec.to_bytes(4, "little").decode("latin-1") not in _HIDDEN_FRAMES)

    def frames(self) -> Iterator[VideoFrame]:
        """Yields the readable frames.

        Raises:
            ImageError: No frame can be read.
        """
        with _captured(self.path) as capture:
            first, last = None, 0.0
            for _ in _indices(capture, self.packets):
                good, frame = capture.retrieve()
                if not good:
                    continue
                time = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                if first is None:
                    first = time
                elif time - first > last and math.isfinite(time):
                    last = time - first
                else:  # no time, or one that is not after the previous frame's
                    last += 1 / self.rate
                yield VideoFrame(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), last)
        if first is None:
            raise ImageError(_UNREADABLE)


_UNREADABLE = "no frame can be read: missing, damaged, or in a format that OpenCV's ffmpeg lacks"


@contextlib.contextmanager
def movie(path: Path, rate: float, size: tuple[int, ...]) -> Iterator[Callable[[np.ndarray], None]]:
    """Writes an mp4 file atomically.

    Args:
        path: The file.
        rate: Frames per second, rounded to a rate that MPEG-4 can store.
        size: (height, width) of the video. Frames of other sizes are scaled to fit, with black borders.

    Yields:
        A function that adds a frame: uint8 RGB `(H, W, 3)`.

    Raises:
        ImageError: The encoder is missing, or does not support the size.
        OSError: The written file cannot be read back, for example because the disk is full.
    """
    height, width = size[:2]
    count = 0
    with atomic_write(path) as part, plainly_named(part) as name:
        writer = cv2.VideoWriter(name, cv2.VideoWriter.fourcc(*"mp4v"), storable_rate(rate), (width, height))
        if not writer.isOpened():
            raise ImageError(
                f"an overlay video of {height} x {width} pixels cannot be written: MPEG-4 supports sides of 2 to 8191, "
                "and needs an OpenCV with its encoder; use --overlay none"
            )

        def write(frame: np.ndarray) -> None:
            nonlocal count
            writer.write(cv2.cvtColor(_fitted(frame, height, width), cv2.COLOR_RGB2BGR))
            count += 1

        try:
            yield write
        finally:
            writer.release()
        # The writer ignores write errors of the disk.
        readable = _readable_frames(part)
        if readable != count:
            raise OSError(f"{readable} of {count} frames can be read back from {path.name}; is the disk full?")


def storable_rate(rate: float) -> float:
    """The nearest rate that MPEG-4 can store: a fraction of 16-bit integers, as OpenCV computes it."""
    if not math.isfinite(rate) or rate <= 0:
        return FALLBACK_RATE
    rate = min(max(rate, _RATES[0]), _RATES[1])
    digits = next(digits for digits in (3, 2, 1, 0) if rate * 10**digits <= _LARGEST_TERM)
    return round(rate, digits)


@contextlib.contextmanager
def plainly_named(path: Path) -> Iterator[str]:
    """A temporary name for a file that OpenCV does not interpret.

    OpenCV accepts only UTF-8, prints names to the terminal, and interprets a colon as a protocol and "%" as a pattern.
    """
    name = str(path.absolute())
    if name.isascii() and name.isprintable() and "%" not in name:
        yield name
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / f"video{path.suffix if path.suffix.isascii() and path.suffix.isprintable() else ''}"
        link.symlink_to(path.absolute())
        yield str(link)


@contextlib.contextmanager
def _captured(path: Path) -> Iterator[cv2.VideoCapture]:
    if not path.exists():
        raise ImageError("there is no such file")
    with plainly_named(path) as name:
        capture = cv2.VideoCapture(name)
        try:
            if not capture.isOpened():
                raise ImageError(_UNREADABLE)
            yield capture
        finally:
            capture.release()


def _indices(capture: cv2.VideoCapture, expected: int = 0) -> Iterator[int]:
    """Counts readable frames; unreadable ones are skipped until `expected` frames were seen."""
    index = failed = 0
    while True:
        if capture.grab():
            yield index
            index += 1
        elif index + failed < expected:
            failed += 1
        else:
            return


def _packet_times(capture: cv2.VideoCapture) -> list[float]:
    """Distinct times of the packets in seconds, sorted."""
    times = {capture.get(cv2.CAP_PROP_POS_MSEC) / 1000 for _ in _indices(capture)}
    return sorted(time for time in times if math.isfinite(time))


def _readable_frames(path: Path) -> int:
    try:
        with _captured(path) as capture:
            return sum(1 for _ in _indices(capture))
    except ImageError:
        return 0


def _fitted(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    if frame.shape[:2] == (height, width):
        return frame
    scale = min(height / frame.shape[0], width / frame.shape[1])
    rows, columns = (max(1, round(side * scale)) for side in frame.shape[:2])
    top, left = (height - rows) // 2, (width - columns) // 2
    canvas = np.zeros((height, width, 3), np.uint8)
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    canvas[top : top + rows, left : left + columns] = cv2.resize(frame, (columns, rows), interpolation=method)
    return canvas
