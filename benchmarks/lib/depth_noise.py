"""Depth as a small stereo camera might give it."""

from __future__ import annotations

import cv2
import numpy as np

from fcclip_core.geometry.camera import PinholeCamera

NOISE = (
    "stereo with a baseline of 5 cm: disparity off by 0.08 px (standard deviation) and in steps of 1/16 px, pixels "
    "displaced (0.5 px), half of those at a depth step of 5 % missing, 2 % missing anywhere; whole "
    "millimeters"
)


def noisy(depth: np.ndarray, camera: PinholeCamera, dice: np.random.Generator) -> np.ndarray:
    """Depth as a small stereo camera might give it (`NOISE`): uint16 millimeters, 0 where missing."""
    height, width = depth.shape
    beside = dice.normal(0, 0.5, (2, height, width)).round().astype(int)
    rows = np.clip(np.arange(height)[:, None] + beside[0], 0, height - 1)
    columns = np.clip(np.arange(width) + beside[1], 0, width - 1)
    seen = np.where(np.isfinite(depth), depth, 1000.0)[rows, columns]
    scale = camera.fx * 0.05
    disparity = np.round((scale / seen + dice.normal(0, 0.08, depth.shape)) * 16) / 16
    meters = np.where(disparity > 0, scale / np.maximum(disparity, 1e-6), 0)
    whole = np.where(np.isfinite(depth), depth, 1000.0).astype(np.float32)
    kernel = np.ones((3, 3), np.uint8)
    edge = cv2.dilate(whole, kernel) - cv2.erode(whole, kernel) > 0.05 * whole
    chance = dice.random(depth.shape)
    meters[(edge & (chance < 0.5)) | (chance > 0.98) | (meters > 60)] = 0
    return (meters * 1000).round().astype(np.uint16)
