"""Compressed outputs, read back by other decoders."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image as Picture
from std_msgs.msg import Header

from fcclip_core.images.encoded_images import is_jpeg, is_png
from fcclip_ros.conversions.compressed import compressed_message
from fcclip_ros.conversions.images import to_rgb
from fcclip_ros.conversions.messages import image_message

HEADER = Header(frame_id="camera")


@pytest.mark.parametrize(
    ("encoding", "dtype", "highest"),
    [("mono8", np.uint8, 255), ("mono16", np.uint16, 65_535), ("16UC1", np.uint16, 300)],
)
def test_labels_lose_nothing(encoding: str, dtype: type, highest: int) -> None:
    labels = np.random.default_rng(0).integers(0, highest, (37, 51), dtype, endpoint=True)
    message = compressed_message(image_message(labels, encoding, HEADER))
    assert is_png(message.data)
    assert message.header == HEADER
    # compressed_publisher.cpp of image_transport_plugins writes the encoding, and no second one for gray images.
    assert message.format == f"{encoding}; png compressed "
    np.testing.assert_array_equal(np.array(Picture.open(io.BytesIO(message.data.tobytes()))), labels)


def test_overlays_are_photographs() -> None:
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:, 32:] = (250, 120, 10)  # a swap of red and blue would show
    message = compressed_message(image_message(pixels, "rgb8", HEADER))
    assert is_jpeg(message.data)
    assert message.format == "rgb8; jpeg compressed bgr8"
    assert np.abs(to_rgb(message, 10_000).astype(int)[:, [5, -5]] - pixels[:, [5, -5]]).max() < 12
