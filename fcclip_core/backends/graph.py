"""The network as an exported graph that a runtime library runs: one runner per image shape."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from fcclip_core.backends.interface import Progress, UnsupportedInputShape
from fcclip_core.backends.reference import EagerAnswers
from fcclip_core.devices import free_memory
from fcclip_core.errors import BackendError
from fcclip_core.export.built_files import Key
from fcclip_core.export.check import check, check_picture
from fcclip_core.export.input_spec import InputSpec
from fcclip_core.export.onnx_export import export_onnx
from fcclip_core.model.deformable_attention import Sampler
from fcclip_core.model.fcclip import FCCLIP, ModelOutput
from fcclip_core.model.precision import movable_copy

_logger = logging.getLogger(__name__)

RUNNERS = 4
"""Image sizes whose graphs are in memory at a time; also the number of sizes built automatically."""

Exporter = Callable[[Sampler], bytes]
"""Exports the network as an ONNX file with the given implementation of deformable attention; see `export_onnx`."""

Runner = Callable[[Tensor], tuple[Tensor, Tensor, Tensor, Tensor]]
"""`image` float32 `(B, 3, h, w)` of the shape that it was built for -> the graph's outputs, not overwritten later."""


class Library(Protocol):
    """A runtime for ONNX graphs."""

    @property
    def name(self) -> str:
        """Human-readable name with version and precision."""
        ...

    @property
    def precision(self) -> str:
        """Precision of the graphs that it takes, a key of `PRECISIONS`."""
        ...

    @property
    def suffix(self) -> str:
        """Suffix of the files that it builds."""
        ...

    @property
    def key(self) -> Key:
        """What a built file depends on besides network and shape: library, version, device."""
        ...

    def build(self, export: Exporter, progress: Progress) -> bytes:
        """Builds what `load` takes; may take minutes.

        Args:
            export: Exports the graph with the deformable attention that this library runs fastest.
            progress: Receives the progress.

        Raises:
            BackendError: The graph cannot be built.
        """
        ...

    def load(self, built: bytes, spec: InputSpec) -> Runner:
        """Loads a built graph.

        Raises:
            BackendError: It cannot be loaded on this machine.
        """
        ...


