"""How well CLIP alone names things: from crops, and from the truth's masks over whole frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage
from torch import Tensor

from fcclip_core.datasets.records import PanopticSample, TruthSegment
from fcclip_core.inference.preprocess import PIXEL_MEAN, PIXEL_STD, preprocess
from fcclip_core.model.backbone import ImageTower
from fcclip_core.settings import InferenceSettings
from fcclip_core.training.demo_model.windows import cell_masks, resize_pixels, square_around

CROP = 96
MARGIN = 1.3
MIN_AREA = 25


@dataclass(frozen=True)
class ZeroShot:
    """Shares of right names, 0..1; NaN where there was nothing to name.

    Attributes:
        crops: Things, each cut out with a margin and resized to 96 pixels.
        thing_masks: Things, by their true mask over the whole frame; masks that vanish at stride 32 count as wrong.
        stuff_masks: Stuff, likewise.
        survive: Share of the things whose mask does not vanish at stride 32.
    """

    crops: float
    thing_masks: float
    stuff_masks: float
    survive: float


@torch.no_grad()
def zero_shot(
    tower: ImageTower,
    rows: Tensor,
    things: Sequence[bool],
    samples: Sequence[PanopticSample],
    shorter_side: int,
) -> ZeroShot:
    """Names every segment of at least 25 pixels by the nearest text row.

    Args:
        tower: CLIP's image tower.
        rows: Unit text rows `(C, D)` of all classes.
        things: Whether each class is a thing.
        samples: Labeled frames.
        shorter_side: Size of the frames for the network, in pixels.
    """
    crops: list[bool] = []
    by_mask: dict[bool, list[bool]] = {True: [], False: []}
    survived: list[bool] = []
    settings = InferenceSettings(shorter_side=shorter_side)
    for sample in samples:
        segments = large_segments(sample)
        if not segments:
            continue
        labels = torch.tensor([segment.class_index for segment in segments])
        is_thing = torch.tensor([things[segment.class_index] for segment in segments])
        pixels, geometry = preprocess(sample.image, settings, rows.device)
        ids = Image.fromarray(sample.segment_map.astype(np.uint8)).resize(
            geometry.resized[::-1], Image.Resampling.NEAREST
        )
        padding = [(0, whole - part) for whole, part in zip(geometry.padded, geometry.resized, strict=True)]
        masks = torch.from_numpy(cell_masks(np.pad(np.asarray(ids), padding), [segment.id for segment in segments]))
        named = _nearest(tower.embed_masks(tower(pixels).res5, masks.unsqueeze(0).to(rows.device))[0], rows)
        alive = masks.flatten(1).any(1)
        right = (named == labels) & alive
        for kind in (True, False):
            by_mask[kind] += right[is_thing == kind].tolist()
        survived += alive[is_thing].tolist()
        crops += things_named_right(tower, rows, things, sample)
    mean = [float(np.mean(values)) if values else float("nan") for values in (crops, *by_mask.values(), survived)]
    return ZeroShot(*mean)


def cut_out(
    image: np.ndarray, box: tuple[slice, slice], size: int = CROP, inside: np.ndarray | None = None
) -> np.ndarray:
    """A square around one segment, with a margin: the input of a classifier that sees crop by crop.

    Args:
        image: uint8 RGB `(H, W, 3)`.
        box: The segment's rows and columns.
        size: Side of the result in pixels, divisible by 32.
        inside: bool `(H, W)`, the segment; pixels outside get CLIP's mean color. None keeps the background.

    Returns:
        uint8 `(size, size, 3)`.
    """
    top, left, side = square_around(box, MARGIN, (image.shape[0], image.shape[1]))
    region = (slice(top, top + side), slice(left, left + side))
    crop = np.ascontiguousarray(image[region])
    if inside is not None:
        crop = np.where(inside[region][..., None], crop, np.rint(PIXEL_MEAN).astype(np.uint8))
    return resize_pixels(crop, size)


def embed_crops(tower: ImageTower, crops: Sequence[np.ndarray], device: torch.device) -> Tensor:
    """Embeds N crops of one size, from `cut_out`, as wholes: `(N, D)`, not normalized."""
    pixels = (np.stack(crops) - np.array(PIXEL_MEAN, np.float32)) / np.array(PIXEL_STD, np.float32)
    features = tower(torch.from_numpy(pixels).permute(0, 3, 1, 2).to(device)).res5
    whole = torch.ones_like(features[:, :1], dtype=torch.bool)
    return tower.embed_masks(features, whole)[:, 0]


def things_named_right(
    tower: ImageTower, rows: Tensor, things: Sequence[bool], sample: PanopticSample, size: int = CROP
) -> list[bool]:
    """For each thing of at least 25 pixels whether its crop of `size` pixels is nearest to the right one of `rows`."""
    shown = [item for item in large_segments(sample) if things[item.class_index]]
    if not shown:
        return []
    boxes = ndimage.find_objects(sample.segment_map)
    crops = [cut_out(sample.image, boxes[item.id - 1], size) for item in shown]
    named = _nearest(embed_crops(tower, crops, rows.device), rows)
    return (named == torch.tensor([item.class_index for item in shown])).tolist()


def large_segments(sample: PanopticSample) -> list[TruthSegment]:
    """Segments of at least 25 pixels that are no crowds."""
    areas = np.bincount(sample.segment_map.ravel(), minlength=len(sample.segments) + 1)
    return [item for item in sample.segments if areas[item.id] >= MIN_AREA and not item.is_crowd]


def _nearest(embeddings: Tensor, rows: Tensor) -> Tensor:
    return (F.normalize(embeddings, dim=-1) @ rows.T).argmax(-1).cpu()
