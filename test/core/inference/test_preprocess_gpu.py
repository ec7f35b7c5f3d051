"""Pre-processing on the device against PIL and against `preprocess`, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from fcclip_core.errors import ImageError
from fcclip_core.inference.preprocess import PIXEL_STD, preprocess
from fcclip_core.inference.preprocess_gpu import AxisFilter, DevicePreprocessor
from fcclip_core.settings import InferenceSettings

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SIZES = [(48, 64), (480, 640), (37, 101), (101, 70), (1, 7), (97, 2), (720, 1280), (64, 64), (1, 1), (65, 130)]


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Noise, and a part that is black and white: extremes show rounding that overflows."""
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (height, width, 3), np.uint8)
    return np.where(random.random((height, width, 1)) < 0.3, 255 * (image > 127), image).astype(np.uint8)


@pytest.mark.parametrize("side", [32, 64, 100])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_equals_preprocess(height: int, width: int, side: int) -> None:
    settings = InferenceSettings(shorter_side=side, max_size=160)
    image = noise(height, width)
    expected, geometry = preprocess(image, settings, DEVICE)
    ours, our_geometry = DevicePreprocessor(DEVICE)(image, settings)
    assert our_geometry == geometry
    assert ours.dtype == torch.float32
    assert ours.stride() == expected.stride()
    assert torch.equal(ours, expected)


def test_tall_images_are_at_most_one_level_apart() -> None:
    # Pillow 13 resizes rows first here, earlier ones columns first.
    settings = InferenceSettings(shorter_side=100, max_size=160)
    expected, geometry = preprocess(noise(333, 50), settings, DEVICE)
    ours, _ = DevicePreprocessor(DEVICE)(noise(333, 50), settings)
    assert geometry.resized == (160, 24)
    level = 1 / torch.tensor(PIXEL_STD, device=DEVICE).view(3, 1, 1)
    assert bool(((ours - expected).abs() <= 1.001 * level).all())


@pytest.mark.parametrize("target", [1, 2, 3, 30, 31, 64, 119, 120, 121, 240, 777])
def test_axis_filter_equals_pil(target: int) -> None:
    image = noise(5, 120, seed=target)
    expected = np.asarray(Image.fromarray(image).resize((target, 5), Image.Resampling.BILINEAR))
    ours = AxisFilter.of(120, target, DEVICE)(torch.from_numpy(image).to(DEVICE), 1)
    np.testing.assert_array_equal(ours.cpu().numpy(), expected)
    upright = AxisFilter.of(120, target, DEVICE)(torch.from_numpy(image).to(DEVICE).transpose(0, 1), 0)
    np.testing.assert_array_equal(upright.cpu().numpy(), expected.transpose(1, 0, 2))


def test_buffers_are_reused_and_padding_stays_clean() -> None:
    prepare, settings = DevicePreprocessor(DEVICE), InferenceSettings(shorter_side=40, max_size=100)
    addresses = set()
    for seed in range(3):
        # Two sizes take turns: each has buffers of its own.
        for size in ((50, 70), (70, 50)):
            image = noise(*size, seed=seed)
            ours, _ = prepare(image, settings)
            assert torch.equal(ours, preprocess(image, settings, DEVICE)[0])
            addresses.add(ours.data_ptr())
    assert len(addresses) == 2


def test_reads_any_view_of_pixels() -> None:
    settings, wide = InferenceSettings(shorter_side=32), noise(60, 90)
    for view in (wide[:, ::-1], wide[5:50, 3:80], np.asfortranarray(wide), wide[..., ::-1]):
        assert torch.equal(DevicePreprocessor(DEVICE)(view, settings)[0], preprocess(view.copy(), settings, DEVICE)[0])


def test_refuses_what_is_no_image() -> None:
    with pytest.raises(ImageError, match="expected a uint8 RGB array"):
        DevicePreprocessor(DEVICE)(np.zeros((4, 4), np.uint8), InferenceSettings())


@pytest.mark.parametrize(
    ("image", "resized"), [((1, 400_000), (1, 1333)), ((400_000, 1), (1333, 1)), ((1, 1), (800, 800))]
)
def test_lines_and_single_pixels_become_an_input_of_at_least_one_pixel(
    image: tuple[int, int], resized: tuple[int, int]
) -> None:
    picture = np.full((*image, 3), 77, np.uint8)
    for prepare in (DevicePreprocessor(DEVICE), lambda image, settings: preprocess(image, settings, DEVICE)):
        tensor, geometry = prepare(picture, InferenceSettings())
        assert geometry.resized == resized
        assert all(side % 32 == 0 for side in geometry.padded)
        assert len(tensor[0, 0, : resized[0], : resized[1]].unique()) == 1
