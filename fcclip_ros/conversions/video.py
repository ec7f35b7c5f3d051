"""H.264 and H.265 of ffmpeg_image_transport -> RGB images, decoded by PyAV.

A packet is a difference to those before it, up to a key frame: all of them are decoded in their order, and after a loss
the decoder waits for the next key frame.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from fcclip_core.errors import ImageError, SettingsError
from fcclip_core.images.encoded_images import check_size
from fcclip_core.quoting import first_line
from fcclip_ros.compat import optional_module

MESSAGES = "ffmpeg_image_transport_msgs"
"""The package of the messages."""

PACKET_TYPE = f"{MESSAGES}/msg/FFMPEGPacket"
"""The type of a packet, as recordings name it."""

_KEY_FRAME = 1
"""Bit of a packet's flags."""

_DECODERS = {"264": "h264", "avc": "h264", "265": "hevc", "hevc": "hevc"}
"""Part of the name of an encoder, such as libx264 or hevc_nvenc -> FFmpeg's decoder."""

_MAX_DELAYED = 64
"""Packets whose images may be outstanding; H.265 allows 16 to be reordered."""


@dataclass(frozen=True)
class VideoImage:
    """A decoded image.

    Attributes:
        header: Header of its packet.
        pixels: uint8 RGB `(H, W, 3)`.
    """

    header: Any
    pixels: np.ndarray


def check_video_support() -> None:
    """Checks that packets can be received and decoded here.

    Raises:
        SettingsError: A package is missing.
    """
    if optional_module(f"{MESSAGES}.msg") is None:
        raise SettingsError(
            f"image_transport is ffmpeg, which needs the ROS package {MESSAGES}: install "
            "ros-$ROS_DISTRO-ffmpeg-image-transport-msgs"
        )
    if optional_module("av") is None:
        raise SettingsError("image_transport is ffmpeg, which needs PyAV: pip install av")


def packet_type() -> Any:
    """The class ffmpeg_image_transport_msgs/FFMPEGPacket; see `check_video_support`."""
    check_video_support()
    return optional_module(f"{MESSAGES}.msg").FFMPEGPacket  # type: ignore[union-attr]


class VideoDecoder:
    """Decodes the packets of one camera, in their order."""

    def __init__(self, max_pixels: int) -> None:
        """Waits for a key frame.

        Args:
            max_pixels: Maximum number of pixels of an image.
        """
        self.max_pixels = max_pixels
        self._av: Any = optional_module("av")
        self._codec: Any = None
        self._encoding = ""
        self._numbers = itertools.count()
        self._headers: dict[int, Any] = {}
        self._size: tuple[int | None, int | None] = (None, None)

    @property
    def waits_for_key_frame(self) -> bool:
        """Whether packets are passed over until the next key frame: at the beginning, and after a loss."""
        return self._codec is None

    def reset(self) -> None:
        """Waits for a key frame, because packets were lost."""
        self._codec = None
        self._headers.clear()

    def decode(self, packet: Any) -> Iterator[VideoImage]:
        """Decodes the next packet.

        Args:
            packet: An ffmpeg_image_transport_msgs/FFMPEGPacket.

        Yields:
            The images that are complete with it: one, or none while the decoder waits, or several.

        Raises:
            ImageError: The encoding is none that is supported, or the data are damaged or too large; the decoder waits
                for the next key frame.
        """
        if packet.encoding != self._encoding:
            self._encoding = packet.encoding
            self.reset()
        if self._codec is None:
            if not packet.flags & _KEY_FRAME:
                return
            self._codec = self._open(packet.encoding)
        try:
            yield from self._decoded(packet)
        except ImageError:
            self.reset()
            raise
        except Exception as error:  # of FFmpeg; out of memory
            self.reset()
            raise ImageError(
                f"a video packet ({packet.encoding[:40]!r}, {len(packet.data)} bytes) cannot be decoded: "
                f"{first_line(error)}; waiting for the next key frame"
            ) from error

    def rest(self) -> Iterator[VideoImage]:
        """The images that are outstanding after the last packet, because they were sent out of order.

        Raises:
            ImageError: They are damaged or too large.
        """
        if self._codec is None:
            return
        try:
            yield from self._images(None)
        except ImageError:
            raise
        except Exception as error:  # of FFmpeg; out of memory
            raise ImageError(f"the last images of the video cannot be decoded: {first_line(error)}") from error
        finally:
            self.reset()

    def _open(self, encoding: str) -> Any:
        # The codec comes first, then the pixel formats on the way to it: libx264;yuv420p;bgr8;bgr8.
        encoder = encoding.partition(";")[0].strip().lower()
        name = next((decoder for part, decoder in _DECODERS.items() if part in encoder), None)
        if name is None:
            raise ImageError(
                f"the video encoding {encoding[:40]!r} is not supported; expected an encoder of H.264 or H.265, "
                "such as libx264 or hevc_nvenc"
            )
        codec = self._av.CodecContext.create(name, "r")
        # Threads would each hold an image back. FFmpeg checks the size before it allocates an image.
        codec.thread_count = 1
        codec.options = {"flags": "low_delay", "max_pixels": str(self.max_pixels)}
        return codec

    def _decoded(self, packet: Any) -> Iterator[VideoImage]:
        number = next(self._numbers)
        self._headers[number] = packet.header
        for old in list(self._headers)[:-_MAX_DELAYED]:
            del self._headers[old]
        data = self._av.Packet(bytes(packet.data))
        # Of ours: drivers number packets as they like.
        data.pts = number
        self._size = packet.height or None, packet.width or None
        yield from self._images(data)

    def _images(self, data: Any) -> Iterator[VideoImage]:
        """The images that are complete with some data; None: with all data."""
        for frame in self._codec.decode(data):
            header = self._headers.pop(frame.pts, None)
            if header is None:
                continue
            if frame.is_corrupt:
                raise ImageError("a video image is damaged, packets were lost; waiting for the next key frame")
            check_size(frame.height, frame.width, self.max_pixels)
            pixels = frame.to_ndarray(format="rgb24")
            # Some encoders fill the last blocks of 16 pixels up.
            height, width = self._size
            yield VideoImage(header, pixels[:height, :width])
