"""Windows of labeled frames, the training data of the small CLIP.

A close window shows one segment with a random margin, and its caption is that segment's class. A wide window shows part
of a frame at FC-CLIP's scale, and its caption lists all objects in it. In both, the segments' regions have class names,
too, so that CLIP's head gives consistent embeddings for crops and masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from fcclip_core.datasets.records import PanopticSample
from fcclip_core.inference.preprocess import PIXEL_MEAN, PIXEL_STD

STRIDE = 32
MAX_NAMED = 3
"""A window with more objects gets no caption for the whole window."""

_MIN_AREA = 64
"""Smallest area of a window's target segment, 8 x 8 pixels; smaller shapes cannot be recognized."""
_STUFF_SHARE = 0.2
_STUFF_REGIONS_KEPT = 0.4
_PURE = 0.7
_CENTER = slice(12, 20)


class Samples(Protocol):
    """Labeled frames: a `WorldShards`, another panoptic dataset, or a list."""

    def __len__(self) -> int:
        """Number of frames."""
        ...

    def __getitem__(self, index: int, /) -> PanopticSample:
        """The frame at `index`."""
        ...


@dataclass(frozen=True)
class WindowKind:
    """The kind of windows in one batch.

    Attributes:
        size: Side of the network's input in pixels, divisible by 32.
        count: Windows per batch.
        wide: Whether windows show part of a frame instead of one segment.
        sides: Range of the shorter side, in pixels, to which frames are scaled before cutting wide windows.
    """

    size: int
    count: int
    wide: bool
    sides: tuple[int, int] = (480, 800)


@dataclass(frozen=True)
class WindowBatch:
    """Windows with labeled masks.

    Attributes:
        images: float32 `(N, 3, S, S)`, normalized with CLIP's statistics.
        masks: bool `(N, R, S/32, S/32)`; if a window has fewer than R labeled masks, the rest are empty.
        positions: int64 `(M, 2)`: window and mask index of each labeled mask.
        named: The class indices of each of the M masks.
    """

    images: Tensor
    masks: Tensor
    positions: Tensor
    named: tuple[frozenset[int], ...]


def draw_windows(
    samples: Samples, things: Sequence[bool], kind: WindowKind, generator: np.random.Generator
) -> WindowBatch:
    """Draws a batch of windows from random samples.

    Args:
        samples: Labeled frames.
        things: Whether each class is a thing.
        kind: Size, number and kind of windows.
        generator: Random generator.
    """
    images: list[np.ndarray] = []
    masks: list[np.ndarray] = []
    named: list[list[frozenset[int]]] = []
    while len(images) < kind.count:
        window = _window(samples[int(generator.integers(len(samples)))], things, kind, generator)
        if window is not None:
            images.append(window[0])
            masks.append(window[1])
            named.append(window[2])
    rows = max(len(row) for row in masks)
    cells = kind.size // STRIDE
    padded = np.zeros((kind.count, rows, cells, cells), bool)
    for index, row in enumerate(masks):
        padded[index, : len(row)] = row
    positions = [(window, mask) for window, row in enumerate(masks) for mask in range(len(row))]
    pixels = (np.stack(images) - np.array(PIXEL_MEAN, np.float32)) / np.array(PIXEL_STD, np.float32)
    return WindowBatch(
        images=torch.from_numpy(pixels).permute(0, 3, 1, 2),
        masks=torch.from_numpy(padded),
        positions=torch.tensor(positions),
        named=tuple(names for row in named for names in row),
    )


