"""sensor_msgs/CameraInfo: of simulated cameras, as a camera model, and of labels smaller than the image."""

from __future__ import annotations

import numpy as np
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from fcclip_core.errors import DepthError
from fcclip_core.geometry.camera import PinholeCamera, same_aspect


def camera_info_message(header: Header, width: int, height: int, matrix: np.ndarray) -> CameraInfo:
    """The camera_info of a pinhole camera without distortion.

    Args:
        header: Header of the image.
        width: Width in pixels.
        height: Height in pixels.
        matrix: Camera matrix `(3, 3)`.
    """
    return CameraInfo(
        header=header,
        width=width,
        height=height,
        distortion_model="plumb_bob",
        d=[0.0] * 5,
        k=matrix.ravel().tolist(),
        r=np.eye(3).ravel().tolist(),
        p=np.pad(matrix, ((0, 0), (0, 1))).ravel().tolist(),
    )


def camera_from_info(info: CameraInfo, *, rectified: bool) -> PinholeCamera:
    """The camera of a camera_info, with its binning and region of interest.

    Args:
        info: The message.
        rectified: Whether images are rectified; see `PinholeCamera.from_calibration`.

    Raises:
        DepthError: It is not calibrated, or its distortion model is unknown.
    """
    return PinholeCamera.from_calibration(
        (info.width, info.height),
        info.k,
        info.p,
        distortion=info.d,
        model=info.distortion_model,
        binning=(info.binning_x, info.binning_y),
        roi=(info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height),
        rectified=rectified,
    )


def label_info(info: CameraInfo, size: tuple[int, int], header: Header) -> CameraInfo:
    """The camera_info of labels: that of an image of their size, without binning and region of interest.

    Pixel centers count as in `PinholeCamera.resized`. Distortion and rectification are those of the camera.

    Args:
        info: The message for the image.
        size: `(width, height)` of the labels.
        header: Header of the image.

    Raises:
        DepthError: The labels have another aspect ratio than the image that `info` describes.
    """
    roi, binning = info.roi, (max(info.binning_x, 1), max(info.binning_y, 1))
    is_part = roi.width > 0 and roi.height > 0
    offset = (roi.x_offset, roi.y_offset) if is_part else (0, 0)
    sensor = (roi.width, roi.height) if is_part else (info.width, info.height)
    image = (sensor[0] // binning[0], sensor[1] // binning[1])
    if 0 in image or not same_aspect(image, size):
        raise DepthError(
            f"camera_info is for {image[0]} x {image[1]} pixels, but the labels have {size[0]} x {size[1]}, a "
            "different aspect ratio; use the camera_info of the image"
        )
    k, p = info.k.copy(), info.p.copy()
    for axis in (0, 1):
        scale = size[axis] / image[axis]
        for matrix, row in ((k, 3 * axis), (p, 4 * axis)):
            if not matrix[row + axis]:  # not calibrated, which zeros say
                continue
            matrix[row : row + 2] *= scale / binning[axis]
            matrix[row + 2] = ((matrix[row + 2] - offset[axis]) / binning[axis] + 0.5) * scale - 0.5
        # The baseline of a stereo pair, in units of the focal length.
        p[4 * axis + 3] *= scale / binning[axis]
    return CameraInfo(
        header=header,
        width=size[0],
        height=size[1],
        distortion_model=info.distortion_model,
        d=info.d,
        k=k,
        r=info.r,
        p=p,
    )
