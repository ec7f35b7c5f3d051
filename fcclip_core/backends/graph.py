"""The network as an exported graph that a runtime library runs: one runner for each form of image."""

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
"""Sizes of images whose graphs are held in memory at a time, and that graphs are built for without being asked."""

Exporter = Callable[[Sampler], bytes]
"""Writes the network as an ONNX file with the form of deformable attention that is given; see `export_onnx`."""

Runner = Callable[[Tensor], tuple[Tensor, Tensor, Tensor, Tensor]]
"""`image` float32 `(B, 3, h, w)` of the form that it was built for -> the graph's outputs, in memory of their own."""


class Library(Protocol):
    """A runtime for ONNX graphs."""

    @property
    def name(self) -> str:
        """With version and precision, for people."""
        ...

    @property
    def precision(self) -> str:
        """Of the graphs that it is to be given."""
        ...

    @property
    def suffix(self) -> str:
        """Ending of the files that it builds."""
        ...

    @property
    def key(self) -> Key:
        """What a built file depends on beside network and form: library, version, device."""
        ...

    def build(self, export: Exporter, progress: Progress) -> bytes:
        """Makes of the network what `load` takes; may take minutes.

        Args:
            export: Writes the graph, in the form that this library runs fastest.
            progress: Told how far it is.

        Raises:
            BackendError: It cannot.
        """
        ...

    def load(self, built: bytes, spec: InputSpec) -> Runner:
        """Makes a built graph ready to run.

        Raises:
            BackendError: It cannot be loaded here.
        """
        ...


class GraphBackend:
    """Runs a graph for each form of image.

    A graph has one shape. Unasked, graphs are built for up to `RUNNERS` sizes (`builds`), or none: a folder of
    photographs of all sizes would otherwise build one graph a photograph. What was asked for before and is kept on disk
    is loaded, and built again if it is out of date. Images are never padded further than `preprocess` does, because
    padding takes part in the picture and changes the answer.
    """

    def __init__(
        self, model: FCCLIP, device: torch.device, library: Library, answers: EagerAnswers, *, builds: bool
    ) -> None:
        """Prepares nothing yet.

        Args:
            model: The network; it stays where it is.
            device: Where images are expected and outputs lie.
            library: What runs the graphs.
            answers: What graphs are held against, and where they are kept.
            builds: Build graphs that nobody asked for; else only `prepare` builds, when it is asked to.
        """
        self.device = device
        self._library = library
        self._answers = answers
        self._builds = builds
        self._model = model
        self._runners: OrderedDict[InputSpec, Runner] = OrderedDict()
        self._ready: tuple[InputSpec, ...] = ()  # read without a lock
        self._built: set[tuple[int, int]] = set()  # sizes, unasked
        self._running = threading.RLock()
        self._loading = threading.RLock()  # of its own, so that images run meanwhile

    @property
    def description(self) -> str:
        """What runs where, and which forms are ready, for people."""
        ready = ", ".join(map(str, self._ready))
        return f"{self._library.name} on {self.device}" + (f", ready for {ready}" if ready else "")

    @property
    def precision(self) -> str:
        """Of its graphs, a key of `PRECISIONS`."""
        return self._library.precision

    def __call__(self, image: Tensor) -> ModelOutput:
        """`image` float32 `(B, 3, h, w)`, normalized and padded to multiples of 32.

        Raises:
            UnsupportedInputShape: There is no graph for this form of image, and none may be built.
            BackendError: The graph cannot be built, fails its check, or cannot be run.
        """
        spec = InputSpec.of(image, self._library.precision)
        while True:
            with self._running:
                if spec in self._runners:
                    self._runners.move_to_end(spec)
                    return ModelOutput(*self._runners[spec](image))
            self.prepare(spec.batch, spec.height, spec.width, requested=False)

    def lacks(self, batch: int, height: int, width: int) -> str:
        """A graph in memory, or one on disk that is up to date; see `Backend`."""
        spec = InputSpec(batch, height, width, self._library.precision)
        return "" if spec in self._ready or self._is_kept(spec, current=True) else self._lacking(spec)

    def prepare(
        self, batch: int, height: int, width: int, progress: Progress | None = None, *, requested: bool = True
    ) -> None:
        """Makes the graph for images of one form ready, and builds it if need be; see `Backend`."""
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
        """Whether somebody wanted this graph before, and, if need be, whether it can be used as it is."""
        files = self._answers.files
        if files.is_empty():  # names have the weights' hash in them, which takes a second for a large model
            return False
        name, key = self._file(spec)
        return files.is_current(name, key) if current else files.holds(name)

    def _lacking(self, spec: InputSpec) -> str:
        command = f"fcclip export CHECKPOINT --size {spec.width}x{spec.height} --batch {spec.batch} --precision "
        return f"no graph for {spec} is there; `{command}{spec.precision} --engine` makes it"

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
        """Loads the graph for `spec`, built before or now, and checks it against eager."""
        began = time.monotonic()
        what = f"{self._library.name} for {spec}"
        reference = self._answers.to_picture(spec)
        free_memory(self.device)  # libraries do not get what torch keeps

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
        """Name and key of the built graph: the name tells apart what may lie side by side, the key what may not."""
        return (
            f"{self._answers.name}-{spec}{self._library.suffix}",
            {**self._answers.key(spec), **self._library.key},
        )


def check_device(library: str, device: torch.device, wanted: str) -> None:
    """Refuses a device that a library does not run on.

    Raises:
        BackendError: `device` is not of type `wanted`, "cpu" or "cuda".
    """
    if device.type != wanted:
        raise BackendError(f"{library} runs on {wanted} here, but the device is {device}")


def log_progress() -> Progress:
    """Says every tenth of what is being done."""
    said: dict[str, int] = {}

    def report(what: str, done: int, total: int) -> None:
        tenth = 10 * done // max(total, 1)
        if said.get(what) != tenth:
            said[what] = tenth
            _logger.info("%s: %d %%", what, 10 * tenth)

    return report
