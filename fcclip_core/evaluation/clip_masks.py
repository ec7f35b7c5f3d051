"""CLIP as a mask classifier: CLIP alone classifies ground-truth masks, at several input sizes.

`clip_proposals.py` does so with predicted masks, as the paper's Table 9.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from fcclip_core.datasets.records import Dataset, PanopticSample, renumbered
from fcclip_core.distributed import rank, sum_over_workers, world_size
from fcclip_core.errors import DatasetError
from fcclip_core.evaluation.averages import class_groups, group_ratios
from fcclip_core.evaluation.panoptic import PanopticQuality
from fcclip_core.evaluation.scoreboard import Scores
from fcclip_core.inference.preprocess import SIZE_DIVISOR, FrameGeometry, preprocess
from fcclip_core.model.backbone import ImageTower
from fcclip_core.settings import InferenceSettings
from fcclip_core.vocabulary.snapshot import VocabularySnapshot

_LARGEST_SIDE = 8192


@dataclass
class NamedMasks:
    """Counts of CLIP's classification of ground-truth masks at one input size.

    Attributes:
        right: int64 `(C,)`, correctly classified segments.
        total: int64 `(C,)`, segments.
        quality: Panoptic quality of the ground-truth masks with CLIP's classes.
    """

    right: np.ndarray
    total: np.ndarray
    quality: PanopticQuality

    def scores(self, things: Sequence[bool], seen: Sequence[bool]) -> Scores:
        """Percentage of correctly classified segments (`accuracy.all`, ...), and panoptic quality (`pq.all`, ...)."""
        groups = class_groups(things, seen)
        accuracy = group_ratios("accuracy", self.right, self.total, groups)
        percent = {name: None if value is None else 100 * value for name, value in accuracy.items()}
        return percent | {name: value for name, value in self.quality.scores(groups).items() if name.startswith("pq.")}


def name_masks(
    dataset: Dataset,
    tower: ImageTower,
    snapshot: VocabularySnapshot,
    sizes: Sequence[int],
    *,
    limit: int | None = None,
    advance: Callable[[], None] = lambda: None,
) -> dict[int, NamedMasks]:
    """Classifies every ground-truth segment except crowds by the text embedding nearest to its pooled CLIP feature.

    Args:
        dataset: Images with panoptic ground truth.
        tower: CLIP's image tower, on the snapshot's device.
        snapshot: The vocabulary, in the dataset's order.
        sizes: Lengths of the shorter image side in pixels.
        limit: Evaluate only the first images; None: all.
        advance: Called after each image of this process.

    Returns:
        Input size -> counts over all processes.

    Raises:
        DatasetError: The dataset has no panoptic ground truth, or a sample cannot be read.
    """
    count = len(snapshot.class_ids)
    counted = {
        size: NamedMasks(np.zeros(count, np.int64), np.zeros(count, np.int64), PanopticQuality(count)) for size in sizes
    }
    for number in range(rank(), len(dataset) if limit is None else min(limit, len(dataset)), world_size()):
        sample = dataset[number]
        if not isinstance(sample, PanopticSample):
            raise DatasetError(f"{dataset.name} has no segments; classifying masks by CLIP needs a panoptic dataset")
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
    """Ground-truth masks on the grid of CLIP's last features.

    A cell belongs to a mask that covers more than half of it. A mask too small for that gets the cells that it covers
    most, because an empty mask cannot be classified.

    Args:
        segment_map: int32 `(H, W)`, 0 = none, else 1..S.
        segments: S.
        geometry: Sizes of the image.
        stride: Pixels per cell; where it does not divide the padded image, the last cells reach beyond it.

    Returns:
        bool `(S, ceil(h/stride), ceil(w/stride))`.
    """
    whole = [-(-padded // stride) * stride for padded in geometry.padded]
    bottom, right = (padded - size for padded, size in zip(whole, geometry.resized, strict=True))
    grid = []
    for number in range(1, segments + 1):
        mask = torch.from_numpy(segment_map == number)[None, None].float()
        mask = F.interpolate(mask, geometry.resized, mode="bilinear", align_corners=False, antialias=True)
        coverage = F.avg_pool2d(F.pad(mask, (0, right, 0, bottom)), stride)[0, 0]
        inside = coverage > 0.5
        grid.append(inside if inside.any() else coverage == coverage.max())
    return torch.stack(grid)


def settings_for(size: int) -> InferenceSettings:
    """Settings that resize an image to this shorter side, in pixels, whatever its longer one becomes."""
    return InferenceSettings(shorter_side=size, max_size=min(4 * size, _LARGEST_SIDE))


@torch.inference_mode()
def _names(sample: PanopticSample, tower: ImageTower, snapshot: VocabularySnapshot, size: int) -> list[int]:
    """CLIP's class index for each segment."""
    classifier = snapshot.classifier
    image, geometry = preprocess(sample.image, settings_for(size), classifier.rows.device)
    features = tower(image).res5
    masks = masks_on_grid(sample.segment_map, len(sample.segments), geometry, tower.stride).to(image.device)
    embeddings = tower.embed_masks(features, masks[None])[0]
    return classifier.logits(embeddings, classifier.out_vocab_scale).argmax(-1).tolist()


def _count(counted: NamedMasks, sample: PanopticSample, names: Sequence[int]) -> None:
    for segment, name in zip(sample.segments, names, strict=True):
        counted.total[segment.class_index] += 1
        counted.right[segment.class_index] += name == segment.class_index
    counted.quality.update(sample, sample.segment_map, names)


def _without_crowds(sample: PanopticSample) -> PanopticSample:
    """The sample with crowds turned into unlabeled pixels and the other segments renumbered."""
    kept = [segment for segment in sample.segments if not segment.is_crowd]
    segments = tuple(replace(segment, id=number) for number, segment in enumerate(kept, 1))
    segment_map = renumbered(sample.segment_map, [segment.id for segment in kept])
    return replace(sample, segment_map=segment_map, segments=segments)


def _sum_over_workers(named: NamedMasks) -> None:
    quality = named.quality
    for counts in (named.right, named.total, quality.iou, quality.matched, quality.invented, quality.missed):
        device = "cuda" if dist.is_initialized() and dist.get_backend() == "nccl" else "cpu"
        counts[:] = sum_over_workers(torch.from_numpy(counts).to(device)).cpu().numpy()
