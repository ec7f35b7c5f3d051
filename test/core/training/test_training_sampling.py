"""Augmentation keeps image and truth together; the order of samples is a function of seed and position."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import training_case

from fcclip_core import distributed
from fcclip_core.datasets.records import PanopticSample, TruthSegment
from fcclip_core.errors import DatasetError
from fcclip_core.training.augmentation import PADDING, augment
from fcclip_core.training.config import AugmentationConfig
from fcclip_core.training.sampling import Batch, batches, point_generators


class Fixed:
    """A uniform generator that always says the same."""

    def __init__(self, share: float) -> None:
        self.share = share

    def random(self) -> float:
        return self.share

    def uniform(self, low: float, high: float) -> float:
        return low + self.share * (high - low)


def run_augment(
    image: np.ndarray, segment_map: np.ndarray, share: float, **changes: float
) -> tuple[np.ndarray, np.ndarray]:
    config = AugmentationConfig(**{"crop": 64, "flip": 0.0, **changes})  # type: ignore[arg-type]
    return augment(image, segment_map, config, Fixed(share))  # type: ignore[arg-type]


def picture(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Left half dark and segment 1, right half bright and segment 2."""
    segment_map = np.ones((height, width), np.int32)
    segment_map[:, width // 2 :] = 2
    return np.repeat((segment_map * 100).astype(np.uint8)[..., None], 3, axis=2), segment_map


def test_a_small_box_is_padded() -> None:
    image, segment_map = run_augment(*picture(50, 100), 0.0, min_scale=0.5, max_scale=0.5)
    # The longer side fits half of 64.
    assert (segment_map[:16, :16] == 1).all() and (segment_map[:16, 16:32] == 2).all()
    assert not segment_map[16:].any() and not segment_map[:, 32:].any()
    assert (image[16:] == PADDING).all() and (image[:, 32:] == PADDING).all()
    assert (image[:16, :14] == 100).all() and (image[:16, 18:32] == 200).all()


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1), (0.999, 2)])
def test_a_large_box_is_cut_where_chance_says(share: float, expected: int) -> None:
    _, segment_map = run_augment(*picture(100, 100), share, min_scale=2.0, max_scale=2.0)
    assert segment_map.shape == (64, 64) and (segment_map == expected).all()


def test_a_flip_turns_both() -> None:
    image, segment_map = run_augment(*picture(64, 64), 0.0, min_scale=1.0, max_scale=1.0, flip=0.5)
    assert (segment_map[:, :32] == 2).all() and (segment_map[:, 32:] == 1).all()
    assert np.array_equal(image[..., 0], segment_map * 100)


def test_image_and_truth_stay_together() -> None:
    # 8 x 8 blocks of distinct grays: away from their edges, gray tells the segment.
    blocks = np.arange(64, dtype=np.int32).reshape(8, 8).repeat(16, 0).repeat(16, 1)
    image = np.repeat((blocks * 4).astype(np.uint8)[..., None], 3, axis=2)
    for seed in range(20):
        config = AugmentationConfig(crop=96, min_scale=0.8)
        found, segment_map = augment(image, blocks + 1, config, np.random.default_rng(seed))
        inside = segment_map > 0
        # Bilinear and nearest resizing differ by at most half a block's step across, a whole row's step down.
        exact = (found[..., 0] == (segment_map - 1) * 4)[inside].mean()
        assert exact > 0.6, seed


def test_every_epoch_shows_every_sample_once() -> None:
    seen: list[str] = []

    class Recording(training_case.Rectangles):
        def __getitem__(self, index: int) -> PanopticSample:
            sample = super().__getitem__(index)
            seen.append(sample.name)
            return sample

    list(batches(Recording(5), training_case.CONFIG, 0))
    assert sorted(seen[:5]) == sorted(seen[5:10]) == list("01234")
    assert seen[:5] != seen[5:10]


def test_every_epoch_cuts_a_sample_anew() -> None:
    first, second = list(batches(training_case.Rectangles(1), training_case.CONFIG, 0))[:2]
    views = [*first.images, *second.images]
    assert all(not torch.equal(a, b) for index, a in enumerate(views) for b in views[:index])


def test_a_later_start_continues_the_stream() -> None:
    whole = list(batches(training_case.Rectangles(), training_case.CONFIG, 0))
    rest = list(batches(training_case.Rectangles(), training_case.CONFIG, 5))
    assert len(whole) == 8 and len(rest) == 3
    for expected, found in zip(whole[5:], rest, strict=True):
        assert torch.equal(found.images, expected.images)
        assert torch.equal(found.targets.segment_maps, expected.targets.segment_maps)


def test_workers_share_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(batches(training_case.Rectangles(), training_case.CONFIG, 0))
    generators = point_generators(training_case.CONFIG, 3, torch.device("cpu"))
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    parts: list[list[Batch]] = []
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        parts.append(list(batches(training_case.Rectangles(), training_case.CONFIG, 0)))
        (own,) = point_generators(training_case.CONFIG, 3, torch.device("cpu"))
        assert own.initial_seed() == generators[rank].initial_seed()
    for expected, first, second in zip(whole, *parts, strict=True):
        assert torch.equal(torch.cat((first.images, second.images)), expected.images)


def test_crowds_are_no_targets() -> None:
    class Crowded(training_case.Rectangles):
        def __getitem__(self, index: int) -> PanopticSample:
            image, segment_map = picture(64, 64)
            crowd, box = TruthSegment(1, 2, is_crowd=True), TruthSegment(2, 1)
            return PanopticSample("crowd", image, segment_map, (crowd, box))

    batch = next(iter(batches(Crowded(), training_case.CONFIG, 0)))
    assert [labels.tolist() for labels in batch.targets.labels] == [[1], [1]]
    assert set(batch.targets.segment_maps.unique().tolist()) <= {0, 1}


@pytest.mark.parametrize("keep", [True, False])
def test_segments_that_the_crop_leaves_out(keep: bool) -> None:
    """Of three columns, a crop of a third of the width always leaves one out."""

    class Columns(training_case.Rectangles):
        def __getitem__(self, index: int) -> PanopticSample:
            image, segment_map = picture(96, 96)
            segment_map[:, 80:] = 3
            segments = (TruthSegment(1, 2), TruthSegment(2, 0), TruthSegment(3, 1))
            return PanopticSample("columns", image, segment_map, segments)

    cut = AugmentationConfig(crop=32, min_scale=3.0, max_scale=3.0, flip=0.0, keep_cropped_out=keep)
    config = dataclasses.replace(training_case.CONFIG, augmentation=cut)
    targets = next(iter(batches(Columns(), config, 0))).targets
    for segment_map, labels in zip(targets.segment_maps, targets.labels, strict=True):
        present = segment_map.unique().tolist()
        if keep:
            assert labels.tolist() == [2, 0, 1] and len(present) < 3
            continue
        assert present == list(range(1, len(labels) + 1)), "numbered anew, without gaps"
        # Left to right the classes are 2, 0, 1: those in the crop keep that order.
        assert labels.tolist() in ([2], [0], [2, 0], [0, 1])


def test_a_class_that_is_none_is_named() -> None:
    class Wrong(training_case.Rectangles):
        def __getitem__(self, index: int) -> PanopticSample:
            return PanopticSample("frame 7", *picture(64, 64), (TruthSegment(1, 3), TruthSegment(2, 0)))

    with pytest.raises(DatasetError, match="frame 7: .* not one of the dataset's 3 classes"):
        next(iter(batches(Wrong(), training_case.CONFIG, 0)))
