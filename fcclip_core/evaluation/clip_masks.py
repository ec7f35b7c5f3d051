"""CLIP as a mask classifier (Tables 9 and 10): CLIP alone names the masks of the truth, at several input sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from fcclip_core.datasets.records import Dataset, PanopticSample
from fcclip_core.distributed import rank, sum_over_workers, world_size
from fcclip_core.errors import DatasetError
from fcclip_core.evaluation.averages import class_groups
from fcclip_core.evaluation.panoptic import PanopticQuality
from fcclip_core.evaluation.scoreboard import Scores
from fcclip_core.inference.preprocess import SIZE_DIVISOR, FrameGeometry, preprocess
from fcclip_core.model.backbone import ImageTower
from fcclip_core.settings import InferenceSettings
from fcclip_core.vocabulary.snapshot import VocabularySnapshot

_LARGEST_SIDE = 8192


@dataclass
class NamedMasks:
    """What CLIP called the truth's masks at one input size.

    Attributes:
        right: int64 `(C,)`, segments that got their own name.
        total: int64 `(C,)`, segments.
        quality: Panoptic quality of the truth's masks under CLIP's names.
    """

    right: np.ndarray
    total: np.ndarray
    quality: PanopticQuality

    def scores(self, things: Sequence[bool], seen: Sequence[bool]) -> Scores:
        """Share of segments named right, in per cent (`accuracy.all` and so on), and `pq.all` and so on."""
        groups = class_groups(things, seen)
        accuracy = {
            f"accuracy.{name}": 100 * float(self.right[members].sum() / total)
            if (total := self.total[members].sum())
            else None
            for name, members in groups.items()
        }
        return accuracy | {name: value for name, value in self.quality.scores(groups).items() if name.startswith("pq.")}


def name_masks(
    dataset: Dataset,
    tower: ImageTower,
    snapshot: VocabularySnapshot,
    sizes: Sequence[int],
    *,
    limit: int | None = None,
    advance: Callable[[], None] = lambda: None,
) -> dict[int, NamedMasks]:
    """Names every truth segment, crowds apart, by the text row next to its pooled CLIP feature.

    Args:
        dataset: Images with panoptic truth.
        tower: CLIP's image tower, on the snapshot's device.
        snapshot: The vocabulary, in the dataset's order.
        sizes: Lengths in pixels of the shorter image side.
        limit: Number of images, from the first; None takes all.
        advance: Called after each image of this process.

    Returns:
        Input size -> counts over all processes.

    Raises:
        DatasetError: The dataset has no panoptic truth, or a sample cannot be read.
    """
    count = len(snapshot.class_ids)
    counted = {
        size: NamedMasks(np.zeros(count, np.int64), np.zeros(count, np.int64), PanopticQuality(count)) for size in sizes
    }
    for number in range(rank(), len(dataset) if limit is None else min(limit, len(dataset)), world_size()):
        sample = dataset[number]
        if not isinstance(sample, PanopticSample):
            raise DatasetError(f"{dataset.name} has no segments; CLIP names masks of panoptic datasets only")
        sample = _without_crowds(sample)
        if sample.segments:
            for size in sizes:
                _count(counted[size], sample, _names(sample, tower, snapshot, size))
        advance()
    for named in counted.values():
        _sum_over_workers(named)
    return counted


def masks_on_grid(
    segment_map: np.ndarray, segments: int, geometry: FrameGeometry, stride: int = SIZE_DIVISOR
) -> Tensor:
    """The truth's masks on the grid of CLIP's last features.

    A cell belongs to a mask that covers more than half of it. A mask too small for that takes the cells that it covers
    most: left empty it could not be named at all.

    Args:
        segment_map: int32 `(H, W)`, 0 = none, else 1..S.
        segments: S.
        geometry: The sizes that the image passes through.
        stride: Pixels a cell; divides 32.

    Returns:
        bool `(S, h/stride, w/stride)`.
    """
    bottom, right = (padded - size for padded, size in zip(geometry.padded, geometry.resized, strict=True))
    grid = []
    for number in range(1, segments + 1):
        mask = torch.from_numpy(segment_map == number)[None, None].float()
        mask = F.interpolate(mask, geometry.resized, mode="bilinear", align_corners=False, antialias=True)
        coverage = F.avg_pool2d(F.pad(mask, (0, right, 0, bottom)), stride)[0, 0]
        inside = coverage > 0.5
        grid.append(inside if inside.any() else coverage == coverage.max())
    return torch.stack(grid)


@torch.inference_mode()
def _names(sample: PanopticSample, tower: ImageTower, snapshot: VocabularySnapshot, size: int) -> list[int]:
    """The class that CLIP gives to each segment."""
    classifier = snapshot.classifier
    settings = InferenceSettings(shorter_side=size, max_size=min(4 * size, _LARGEST_SIDE))
    image, geometry = preprocess(sample.image, settings, classifier.rows.device)
    features = tower(image).res5
    stride = geometry.padded[0] // features.shape[-2]
    masks = masks_on_grid(sample.segment_map, len(sample.segments), geometry, stride).to(image.device)
    embeddings = tower.embed_masks(features, masks[None])[0]
    return classifier.logits(embeddings, classifier.out_vocab_scale).argmax(-1).tolist()


def _count(counted: NamedMasks, sample: PanopticSample, names: Sequence[int]) -> None:
    for segment, name in zip(sample.segments, names, strict=True):
        counted.total[segment.class_index] += 1
        counted.right[segment.class_index] += name == segment.class_index
    counted.quality.update(sample, sample.segment_map, names)


def _without_crowds(sample: PanopticSample) -> PanopticSample:
    """The sample with crowds turned into pixels without truth, and the others numbered anew."""
    kept = [segment for segment in sample.segments if not segment.is_crowd]
    table = np.zeros(len(sample.segments) + 1, np.int32)
    table[[segment.id for segment in kept]] = np.arange(1, len(kept) + 1)
    segments = tuple(replace(segment, id=number) for number, segment in enumerate(kept, 1))
    return replace(sample, segment_map=table[sample.segment_map], segments=segments)


def _sum_over_workers(named: NamedMasks) -> None:
    quality = named.quality
    for counts in (named.right, named.total, quality.iou, quality.matched, quality.invented, quality.missed):
        device = "cuda" if dist.is_initialized() and dist.get_backend() == "nccl" else "cpu"
        counts[:] = sum_over_workers(torch.from_numpy(counts).to(device)).cpu().numpy()