def cell_masks(segment_map: np.ndarray, ids: Sequence[int]) -> np.ndarray:
    """Ground-truth masks at stride 32, as for CLIP's head: a cell belongs to the segment that fills its center.

    FC-CLIP resizes its masks bilinearly from stride 4, which reads the 8 x 8 pixels around a cell's center.

    Args:
        segment_map: `(H, W)`, sides divisible by 32.
        ids: N segment ids.

    Returns:
        bool `(N, H/32, W/32)`; a mask may be empty.
    """
    height, width = segment_map.shape
    blocks = segment_map.reshape(height // STRIDE, STRIDE, width // STRIDE, STRIDE)
    centers = blocks[:, _CENTER, :, _CENTER]
    return np.stack([(centers == value).mean((1, 3)) > 0.5 for value in ids])


def square_around(box: tuple[slice, slice], margin: float, shape: tuple[int, int]) -> tuple[int, int, int]:
    """Top, left and side of a square around `box`, scaled by `margin` and shifted into the frame."""
    rows, columns = box
    side = int(max(rows.stop - rows.start, columns.stop - columns.start, 12) * margin)
    side = min(side, *shape)
    top = int((rows.start + rows.stop - side) / 2)
    left = int((columns.start + columns.stop - side) / 2)
    return min(max(top, 0), shape[0] - side), min(max(left, 0), shape[1] - side), side


def resize_pixels(image: np.ndarray, size: int) -> np.ndarray:
    """Resizes a square uint8 image, averaging if it shrinks."""
    shrinks = image.shape[0] > size
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _window(
    sample: PanopticSample, things: Sequence[bool], kind: WindowKind, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, list[frozenset[int]]] | None:
    """Pixels, masks and classes of one window; None if nothing in it can be labeled."""
    square, target = _square(sample, things, kind, generator)
    if square is None:
        return None
    top, left, side = square
    region = (slice(top, top + side), slice(left, left + side))
    ids = np.asarray(
        cv2.resize(sample.segment_map[region].astype(np.uint8), (kind.size,) * 2, interpolation=cv2.INTER_NEAREST)
    )
    image = resize_pixels(np.ascontiguousarray(sample.image[region]), kind.size)
    if generator.random() < 0.5:
        image, ids = image[:, ::-1], ids[:, ::-1]

    classes = {segment.id: segment.class_index for segment in sample.segments if not segment.is_crowd}
    counts = np.bincount(ids.ravel(), minlength=256)
    whole = _whole_window(classes, things, counts, target, kind)
    shown = [value for value in classes if counts[value] > 0]
    shown = [v for v in shown if things[classes[v]] or generator.random() < _STUFF_REGIONS_KEPT]
    masks = cell_masks(ids, shown) if shown else np.zeros((0, kind.size // STRIDE, kind.size // STRIDE), bool)
    kept = [index for index, mask in enumerate(masks) if mask.any()]
    named = [frozenset((classes[shown[index]],)) for index in kept]
    masks = masks[kept]
    if whole:
        masks = np.concatenate((np.ones_like(masks, shape=(1, *masks.shape[1:])), masks))
        named.insert(0, whole)
    return (_jitter(image, generator), masks, named) if named else None


def _square(
    sample: PanopticSample, things: Sequence[bool], kind: WindowKind, generator: np.random.Generator
) -> tuple[tuple[int, int, int] | None, int]:
    """Top, left and side of a window, and the id of its target segment."""
    boxes = ndimage.find_objects(sample.segment_map)
    areas = np.bincount(sample.segment_map.ravel(), minlength=len(boxes) + 1)
    large = [segment for segment in sample.segments if areas[segment.id] >= _MIN_AREA and not segment.is_crowd]
    of_things = [segment for segment in large if things[segment.class_index]]
    of_stuff = [segment for segment in large if not things[segment.class_index]]
    pool = of_stuff if of_stuff and (not of_things or generator.random() < _STUFF_SHARE) else of_things
    if not pool:
        return None, 0
    segment = pool[int(generator.integers(len(pool)))]
    box, shape = boxes[segment.id - 1], sample.segment_map.shape
    if not kind.wide and things[segment.class_index]:
        return square_around(box, generator.uniform(1.0, 1.6), shape), segment.id
    side = kind.size * min(shape) / generator.uniform(*kind.sides) if kind.wide else generator.uniform(24, 96)
    side = min(int(side), *shape)
    where = []
    for span, length in zip(box, shape, strict=True):
        center = generator.uniform(span.start, span.stop) + (generator.uniform(-0.4, 0.4) * side if kind.wide else 0)
        where.append(int(min(max(center - side / 2, 0), length - side)))
    return (where[0], where[1], side), segment.id


def _whole_window(
    classes: dict[int, int], things: Sequence[bool], counts: np.ndarray, target: int, kind: WindowKind
) -> frozenset[int]:
    """The classes in the caption of a whole window; empty if no caption would be correct."""
    total = kind.size * kind.size
    if not kind.wide and (things[classes[target]] or counts[target] > _PURE * total):
        return frozenset((classes[target],))
    shown = [value for value, index in classes.items() if things[index] and counts[value] > 0.005 * total]
    large = [value for value in shown if counts[value] > 0.02 * total]
    return frozenset(classes[v] for v in large) if len(large) == len(shown) <= MAX_NAMED else frozenset()


def _jitter(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Random brightness, contrast, white balance and noise, small enough not to change the names of colors."""
    pixels = image.astype(np.float32)
    mean = pixels.mean()
    pixels = (pixels - mean) * np.float32(generator.uniform(0.85, 1.15)) + mean * generator.uniform(0.8, 1.2)
    pixels *= generator.uniform(0.96, 1.04, 3).astype(np.float32)
    if generator.random() < 0.5:
        pixels += generator.standard_normal(pixels.shape, np.float32) * np.float32(generator.uniform(0, 6))
    return np.clip(pixels, 0, 255, out=pixels).astype(np.float32)
