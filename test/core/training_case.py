"""A training run that takes a second: the tiny model on drawn rectangles. Also run as a program, to be killed."""

from __future__ import annotations

import dataclasses
import functools
import sys
from pathlib import Path

import numpy as np
import torch

from fcclip_core import Vocabulary, distributed
from fcclip_core.datasets.records import ClassList, PanopticSample, TruthSegment
from fcclip_core.training.config import AugmentationConfig, LossConfig, TrainingConfig
from fcclip_core.training.trainer import Trainer
from fcclip_core.weights.checkpoints import Checkpoint, load_checkpoint

CONFIG = TrainingConfig(
    steps=8,
    batch_size=2,
    learning_rate=1e-3,
    milestones=(6,),
    loss=LossConfig(num_points=64),
    augmentation=AugmentationConfig(crop=64),
    save_every=3,
    log_every=1,
    loader_processes=0,
)


class Rectangles:
    """One to three colored rectangles on a ground, drawn from the sample's index."""

    name = "rectangles"
    classes = ClassList(("ground", "red box", "blue box"), (False, True, True))

    def __init__(self, length: int = 5) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> PanopticSample:
        random = np.random.default_rng(index)
        image, segment_map = np.full((48, 80, 3), 90, np.uint8), np.ones((48, 80), np.int32)
        segments = [TruthSegment(1, 0)]
        for number in range(2, 3 + index % 3):
            label = int(random.integers(1, 3))
            top, left = random.integers(0, 40, 2)
            window = (slice(top, top + 20), slice(left, left + 25))
            image[window], segment_map[window] = ((200, 30, 30), (30, 30, 200))[label - 1], number
            segments.append(TruthSegment(number, label))
        return PanopticSample(str(index), image, segment_map, tuple(segments))


@functools.cache
def start() -> Checkpoint:
    names = Rectangles.classes.names
    vocabulary = Vocabulary.from_names(names, stuff=names[:1])
    return dataclasses.replace(load_checkpoint("recipe:tiny"), train_vocabulary=vocabulary)


def trainer(folder: Path, **changes: object) -> Trainer:
    rows = torch.nn.functional.normalize(torch.randn(3, 64, generator=torch.Generator().manual_seed(0)), dim=-1)
    return Trainer(dataclasses.replace(CONFIG, **changes), start(), Rectangles(), folder, text_rows=rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with distributed.workers(torch.device("cpu")):
        trainer(Path(sys.argv[1]), steps=int(sys.argv[2])).run()
