"""Frames whose masks are merged by every form of merging, and the comparison with the plain one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from fcclip_core.inference.mask_resize import MaskResizer
from fcclip_core.inference.postprocess import ClassifiedMasks, MergedFrame, panoptic_segments
from fcclip_core.inference.preprocess import FrameGeometry
from fcclip_core.settings import InferenceSettings

CPU = torch.device("cpu")
THINGS = (True, True, False, False, False)


@dataclass(frozen=True)
class Case:
    """A frame's sizes, how many queries there are, and thresholds that keep some of them."""

    image: tuple[int, int]
    resized: tuple[int, int]
    padded: tuple[int, int]
    queries: int = 12
    threshold: float = 0.0
    overlap: float = 0.3
    void: float = 0.0
    stride: int = 1

    @property
    def geometry(self) -> FrameGeometry:
        return FrameGeometry(self.image, self.resized, self.padded, self.stride)

    @property
    def mask_size(self) -> tuple[int, int]:
        return self.padded[0] // 4, self.padded[1] // 4

    @property
    def settings(self) -> InferenceSettings:
        return InferenceSettings(object_mask_threshold=self.threshold, overlap_threshold=self.overlap)


CASES = {
    "shrunk, not padded": Case((45, 60), (96, 128), (96, 128)),
    "enlarged and padded": Case((75, 131), (48, 84), (64, 96)),
    "a threshold drops some": Case((40, 70), (64, 112), (64, 128), threshold=0.45),
    "void drops some": Case((40, 70), (64, 112), (64, 128), void=3.0),
    "nothing is kept": Case((20, 30), (64, 96), (64, 96), threshold=1.0),
    "one query": Case((20, 30), (64, 96), (64, 96), queries=1),
    "labels of half the size": Case((75, 131), (48, 84), (64, 96), stride=2),
    "labels of a quarter of the size": Case((75, 131), (96, 168), (96, 192), stride=4),
    "tiny image": Case((1, 3), (32, 96), (32, 96)),
    "more queries than a byte counts": Case((24, 33), (32, 44), (32, 64), queries=300, overlap=0.0),
    "every overlap is enough": Case((48, 48), (96, 96), (96, 96), overlap=0.0),
}


def draw(case: Case, seed: int = 0, device: torch.device = CPU) -> ClassifiedMasks:
    """Blobs of all sizes, most of a mask far from zero, as masks are."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(case.queries, 1, 4, 5, generator=generator) * 12 - 3
    logits = F.interpolate(coarse, size=case.mask_size, mode="bicubic")[:, 0]
    probs = torch.randn(case.queries, len(THINGS) + 1, generator=generator) * 2
    probs[:, -1] += case.void
    embeddings = torch.randn(case.queries, 7, generator=generator) * 3
    tensors = (logits, probs.softmax(-1), embeddings, torch.tensor(THINGS))
    return ClassifiedMasks(*(tensor.to(device) for tensor in tensors), case.geometry, case.settings)


def assert_merged(merged: MergedFrame, frame: ClassifiedMasks, apart: float = 0.0) -> None:
    """Compares with `panoptic_segments`, whose map may differ in a share `apart` of the pixels, and measures anew."""
    resizer = MaskResizer(frame.geometry, frame.mask_size, frame.mask_logits.device)
    expected = panoptic_segments(
        frame.mask_logits, frame.class_probs, frame.is_thing, resizer, frame.settings, frame.minimum_scores
    )
    assert merged.segment_map.dtype == np.int32
    assert (merged.segment_map != expected.segment_map).mean() <= apart
    np.testing.assert_array_equal(merged.class_indices, expected.class_indices)
    np.testing.assert_array_equal(merged.queries, expected.queries)
    np.testing.assert_array_equal(merged.scores, expected.scores)
    assert [part.dtype for part in (merged.class_indices, merged.queries, merged.scores)] == ["<i8", "<i8", "<f4"]

    count = len(merged.queries)
    np.testing.assert_array_equal(merged.areas, np.bincount(merged.segment_map.ravel(), minlength=count + 1)[1:])
    boxes = [(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(merged.segment_map, count)]
    np.testing.assert_array_equal(merged.boxes, np.array(boxes, np.int64).reshape(-1, 4))
    unit = F.normalize(frame.embeddings, dim=-1)[merged.queries].cpu().numpy()
    np.testing.assert_array_equal(merged.embeddings, unit)
