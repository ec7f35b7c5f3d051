"""Calibrations as camera_info has them: which matrix counts, what binning and windows do, where each pixel looks."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from fcclip_core.errors import DepthError
from fcclip_core.geometry.camera import PinholeCamera, same_aspect

SIZE = (640, 480)
K = (600.0, 0, 320, 0, 610, 240, 0, 0, 1)
P = (500.0, 0, 310, -60, 0, 510, 230, 0, 0, 0, 1, 0)
NO_P = (0.0,) * 12


def numbers(camera: PinholeCamera) -> tuple[float, ...]:
    return camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param(
            {}, (640, 480, 500, 510, 310, 230), id="rectified images are described by P, without its baseline"
        ),
        pytest.param({"rectified": False}, (640, 480, 600, 610, 320, 240), id="raw ones by K"),
        pytest.param({"p": NO_P}, (640, 480, 600, 610, 320, 240), id="by K where nobody filled in P"),
        pytest.param({"binning": (0, 0)}, (640, 480, 500, 510, 310, 230), id="binning 0 is 1"),
        pytest.param({"binning": (2, 2)}, (320, 240, 250, 255, 155, 115), id="binning halves"),
        pytest.param({"roi": (100, 50, 320, 200)}, (320, 200, 500, 510, 210, 180), id="a window shifts"),
        pytest.param(
            {"roi": (100, 50, 320, 200), "binning": (2, 4)}, (160, 50, 250, 127.5, 105, 45), id="first shift, then bin"
        ),
    ],
)
def test_from_calibration(given: dict, expected: tuple[float, ...]) -> None:
    options = {"k": K, "p": P, **given}
    assert numbers(PinholeCamera.from_calibration(SIZE, **options)) == expected


@pytest.mark.parametrize(
    ("size", "given", "complaint"),
    [
        (SIZE, {"k": (0.0,) * 9, "p": NO_P}, "focal lengths 0 and 0, so the camera is not calibrated"),
        (SIZE, {"k": (-600.0, 0, 320, 0, 610, 240, 0, 0, 1), "p": NO_P}, "focal lengths -600 and 610"),
        (SIZE, {"k": (float("nan"), 0, 320, 0, 610, 240, 0, 0, 1), "p": NO_P}, "focal lengths nan and 610"),
        (SIZE, {"k": (600.0, 0, float("inf"), 0, 610, 240, 0, 0, 1), "p": NO_P}, "non-finite"),
        ((0, 0), {"k": K, "p": P}, "image size 0 x 0"),
        (
            SIZE,
            {"k": K, "p": P, "distortion": (0.1,), "model": "fisheye", "rectified": False},
            "unknown distortion model 'fisheye'; expected one of plumb_bob, rational_polynomial",
        ),
        # OpenCV raised an error of its own for each frame.
        *(
            (
                SIZE,
                {"k": K, "p": P, "distortion": (0.1,) * count, "model": "plumb_bob", "rectified": False},
                f"has {count} distortion coefficients; expected one of 0, 4, 5",
            )
            for count in (1, 3, 6, 15, 100_000)
        ),
    ],
)
def test_what_is_no_camera_is_refused(size: tuple[int, int], given: dict, complaint: str) -> None:
    with pytest.raises(DepthError, match=complaint):
        PinholeCamera.from_calibration(size, **given)


def test_rays_go_through_the_middles_of_pixels() -> None:
    across, down = PinholeCamera(4, 3, 2.0, 4.0, 1.0, 1.0).rays()
    np.testing.assert_allclose(across, np.tile([-0.5, 0.0, 0.5, 1.0], (3, 1)))
    np.testing.assert_allclose(down, np.tile([[-0.25], [0.0], [0.25]], (1, 4)))
    assert across.dtype == down.dtype == np.float32


@pytest.mark.parametrize(
    ("model", "distortion"),
    [
        ("plumb_bob", (-0.2, 0.05, 0.001, -0.002, 0.0)),
        ("rational_polynomial", (0.4, -2.6, 0.0005, 0.0, 1.5, 0.3, -2.4, 1.4)),
    ],
)
def test_rays_of_raw_images_undo_the_lens(model: str, distortion: tuple[float, ...]) -> None:
    camera = PinholeCamera.from_calibration(
        (64, 48), (60.0, 0, 31, 0, 61, 24, 0, 0, 1), NO_P, distortion=distortion, model=model, rectified=False
    )
    across, down = camera.rays()
    points = np.stack([across, down, np.ones_like(across)], axis=-1).reshape(-1, 1, 3).astype(np.float64)
    matrix = np.array([[60.0, 0, 31], [0, 61, 24], [0, 0, 1]])
    seen, _ = cv2.projectPoints(points, np.zeros(3), np.zeros(3), matrix, np.array(distortion))
    rows, columns = np.indices(across.shape)
    np.testing.assert_allclose(seen.reshape(48, 64, 2), np.stack([columns, rows], axis=-1), atol=0.02)
    straight = replace(camera, distortion=()).rays()[0]
    assert np.abs(across - straight).max() > 0.005, "the lens bends nothing"


def test_half_the_size_sees_the_same() -> None:
    camera = PinholeCamera(8, 6, 10.0, 11.0, 3.3, 2.2)
    whole, half = camera.rays(), camera.resized(4, 3).rays()
    for large, small in zip(whole, half, strict=True):
        np.testing.assert_allclose(large.reshape(3, 2, 4, 2).mean(axis=(1, 3)), small, atol=1e-6)
    with pytest.raises(DepthError, match="8 x 6 pixels, but the image has 80 x 50, a different aspect"):
        camera.resized(80, 50)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ((640, 480), (320, 240), True),
        ((1280, 720), (853, 480), True),  # 853.3
        ((1280, 720), (426, 240), True),  # 426.7
        ((640, 480), (848, 480), False),
        ((640, 480), (640, 400), False),
        ((640, 480), (480, 640), False),
    ],
)
def test_same_aspect(first: tuple[int, int], second: tuple[int, int], same: bool) -> None:
    assert same_aspect(first, second) == same_aspect(second, first) == same
