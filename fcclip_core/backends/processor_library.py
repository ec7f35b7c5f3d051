"""Libraries that optimize an ONNX graph on the CPU when they load it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fcclip_core.backends.graph import Exporter, Runner, check_device
from fcclip_core.backends.interface import Progress
from fcclip_core.errors import BackendError
from fcclip_core.export.input_spec import InputSpec
from fcclip_core.model.deformable_attention import sample_by_gather


class ProcessorLibrary(ABC):
    """A `Library` whose built files are the ONNX graphs themselves.

    Attributes:
        title: The library's name for messages.
        package: The module to import; also the name to install.
        errors: Type of the exceptions by which it rejects a graph.
        precision: Key of `PRECISIONS`.
        name: Title, version and precision.
    """

    suffix = ".graph"
    key = {"file": "ONNX"}
    title: str
    package: str
    errors: type[Exception] = RuntimeError
    precision: str
    name: str

    def __init__(self, device: torch.device) -> None:
        """Imports the library.

        Raises:
            BackendError: The library is not installed, or `device` is not the CPU.
        """
        try:
            self._library: Any = import_module(self.package)
        except ImportError as error:
            raise BackendError(f"{self.title} cannot be imported ({error}); pip install {self.package}") from error
        check_device(self.title, device, "cpu")

    def build(self, export: Exporter, progress: Progress) -> bytes:
        """Returns the graph itself: the library optimizes it when it loads it."""
        return export(sample_by_gather)

    def load(self, built: bytes, spec: InputSpec) -> Runner:
        """Loads the graph with as many threads as torch has.

        Raises:
            BackendError: The library rejects the graph.
        """
        try:
            infer = self._compile(built)
        except self.errors as error:
            raise BackendError(f"{self.title} rejects the graph for {spec}: {error}") from error

        def run(image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            masks, in_vocab, out_vocab, survives = map(torch.from_numpy, infer(image.contiguous().numpy()))
            return masks, in_vocab, out_vocab, survives

        return run

    @abstractmethod
    def _compile(self, graph: bytes) -> Callable[[np.ndarray], Iterable[np.ndarray]]:
        """Makes the function that runs `graph`: image float32 `(B, 3, h, w)` -> the arrays of `OUTPUTS`, in order."""
