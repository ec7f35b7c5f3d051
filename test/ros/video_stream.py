"""Video as ffmpeg_image_transport publishes it: one packet an image, encoded by PyAV.

The fields are those of its FFMPEGPacket.msg: encoding begins with the encoder's name, bit 0 of flags marks key frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import av
import numpy as np

# Without losses worth mentioning, so that colors can be compared; key frames where they are asked for alone.
OPTIONS = {
    "libx264": {"crf": "4", "x264-params": "scenecut=0"},
    "libx265": {"x265-params": "log-level=none:crf=4:bframes=0"},
}


def packets(
    pictures: Sequence[np.ndarray], encoder: str = "libx264", key_every: int = 5, reordered: int = 0
) -> list[Any]:
    """The fields of the packets in the order of sending, which is that of decoding.

    Args:
        pictures: uint8 RGB, of one size with even sides.
        encoder: libx264 or libx265.
        key_every: Images from key frame to key frame.
        reordered: Most images in a row that are sent after a later one.

    Returns:
        One a picture; `header` is the picture's number.
    """
    context = av.CodecContext.create(encoder, "w")
    height, width = pictures[0].shape[:2]
    context.width, context.height, context.pix_fmt = width, height, "yuv420p"
    context.time_base, context.gop_size, context.max_b_frames = Fraction(1, 30), key_every, reordered
    context.options = OPTIONS[encoder]
    made = []
    for number, picture in enumerate([*pictures, None]):
        frame = None if picture is None else av.VideoFrame.from_ndarray(picture, "rgb24")
        if frame is not None:
            frame.pts = number
        made += context.encode(frame)
    return [
        SimpleNamespace(
            header=packet.pts,
            width=width,
            height=height,
            encoding=f"{encoder};yuv420p;bgr8;bgr8",
            pts=packet.pts,
            flags=int(packet.is_keyframe),
            is_bigendian=False,
            data=bytes(packet),
        )
        for packet in made
    ]
