"""Large-scale jitter: flip, random resize relative to the crop, crop or pad to the crop (Ghiasi et al., 2021)."""

from __future__ import annotations

import numpy as np
from PIL import Image

from fcclip_core.training.config import AugmentationConfig

PADDING = 128
"""Gray value of the padding."""


def augment(
    image: np.ndarray, segment_map: np.ndarray, config: AugmentationConfig, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Flips, scales and crops an image and its ground truth.

    Args:
        image: uint8 `(H, W, 3)`.
        segment_map: int32 `(H, W)`.
        config: Ranges.
        random: Random generator.

    Returns:
        uint8 `(crop, crop, 3)`, padded with gray, and int32 `(crop, crop)`, padded with 0.
    """
    if random.random() < config.flip:
        image, segment_map = image[:, ::-1], segment_map[:, ::-1]
    scale = random.uniform(config.min_scale, config.max_scale) * config.crop / max(image.shape[:2])
    height, width = (max(round(side * scale), 1) for side in image.shape[:2])
    top, left = (round(random.random() * max(side - config.crop, 0)) for side in (height, width))
    window = (slice(top, top + config.crop), slice(left, left + config.crop))
    resized = _resize(image, height, width, Image.Resampling.BILINEAR)[window]
    resized_map = _resize(segment_map.astype(np.int32), height, width, Image.Resampling.NEAREST)[window]
    padding = [(0, config.crop - side) for side in resized_map.shape]
    return np.pad(resized, [*padding, (0, 0)], constant_values=PADDING), np.pad(resized_map, padding)


def _resize(array: np.ndarray, height: int, width: int, resample: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(np.ascontiguousarray(array)).resize((width, height), resample))
