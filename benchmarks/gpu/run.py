"""The network, the frame and the words that every part measures with."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.parts import Record
from benchmarks.lib.rates import median_seconds, wait
from fcclip_core import InferenceSettings
from fcclip_core.backends.eager import EagerBackend
from fcclip_core.inference.classification import TextClassifier
from fcclip_core.inference.preprocess import FrameGeometry, preprocess
from fcclip_core.model.deformable_attention import Sampler, sample_by_index
from fcclip_core.model.fcclip import FCCLIP, ModelOutput
from fcclip_core.model.precision import exact_products
from oracle import pipeline


@dataclass(kw_only=True)
class Run(Record):
    """What is measured, and on what; a dry run has no GPU and small sizes.

    Attributes:
        device: Where networks run.
        settings: Size and thresholds.
        image: uint8 RGB `(H, W, 3)`.
        model: The network, seeded weights.
        words: The vocabulary.
        state: The network's weights by their published names.
        reference: The answer of eager float32.
    """

    device: torch.device
    settings: InferenceSettings
    image: np.ndarray
    model: FCCLIP
    words: pipeline.Words
    state: Mapping[str, torch.Tensor]
    reference: ModelOutput | None = None

    def __post_init__(self) -> None:
        """Seeds the numbers that parts draw."""
        self.generator = torch.Generator(self.device).manual_seed(0)

    @property
    def on_gpu(self) -> bool:
        """Whether there is a GPU."""
        return self.device.type == "cuda"

    @property
    def geometry(self) -> FrameGeometry:
        """Sizes of the frame."""
        return FrameGeometry.of(self.image.shape[0], self.image.shape[1], self.settings)

    @property
    def repeat(self) -> int:
        """Measured repetitions."""
        return 2 if self.is_dry else 30

    def input(self, batch: int = 1) -> torch.Tensor:
        """The network's input: the image, and shifted copies of it."""
        tensor = preprocess(self.image, self.settings, self.device)[0]
        return torch.cat([tensor.roll(37 * index, -1) for index in range(batch)])

    def random(self, *shape: int) -> torch.Tensor:
        """Normally distributed numbers on the device; a run draws the same ones each time."""
        return torch.randn(*shape, generator=self.generator, device=self.device)

    def classifier(self) -> TextClassifier:
        """The vocabulary, on the device."""
        self.model.to(self.device)
        seen = torch.tensor(self.words.seen)
        return TextClassifier.build(self.model, self.words.rows, self.words.synonym_counts, seen)

    def seconds(self, run: Callable[[], Any]) -> float:
        """Median time of `run`."""
        return median_seconds(run, self.device, repeat=self.repeat, warm_up=1 if self.is_dry else 3)

    def answers_still(self) -> bool:
        """Whether the device still works after what the parts did to it."""
        try:
            wait(self.device)
        except RuntimeError as error:
            print(f"  the GPU no longer responds: {error}", flush=True)
            return False
        return True


def gpu_software() -> dict[str, Any]:
    """Versions that matter on a GPU."""
    versions: dict[str, Any] = {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    for name in ("triton", "tensorrt", "tensorrt_rtx", "timm"):
        try:
            versions[name] = importlib.import_module(name).__version__
        except (ImportError, OSError, RuntimeError) as error:  # one without its shared libraries raises any of them
            versions[name] = f"none: {error}"
    if torch.cuda.is_available():
        versions["capability"] = list(torch.cuda.get_device_capability())
        versions["gpu_memory_gib"] = round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1)
    return versions


def exact_answer(run: Run) -> ModelOutput:
    """Eager float32's answer to the frame."""
    with exact_products():
        return EagerBackend(run.model, run.device)(run.input())


def fastest_sampler(run: Run) -> Sampler:
    """Triton's on a GPU."""
    if not run.on_gpu:
        return sample_by_index
    from fcclip_core.kernels.deformable_triton import sample_by_triton

    return sample_by_triton
