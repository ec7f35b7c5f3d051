"""camera_info of labels that are smaller than the image."""

from __future__ import annotations

import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo, RegionOfInterest
from std_msgs.msg import Header

from fcclip_core.errors import DepthError
from fcclip_ros.conversions.camera_info import camera_from_info, camera_info_message, label_info

HEADER = Header(frame_id="camera")
MATRIX = np.array([[500.0, 0, 319.5], [0, 480, 239.5], [0, 0, 1]])


def test_a_point_falls_on_the_label_of_its_pixel() -> None:
    """Projected by image_geometry's rule; labels 2 x 2 pixels large, whose first center lies between four pixels."""
    half = label_info(camera_info_message(HEADER, 640, 480, MATRIX), (320, 240), HEADER)
    point = np.array([0.3, -0.2, 1.7])
    full = MATRIX @ point / point[2]
    found = half.k.reshape(3, 3) @ point / point[2]
    np.testing.assert_allclose(found[:2], (full[:2] + 0.5) / 2 - 0.5)
    np.testing.assert_allclose(half.p.reshape(3, 4)[:, :3], half.k.reshape(3, 3))
    assert (half.width, half.height, half.header) == (320, 240, HEADER)
    # The center of the image stays the center: 319.5 of 0 to 639, 159.5 of 0 to 319.
    assert (half.k[2], half.k[5]) == (159.5, 119.5)


def test_the_camera_is_that_of_the_reduced_image() -> None:
    info = camera_info_message(HEADER, 641, 481, MATRIX)
    assert camera_from_info(label_info(info, (321, 241), HEADER), rectified=True) == camera_from_info(
        info, rectified=True
    ).resized(321, 241)


def test_binning_and_region_are_applied_as_for_depth() -> None:
    info = camera_info_message(HEADER, 1280, 960, 2 * MATRIX)
    info.binning_x = info.binning_y = 2
    info.roi = RegionOfInterest(x_offset=80, y_offset=40, width=960, height=720)
    found = label_info(info, (240, 180), HEADER)
    assert camera_from_info(found, rectified=True) == camera_from_info(info, rectified=True).resized(240, 180)
    assert (found.binning_x, found.roi.width) == (0, 0)


def test_stereo_baseline_distortion_and_an_empty_matrix_stay_what_they_say() -> None:
    info = CameraInfo(width=640, height=480, distortion_model="plumb_bob", d=[0.1, 0.2, 0.0, 0.0, 0.3])
    info.k = MATRIX.ravel()
    found = label_info(info, (160, 120), HEADER)
    assert not found.p.any(), "P was not calibrated"
    assert list(found.d) == [0.1, 0.2, 0.0, 0.0, 0.3]
    info.p = np.hstack([MATRIX, [[-60.0], [0], [0]]]).ravel()
    found = label_info(info, (160, 120), HEADER)
    assert found.p[3] / found.p[0] == pytest.approx(-60 / 500), "the baseline in meters"


def test_the_same_size_changes_nothing_and_the_original_is_untouched() -> None:
    info = camera_info_message(HEADER, 640, 480, MATRIX)
    same = label_info(info, (640, 480), HEADER)
    np.testing.assert_allclose(same.k, info.k, rtol=0, atol=1e-12)
    label_info(info, (320, 240), HEADER)
    np.testing.assert_array_equal(info.k, MATRIX.ravel())


@pytest.mark.parametrize("size", [(0, 0), (480, 640)])
def test_another_aspect_ratio_is_refused(size: tuple[int, int]) -> None:
    info = camera_info_message(HEADER, *size, MATRIX)
    with pytest.raises(DepthError, match="different aspect ratio; use the camera_info of the image"):
        label_info(info, (320, 240), HEADER)
