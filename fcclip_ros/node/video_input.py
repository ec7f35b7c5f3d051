"""Decodes the video packets of a camera on a thread of their own, so that the executor never waits for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sensor_msgs.msg import Image

from fcclip_core.errors import ImageError
from fcclip_ros.conversions.messages import image_message
from fcclip_ros.conversions.video import VideoDecoder
from fcclip_ros.node.worker import Worker

PACKETS_KEPT = 60
"""Packets that may wait, in DDS and for the decoder; all are needed, unlike images."""

_STOP_PATIENCE = 1.0
"""Seconds that stopping waits for the packet that is being decoded."""


class VideoInput:
    """Turns packets into images between `start` and `stop`."""

    def __init__(self, on_image: Callable[[Image], None], on_bad: Callable[[str], None]) -> None:
        """Starts no thread yet.

        Args:
            on_image: Called on the thread with each image, in rgb8.
            on_bad: Called on any thread with the reason why there is no image.
        """
        self._on_image = on_image
        self._on_bad = on_bad
        self._worker: Worker[None] | None = None
        self._decoder: VideoDecoder | None = None
        self._is_lossy = False

    def start(self, max_pixels: int) -> None:
        """Starts the thread; images have at most `max_pixels` pixels."""
        self._decoder, self._worker, self._is_lossy = VideoDecoder(max_pixels), Worker("video"), False

    def stop(self) -> None:
        """Ends the thread and forgets what it was to decode."""
        worker, self._worker, self._decoder = self._worker, None, None
        if worker is not None:
            worker.stop(_STOP_PATIENCE)

    def set_max_pixels(self, max_pixels: int) -> None:
        """Changes the maximum number of pixels of an image."""
        if self._decoder is not None:
            self._decoder.max_pixels = max_pixels

    @property
    def waits_for_key_frame(self) -> bool:
        """Whether no image can be decoded before the next key frame."""
        return self._decoder is not None and self._decoder.waits_for_key_frame

    def put(self, packet: Any) -> None:
        """Takes the next ffmpeg_image_transport_msgs/FFMPEGPacket; in the executor."""
        worker, decoder = self._worker, self._decoder
        if worker is None or decoder is None:
            return
        if worker.tasks >= PACKETS_KEPT:
            self._is_lossy = True
            self._on_bad(
                f"{PACKETS_KEPT} video packets wait for the decoder, which is slower than the camera; the next ones "
                "are lost, up to a key frame"
            )
            return
        is_lossy, self._is_lossy = self._is_lossy, False
        worker.submit(self._decode, decoder, packet, is_lossy)

    def _decode(self, decoder: VideoDecoder, packet: Any, is_lossy: bool) -> None:
        if is_lossy:
            decoder.reset()
        try:
            for image in decoder.decode(packet):
                if decoder is self._decoder:  # not stopped meanwhile
                    self._on_image(image_message(image.pixels, "rgb8", image.header))
        except ImageError as error:
            self._on_bad(str(error))
        except Exception as error:  # nobody waits for the task's result
            self._on_bad(f"a video packet was not read: {type(error).__name__}: {error}")
