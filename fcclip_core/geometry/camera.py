"""Pinhole cameras: from a calibration to the ray of every pixel."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from fcclip_core.errors import DepthError

_POLYNOMIAL_MODELS = ("plumb_bob", "rational_polynomial")


@dataclass(frozen=True)
class PinholeCamera:
    """A camera as the pixels of its images see it; pixel (0, 0) is the middle of the first pixel.

    Attributes:
        width: Of the images, pixels.
        height: Of the images, pixels.
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
        """Checks that there is a camera.

        Raises:
            DepthError: No pixels, or a focal length or principal point that no camera has.
        """
        if self.width < 1 or self.height < 1:
            raise DepthError(f"camera_info is for images of {self.width} x {self.height} pixels; it is empty")
        if not (np.isfinite([self.fx, self.fy]).all() and self.fx > 0 and self.fy > 0):
            raise DepthError(
                f"camera_info has the focal lengths {self.fx:g} and {self.fy:g}; the camera is not calibrated, and "
                "depth means nothing without"
            )
        if not np.isfinite([self.cx, self.cy, *self.distortion]).all():
            raise DepthError("camera_info has numbers that are not finite; calibrate the camera again")

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
        """Reads a calibration as sensor_msgs/CameraInfo has it: of the whole sensor, of which images may show a part.

        Columns and rows are shifted and divided as image_geometry does. The fourth column of `p` (the baseline of a
        stereo pair) is left out: points are in the camera's own frame.

        Args:
            size: `(width, height)` of the whole sensor, pixels.
            k: Camera matrix of raw images, 9 numbers row by row.
            p: Projection matrix of rectified images, 12 numbers; all 0 where nobody filled it in: `k` then counts.
            distortion: Coefficients of raw images.
            model: Their model.
            binning: Sensor pixels, `(across, down)`, that make one pixel of an image; 0 is 1.
            roi: `(column, row, width, height)` of the part that images show, in pixels of the sensor; width or height
                0 is all of it.
            rectified: Whether images are rectified, so that `p` describes them; else `k` and the distortion do.

        Raises:
            DepthError: No focal length, numbers that are not finite, or a model that is not known.
        """
        fx, fy, cx, cy = (p[0], p[5], p[2], p[6]) if rectified and p[0] != 0 else (k[0], k[4], k[2], k[5])
        if not rectified and any(distortion) and model not in _POLYNOMIAL_MODELS:
            raise DepthError(
                f"the distortion model {model[:40]!r} is not known; expected one of {', '.join(_POLYNOMIAL_MODELS)}. "
                "Rectify image and depth first (image_proc)"
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
            DepthError: They have another aspect ratio, so that they cannot show the same.
        """
        if (width, height) == (self.width, self.height):
            return self
        if not same_aspect((self.width, self.height), (width, height)):
            raise DepthError(
                f"camera_info is for {self.width} x {self.height} pixels, the image has {width} x {height}: another "
                "aspect ratio; it must be the camera_info of the image, or of depth registered to it"
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
        """Points of all pixels at a depth of 1, x and y: two float32 `(height, width)`, read-only, kept for later."""
        return _rays(self)


def same_aspect(first: tuple[int, int], second: tuple[int, int]) -> bool:
    """Whether one of two sizes `(width, height)` is the other times a factor, rounded to whole pixels."""
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
