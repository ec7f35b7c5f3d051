"""Order of the samples and all random numbers of a run, determined by the seed and a position.

Position p is the p-th sample of the whole run, over all workers: step p // batch, index p % batch. No generator keeps a
state, so the samples, their augmentation and the points are the same in a resumed run, and for any number of loader
processes and workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from fcclip_core import distributed
from fcclip_core.datasets.records import Dataset, SemanticSample, class_segments, renumbered
from fcclip_core.errors import DatasetError, FcclipError
from fcclip_core.training.augmentation import augment
from fcclip_core.training.config import TrainingConfig
from fcclip_core.training.matching import Targets

# Purposes of random numbers; each has its own sequence.
_ORDER, _AUGMENTATION, _POINTS = range(3)


@dataclass(frozen=True)
class Batch:
    """One step's samples of one worker.

    Attributes:
        images: uint8 `(B, 3, crop, crop)`.
        targets: Their ground truth.
    """

    images: Tensor
    targets: Targets


class Examples:
    """Position -> augmented sample. Errors are returned, because a loader process would wrap a raised exception."""

    def __init__(self, dataset: Dataset, config: TrainingConfig) -> None:
        """Reads from `dataset`, whose samples depend on their index alone, in a new order in every epoch."""
        self._dataset = dataset
        self._config = config
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor, Tensor] | FcclipError:
        """Image uint8 `(3, crop, crop)`, segment map int32 `(crop, crop)` and labels int64 `(T,)`."""
        try:
            return self._example(position)
        except FcclipError as error:
            return error

    def _example(self, position: int) -> tuple[Tensor, Tensor, Tensor]:
        epoch, place = divmod(position, len(self._dataset))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, _random(self._config.seed, _ORDER, epoch).permutation(len(self._dataset))
        sample = self._dataset[int(self._order[place])]
        if isinstance(sample, SemanticSample):
            sample = class_segments(sample)
        trained_on = [segment for segment in sample.segments if not segment.is_crowd]
        classes = len(self._dataset.classes)
        if any(not 0 <= segment.class_index < classes for segment in trained_on):
            raise DatasetError(f"{sample.name}: a segment's class is not one of the dataset's {classes} classes")
        segment_map = renumbered(sample.segment_map, [segment.id for segment in trained_on])
        random = _random(self._config.seed, _AUGMENTATION, position)
        image, segment_map = augment(sample.image, segment_map, self._config.augmentation, random)
        if not self._config.augmentation.keep_cropped_out:
            shown = np.unique(segment_map[segment_map > 0]).tolist()
            segment_map, trained_on = renumbered(segment_map, shown), [trained_on[number - 1] for number in shown]
        labels = torch.tensor([segment.class_index for segment in trained_on], dtype=torch.int64)
        return torch.from_numpy(image.transpose(2, 0, 1).copy()), torch.from_numpy(segment_map), labels


def batches(dataset: Dataset, config: TrainingConfig, first_step: int) -> Iterator[Batch]:
    """This worker's batches from `first_step` on, prefetched by `config.loader_processes` processes.

    Raises:
        DatasetError: A sample is damaged; names the file and the record.
    """
    loader: Any = DataLoader(
        Examples(dataset, config),  # type: ignore[arg-type]
        batch_sampler=_Steps(config, first_step),
        num_workers=config.loader_processes,
        collate_fn=_collate,
    )
    for batch in loader:
        if isinstance(batch, FcclipError):
            raise batch
        yield batch


class _Steps:
    """Positions of this worker's samples, step by step."""

    def __init__(self, config: TrainingConfig, first_step: int) -> None:
        self._config, self._first_step = config, first_step

    def __len__(self) -> int:
        return self._config.steps - self._first_step

    def __iter__(self) -> Iterator[list[int]]:
        return (list(_positions(self._config, step)) for step in range(self._first_step, self._config.steps))


def point_generators(config: TrainingConfig, step: int, device: torch.device) -> list[torch.Generator]:
    """One point generator per image of this worker's batch."""
    seeds = [
        int(np.random.SeedSequence((config.seed, _POINTS, position)).generate_state(1, np.uint64)[0] >> 1)
        for position in _positions(config, step)
    ]
    return [torch.Generator(device).manual_seed(seed) for seed in seeds]


def _positions(config: TrainingConfig, step: int) -> range:
    """Positions of this worker's samples."""
    share = config.batch_size // distributed.world_size()
    first = step * config.batch_size + distributed.rank() * share
    return range(first, first + share)


def _random(*entropy: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


def _collate(examples: Sequence[tuple[Tensor, Tensor, Tensor] | FcclipError]) -> Batch | FcclipError:
    kept = []
    for example in examples:
        if isinstance(example, FcclipError):
            return example
        kept.append(example)
    images, maps, labels = zip(*kept, strict=True)
    return Batch(torch.stack(images), Targets(torch.stack(maps), labels))
