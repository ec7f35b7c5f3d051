"""Pinhole cameras: from a calibration to the ray of each pixel."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from fcclip_core.errors import DepthError

_POLYNOMIAL_MODELS = ("plumb_bob", "rational_polynomial")
_COEFFICIENTS = (0, 4, 5, 8, 12, 14)
"""Numbers of distortion coefficients that OpenCV supports."""


@dataclass(frozen=True)
class PinholeCamera:
    """A pinhole camera in pixel coordinates; (0, 0) is the center of the first pixel.

    Attributes:
        width: Image width, pixels.
        height: Image height, pixels.
        fx: Focal length, pixels.
        fy: Focal length, pixels.
        cx: Column of the principal point.
        cy: Row of the principal point.
        distortion: Coefficients in OpenCV's order (plumb_bob, rational_polynomial); empty for rectified images.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Checks the parameters.

        Raises:
            DepthError: The size is empty, or the focal lengths, principal point or distortion are invalid.
        """
        if self.width < 1 or self.height < 1:
            raise DepthError(f"camera_info has the image size {self.width} x {self.height}; expected at least 1 x 1")
        if not (np.isfinite([self.fx, self.fy]).all() and self.fx > 0 and self.fy > 0):
            raise DepthError(
                f"camera_info has the focal lengths {self.fx:g} and {self.fy:g}, so the camera is not calibrated; "
                "using depth requires a calibration"
            )
        if len(self.distortion) not in _COEFFICIENTS:
            counts = ", ".join(map(str, _COEFFICIENTS))
            raise DepthError(
                f"camera_info has {len(self.distortion)} distortion coefficients; expected one of {counts}; "
                "calibrate the camera again"
            )
        if not np.isfinite([self.cx, self.cy, *self.distortion]).all():
            raise DepthError("camera_info has non-finite numbers; calibrate the camera again")

    @classmethod
    def from_calibration(
        cls,
        size: tuple[int, int],
        k: Sequence[float],
        p: Sequence[float],
        *,
        distortion: Sequence[float] = (),
        model: str = "",
        binning: tuple[int, int] = (1, 1),
        roi: tuple[int, int, int, int] = (0, 0, 0, 0),
        rectified: bool = True,
    ) -> PinholeCamera:
        """Reads a calibration as in sensor_msgs/CameraInfo: it is for the full sensor, images may show a part of it.

        Offsets and binning are applied as in image_geometry. The fourth column of `p` (the baseline of a stereo pair)
        is ignored: points are in the camera's own frame.

        Args:
            size: `(width, height)` of the full sensor, pixels.
            k: Camera matrix of raw images, 9 numbers in row order.
            p: Projection matrix of rectified images, 12 numbers; if all are 0, `k` is used.
            distortion: Coefficients of raw images.
            model: The distortion model.
            binning: Sensor pixels, `(horizontal, vertical)`, per image pixel; 0 means 1.
            roi: `(column, row, width, height)` of the region that images show, in sensor pixels; width or height 0
                means the full sensor.
            rectified: Whether images are rectified and thus described by `p`; otherwise by `k` and the distortion.

        Raises:
            DepthError: No focal length, non-finite numbers, or an unknown distortion model.
        """
        fx, fy, cx, cy = (p[0], p[5], p[2], p[6]) if rectified and p[0] != 0 else (k[0], k[4], k[2], k[5])
        if not rectified and any(distortion) and model not in _POLYNOMIAL_MODELS:
            raise DepthError(
                f"unknown distortion model {model[:40]!r}; expected one of {', '.join(_POLYNOMIAL_MODELS)}. Rectify "
                "image and depth first (image_proc)"
            )
        column, row, width, height = roi if roi[2] and roi[3] else (0, 0, *size)
        across, down = (max(int(count), 1) for count in binning)
        return cls(
            width // across,
            height // down,
            fx / across,
            fy / down,
            (cx - column) / across,
            (cy - row) / down,
            tuple(float(value) for value in distortion) if not rectified and any(distortion) else (),
        )

    def resized(self, width: int, height: int) -> PinholeCamera:
        """The same camera with images of another size.

        Raises:
            DepthError: The aspect ratios differ.
        """
        if (width, height) == (self.width, self.height):
            return self
        if not same_aspect((self.width, self.height), (width, height)):
            raise DepthError(
                f"camera_info is for {self.width} x {self.height} pixels, but the image has {width} x {height}, a "
                "different aspect ratio; use the camera_info of the image, or of depth registered to it"
            )
        across, down = width / self.width, height / self.height
        return replace(
            self,
            width=width,
            height=height,
            fx=self.fx * across,
            fy=self.fy * down,
            cx=(self.cx + 0.5) * across - 0.5,
            cy=(self.cy + 0.5) * down - 0.5,
        )

    def rays(self) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates x and y of all pixels at depth 1: two float32 `(height, width)`, read-only and cached."""
        return _rays(self)


def same_aspect(first: tuple[int, int], second: tuple[int, int]) -> bool:
    """Whether two sizes `(width, height)` have the same aspect ratio, up to rounding to whole pixels."""
    (width, height), (other_width, other_height) = first, second
    return abs(width * other_height - other_width * height) < max(*first, *second)


@functools.lru_cache(maxsize=8)
def _rays(camera: PinholeCamera) -> tuple[np.ndarray, np.ndarray]:
    x = (np.arange(camera.width) - camera.cx) / camera.fx
    y = (np.arange(camera.height) - camera.cy) / camera.fy
    rays = np.stack(np.meshgrid(x, y), axis=-1)
    if camera.distortion:
        straight = cv2.undistortPoints(rays.reshape(-1, 1, 2), np.eye(3), np.array(camera.distortion))
        rays = straight.reshape(rays.shape)
    across, down = (np.ascontiguousarray(rays[..., axis], dtype=np.float32) for axis in range(2))
    across.flags.writeable = down.flags.writeable = False
    return across, down
