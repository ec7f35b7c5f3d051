"""Image to network input: resize, normalize, pad, and the geometry to undo them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fcclip_core.errors import ImageError
from fcclip_core.images.label_size import label_size
from fcclip_core.settings import InferenceSettings

# CLIP's channel statistics, in units of 0..255.
PIXEL_MEAN = (122.7709383, 116.7460125, 104.09373615)
PIXEL_STD = (68.5005327, 66.6321579, 70.32316305)
SIZE_DIVISOR = 32


@dataclass(frozen=True)
class FrameGeometry:
    """Sizes (height, width) in pixels of a frame during preprocessing.

    Attributes:
        image: The original frame.
        resized: After the test-time resize.
        padded: After padding right and bottom to a multiple of 32.
        output_stride: Image pixels per pixel of the label image, along each side.
    """

    image: tuple[int, int]
    resized: tuple[int, int]
    padded: tuple[int, int]
    output_stride: int = 1

    @property
    def output(self) -> tuple[int, int]:
        """The label image; see `label_size`."""
        return label_size(*self.image, self.output_stride)

    @classmethod
    def of(cls, height: int, width: int, settings: InferenceSettings) -> FrameGeometry:
        """The published test-time resize: shorter side to `shorter_side`, longer side at most `max_size`."""
        scale = settings.shorter_side / min(height, width)
        sides = (height * scale, width * scale)
        # The shorter side is exact before the limit applies: its rounding can change the size by a pixel.
        sides = (float(settings.shorter_side), sides[1]) if height < width else (sides[0], float(settings.shorter_side))
        limit = settings.max_size / max(sides)
        if limit < 1:
            sides = (sides[0] * limit, sides[1] * limit)
        resized = (max(int(sides[0] + 0.5), 1), max(int(sides[1] + 0.5), 1))
        padded = tuple(-(-side // SIZE_DIVISOR) * SIZE_DIVISOR for side in resized)
        return cls((height, width), resized, (padded[0], padded[1]), settings.output_stride)


def check_image(image: np.ndarray) -> None:
    """Checks that the argument is an RGB image.

    Raises:
        ImageError: Not a uint8 array `(H, W, 3)` with at least one pixel.
    """
    expected = "expected a uint8 RGB array of shape (H, W, 3)"
    if not isinstance(image, np.ndarray):
        raise ImageError(f"the image is a {type(image).__name__}; {expected} (numpy.asarray of a PIL image gives one)")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ImageError(f"the image has shape {image.shape} and type {image.dtype}; {expected}")
    if 0 in image.shape:
        raise ImageError(f"the image has shape {image.shape}, which has no pixels; {expected}")


def preprocess(image: np.ndarray, settings: InferenceSettings, device: torch.device) -> tuple[Tensor, FrameGeometry]:
    """Preprocesses one image.

    The resize is PIL's bilinear filter on uint8, which averages when it shrinks. Normalization comes before padding, so
    padding is the mean color.

    Args:
        image: uint8 RGB `(H, W, 3)`.
        settings: `shorter_side` and `max_size`.
        device: Where the network runs.

    Returns:
        float32 `(1, 3, h, w)`, sides divisible by 32, channels last in memory; and the frame's sizes.

    Raises:
        ImageError: See `check_image`.
    """
    check_image(image)
    geometry = FrameGeometry.of(image.shape[0], image.shape[1], settings)
    height, width = geometry.resized
    resized = image
    if (height, width) != geometry.image:
        resized = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    pixels = torch.from_numpy(np.array(resized, copy=not resized.flags.writeable)).to(device).float()
    pixels = (pixels - pixels.new_tensor(PIXEL_MEAN)) / pixels.new_tensor(PIXEL_STD)
    padded = F.pad(pixels, (0, 0, 0, geometry.padded[1] - width, 0, geometry.padded[0] - height))
    return padded.permute(2, 0, 1).unsqueeze(0), geometry