class GraphBackend:
    """Runs one graph per image shape.

    Graphs are built automatically for up to `RUNNERS` sizes (`builds`), or for none: a folder of photographs of all
    sizes would otherwise build one graph per photograph. Graphs kept on disk are loaded, and rebuilt if they are out of
    date. Images are never padded further than `preprocess` does, because the network sees the padding and its output
    would change.
    """

    def __init__(
        self, model: FCCLIP, device: torch.device, library: Library, answers: EagerAnswers, *, builds: bool
    ) -> None:
        """Loads nothing yet.

        Args:
            model: The network; it is not moved.
            device: Device of images and outputs.
            library: Runs the graphs.
            answers: Reference outputs to validate graphs against, and the folder that keeps graphs.
            builds: Build graphs when images arrive; otherwise only a requested `prepare` builds.
        """
        self.device = device
        self._library = library
        self._answers = answers
        self._builds = builds
        self._model = model
        self._runners: OrderedDict[InputSpec, Runner] = OrderedDict()
        self._ready: tuple[InputSpec, ...] = ()  # read without a lock
        self._built: set[tuple[int, int]] = set()  # sizes built without request
        self._running = threading.RLock()
        self._loading = threading.RLock()  # separate, so that images run while a graph loads

    @property
    def description(self) -> str:
        """Human-readable: the library, the device and the shapes that are ready."""
        ready = ", ".join(map(str, self._ready))
        return f"{self._library.name} on {self.device}" + (f", ready for {ready}" if ready else "")

    @property
    def precision(self) -> str:
        """Precision of the graphs, a key of `PRECISIONS`."""
        return self._library.precision

    def __call__(self, image: Tensor) -> ModelOutput:
        """`image` float32 `(B, 3, h, w)`, normalized and padded to multiples of 32.

        Raises:
            UnsupportedInputShape: There is no graph for this shape, and it is not built automatically.
            BackendError: The graph cannot be built, fails validation, or cannot be run.
        """
        spec = InputSpec.of(image, self._library.precision)
        while True:
            with self._running:
                if spec in self._runners:
                    self._runners.move_to_end(spec)
                    return ModelOutput(*self._runners[spec](image))
            self.prepare(spec.batch, spec.height, spec.width, requested=False)

    def lacks(self, batch: int, height: int, width: int) -> str:
        """Whether a graph is missing, both in memory and up to date on disk; see `Backend`."""
        spec = InputSpec(batch, height, width, self._library.precision)
        return "" if spec in self._ready or self._is_kept(spec, current=True) else self._lacking(spec)

    def prepare(
        self, batch: int, height: int, width: int, progress: Progress | None = None, *, requested: bool = True
    ) -> None:
        """Loads the graph for images of one shape, building it if needed; see `Backend`."""
        spec = InputSpec(batch, height, width, self._library.precision)
        with self._loading:
            if spec in self._ready:
                return
            if not requested and not self._is_kept(spec):
                sizes = self._built | {(height, width)}
                if not self._builds or len(sizes) > RUNNERS:
                    raise UnsupportedInputShape(self._lacking(spec))
                self._built = sizes
            self._keep(spec, self._load(spec, progress or log_progress()))

    def _is_kept(self, spec: InputSpec, *, current: bool = False) -> bool:
        """Whether this graph is on disk, and with `current` whether it is up to date."""
        files = self._answers.files
        if files.is_empty():  # file names contain the weights' hash, which takes a second for a large model
            return False
        name, key = self._file(spec)
        return files.is_current(name, key) if current else files.holds(name)

    def _lacking(self, spec: InputSpec) -> str:
        command = f"fcclip export CHECKPOINT --size {spec.width}x{spec.height} --batch {spec.batch} --precision "
        return f"no graph for {spec}; build it with `{command}{spec.precision} --engine`"

    def _keep(self, spec: InputSpec, runner: Runner) -> None:
        with self._running:
            self._runners[spec] = runner
            newest_first = dict.fromkeys((one.height, one.width) for one in reversed(self._runners))
            oldest = list(newest_first)[RUNNERS:]
            for dropped in [one for one in self._runners if (one.height, one.width) in oldest]:
                del self._runners[dropped]
                _logger.info("%s: dropped the graph for %s from memory", self._library.name, dropped)
            self._ready = tuple(self._runners)

    def _load(self, spec: InputSpec, progress: Progress) -> Runner:
        """Loads the graph for `spec`, building it if needed, and validates it against eager PyTorch."""
        began = time.monotonic()
        what = f"{self._library.name} for {spec}"
        reference = self._answers.to_picture(spec)
        free_memory(self.device)  # libraries cannot use memory that torch caches

        def export(sampler: Sampler) -> bytes:
            progress(f"{what}: exporting the network", 0, 1)
            onnx = export_onnx(movable_copy(self._model).to(self.device), spec, sampler)
            free_memory(self.device)
            progress(f"{what}: exporting the network", 1, 1)
            return onnx

        def load(built: bytes) -> Runner:
            runner = self._library.load(built, spec)
            output = ModelOutput(*runner(check_picture(spec).to(self.device)))
            differences = check(self._library.name, reference, output, spec.precision)
            _logger.info("%s differs from eager PyTorch by %s", what, differences)
            return runner

        runner = self._answers.files.get(*self._file(spec), lambda: self._library.build(export, progress), load)
        _logger.info("%s is ready after %.1f s", what, time.monotonic() - began)
        return runner

    def _file(self, spec: InputSpec) -> tuple[str, Key]:
        """Name and key of the built graph; files with different names coexist, a different key replaces the file."""
        return (
            f"{self._answers.name}-{spec}{self._library.suffix}",
            {**self._answers.key(spec), **self._library.key},
        )


def check_device(library: str, device: torch.device, expected: str) -> None:
    """Checks the type of a device.

    Raises:
        BackendError: `device` is not of type `expected`, "cpu" or "cuda".
    """
    if device.type != expected:
        raise BackendError(f"{library} runs on {expected} only, but the device is {device}")


def log_progress() -> Progress:
    """Creates a callback that logs the progress of each task in steps of 10 %."""
    logged: dict[str, int] = {}

    def report(what: str, done: int, total: int) -> None:
        tenth = 10 * done // max(total, 1)
        if logged.get(what) != tenth:
            logged[what] = tenth
            _logger.info("%s: %d %%", what, 10 * tenth)

    return report
