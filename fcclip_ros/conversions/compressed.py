"""Images as image_transport's `compressed` plugin publishes them: photographs as JPEG, labels as PNG, never as JPEG."""

from __future__ import annotations

import array

import cv2
import numpy as np
import simplejpeg
from sensor_msgs.msg import CompressedImage, Image

JPEG_QUALITY = 80
_PNG_OPTIONS = (cv2.IMWRITE_PNG_COMPRESSION, 1)
"""Label images are flat: more effort makes them little smaller, and takes three times as long."""
_LABEL_TYPES = {"mono8": np.uint8, "mono16": np.uint16, "16UC1": np.uint16}


def compressed_message(image: Image) -> CompressedImage:
    """Compresses one of the node's own images.

    Args:
        image: rgb8, which becomes a JPEG, or mono8, mono16 or 16UC1, which become a PNG and lose nothing.

    Returns:
        The image with the header and, in `format`, the encoding, as compressed_image_transport writes both.
    """
    shape = image.height, image.width
    if image.encoding == "rgb8":
        pixels = np.frombuffer(image.data, np.uint8).reshape(*shape, 3)
        kind, data = "jpeg compressed bgr8", simplejpeg.encode_jpeg(pixels, JPEG_QUALITY)
    else:
        labels = np.frombuffer(image.data, _LABEL_TYPES[image.encoding]).reshape(shape)
        kind, data = "png compressed ", cv2.imencode(".png", labels, _PNG_OPTIONS)[1].tobytes()
    message = CompressedImage(header=image.header, format=f"{image.encoding}; {kind}")
    message.data = array.array("B", data)
    return message
