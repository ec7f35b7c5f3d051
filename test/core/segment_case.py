"""`fcclip segment` with a stand-in for the model, and what it is run on."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from fcclip_core.commands import segment
from fcclip_core.results import PanopticResult, Segment
from fcclip_core.settings import InferenceSettings
from fcclip_core.vocabulary.classes import Vocabulary
from fcclip_core.vocabulary.resolved_class import ResolvedClass


@dataclass(frozen=True)
class FakeEvidence:
    """What results are asked for beside their segments."""

    classes: np.ndarray
    queries: np.ndarray

    def semantic_map(self) -> np.ndarray:
        return self.classes

    def of_segments(self, rows: np.ndarray) -> FakeEvidence:
        return replace(self, queries=self.queries[rows])


class FakeSegmenter:
    """Calls everything left of the middle segment 1 of the first class; the class map is 300 everywhere."""

    on_frame: Callable[[int], None] = staticmethod(lambda index: None)
    backend_description = "fake"
    weights_id = "fake"
    vanished_masks = "published"
    device = torch.device("cpu")

    def __init__(self, settings: InferenceSettings) -> None:
        self.settings = settings
        self.frames = 0

    @classmethod
    def from_checkpoint(cls, source: str, **options: object) -> FakeSegmenter:
        assert options["device"] == "auto" and options["backend"] == "auto"
        return cls(options["settings"])

    def set_vocabulary(self, vocabulary: Vocabulary, progress: object) -> SimpleNamespace:
        self.names = vocabulary.names
        ids = tuple(range(300, 300 + len(vocabulary)))
        rows = map(ResolvedClass, vocabulary.classes, ids, vocabulary.colors, (True,) * len(ids))
        published = tuple(row for row in rows if not row.item.distractor)
        return SimpleNamespace(version=1, vocabulary=vocabulary, class_ids=ids, seen=(), published=published)

    def default_background(self) -> Vocabulary:
        return Vocabulary.from_names(["secret lamp"])

    def __call__(self, image: np.ndarray) -> PanopticResult:
        self.frames += 1
        type(self).on_frame(self.frames)
        stride = self.settings.output_stride
        height, width = (-(-side // stride) for side in image.shape[:2])
        segment_map = np.zeros((height, width), np.int32)
        segment_map[:, : width // 2] = 1
        found = Segment(
            1, 300, self.names[0], 0.75, True, height * (width // 2), (0, 0, width // 2, height), np.zeros(4)
        )
        timings = {"preprocess": 0.001, "model": 0.5}
        evidence: Any = FakeEvidence(np.full((height, width), 300, np.int32), np.zeros(1, int))
        return PanopticResult(segment_map, [found], 1, timings, evidence)


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    segment.add_parser(parser.add_subparsers())
    given = ["segment", *map(str, arguments)]
    for option, value in (("--vocab", "cup, mug; table"), ("--checkpoint", "weights.safetensors")):
        if option not in given:
            given += [option, value]
    args = parser.parse_args(given)
    return args.run(args)


def save_image(path: Path, height: int = 40, width: int = 60, **options: object) -> Path:
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(path, **options)
    return path


def save_video(path: Path, frames: int = 7, height: int = 48, width: int = 64) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (width, height))
    for index in range(frames):
        writer.write(np.full((height, width, 3), 20 * index % 256, np.uint8))
    writer.release()
    return path


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """What the command said, in one line."""
    return " ".join("".join(capsys.readouterr()).split())
