"""Image and CompressedImage messages, serialized; the first byte says which."""

from __future__ import annotations

import contextlib
import functools
import io
import struct
from array import array
from pathlib import Path

import numpy as np
import PIL.Image
from hypothesis import strategies as st
from mutations import NUMBERS, mutated
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage, Image

from fcclip_core import Segmenter, Vocabulary
from fcclip_core.errors import FcclipError
from fcclip_core.settings import InferenceSettings
from fcclip_ros.conversions.images import depth_size, size_of, to_depth, to_labels, to_rgb

_ENCODINGS = (
    *("rgb8", "bgr8", "rgba8", "bgra8", "mono8", "mono16", "8UC1", "8UC3", "16UC1", "32FC1", "32SC1", "rgb16"),
    *(
        "yuv422",
        "yuv422_yuy2",
        "uyvy",
        "yuyv",
        "nv12",
        "nv21",
        "nv24",
        "i420",
        "bayer_rggb8",
        "bayer_gbrg16",
        "64FC4",
        "",
    ),
)
_MAX_PIXELS = 1_000_000
_FORMATS = ("jpeg", "png", "rgb8; jpeg compressed bgr8", "16UC1; compressedDepth png", "webp", "tiff", "bmp", "")
_DEPTH_FORMATS = tuple(f"{kind}; compressedDepth {codec}" for kind in ("16UC1", "32FC1") for codec in ("png", "rvl"))


def _pictures() -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)
    found = []
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"):
        buffer = io.BytesIO()
        PIL.Image.fromarray(pixels).save(buffer, kind)
        found.append(buffer.getvalue())
    return found


def _depths() -> list[bytes]:
    """A PNG and RVL behind their headers."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.arange(240, dtype=np.uint16).reshape(12, 20)).save(buffer, "PNG")
    head = struct.pack("<iff", 0, 10_100.0, -1009.0)
    return [head + buffer.getvalue(), head + struct.pack("<II", 2, 2) + bytes.fromhex("0030a122")]


@st.composite
def _raw(draw: st.DrawFn) -> bytes:
    sides = st.one_of(st.integers(0, 40), st.sampled_from([number for number in NUMBERS if number < 2**32]))
    height, width = draw(sides), draw(sides)
    per_pixel = draw(st.integers(1, 4))
    # As many bytes as the numbers ask for, where those are few.
    asked = height * width * per_pixel
    data = bytes(asked) if asked < 100_000 and draw(st.integers(0, 3)) else draw(st.binary(max_size=200))
    message = Image(
        height=height,
        width=width,
        step=draw(st.one_of(st.just(min(width * per_pixel, 2**32 - 1)), sides)),
        encoding=draw(st.one_of(st.sampled_from(_ENCODINGS), st.text("abc8UFC1_", max_size=8))),
        is_bigendian=draw(st.sampled_from([0, 1, 255])),
        data=array("B", data),
    )
    return b"\0" + serialize_message(message)


def _compressed(format_: str, data: bytes) -> bytes:
    return b"\1" + serialize_message(CompressedImage(format=format_, data=array("B", data)))


def inputs() -> st.SearchStrategy[bytes]:
    """Fields that do not fit each other, damaged pictures, and damaged depth."""
    return st.one_of(
        _raw(),
        st.builds(_compressed, st.sampled_from(_FORMATS), mutated(_pictures())),
        st.builds(_compressed, st.sampled_from(_DEPTH_FORMATS), mutated(_depths())),
    )


def read(data: bytes, folder: Path) -> None:
    """Reads it in every way that a node would."""
    kind = CompressedImage if data[:1] == b"\1" else Image
    try:
        message = deserialize_message(data[1:], kind)
    except Exception:  # such a message reaches no node
        return
    with contextlib.suppress(FcclipError):
        assert to_depth(message, _MAX_PIXELS).shape == depth_size(message, _MAX_PIXELS)
    if kind is Image:
        with contextlib.suppress(FcclipError):
            assert to_labels(message).shape == (message.height, message.width)
    size = size_of(message, _MAX_PIXELS)
    image = to_rgb(message, _MAX_PIXELS)
    assert size in (None, image.shape[:2])
    assert _segmenter()(image).segment_map.shape == image.shape[:2]


def prepare() -> None:
    """Loads the network and lets it see a frame."""
    _segmenter()(np.zeros((12, 20, 3), np.uint8))


@functools.cache
def _segmenter() -> Segmenter:
    segmenter = Segmenter.from_checkpoint("recipe:tiny", device="cpu", backend="eager")
    segmenter.settings = InferenceSettings(shorter_side=32, max_size=64, num_threads=1)
    segmenter.set_vocabulary(Vocabulary.from_names(["cup", "floor"]))
    return segmenter
