"""Builds TensorRT engines from ONNX graphs.

Networks are strongly typed: every tensor has the type that the graph declares, and no builder flag changes it.
"""

from __future__ import annotations

import logging
from types import ModuleType
from typing import Any

from fcclip_core.backends.interface import Progress
from fcclip_core.backends.tensorrt_library import log_of, start
from fcclip_core.errors import BackendError
from fcclip_core.export.built_files import KeptFile
from fcclip_core.quoting import first_line

_logger = logging.getLogger(__name__)


class EngineBuilder:
    """ONNX -> engine; TensorRT-RTX can do this on machines without a GPU."""

    def __init__(self, module: ModuleType, title: str, timings: KeptFile | None = None) -> None:
        """Starts nothing yet.

        Args:
            module: `tensorrt` or `tensorrt_rtx`.
            title: Its name for messages.
            timings: TensorRT's timing cache, so that layers are not measured again for the next size; None: nothing is
                measured (TensorRT-RTX) or kept.
        """
        self._trt = module
        self._title = title
        self._timings = timings

    def build(self, onnx: bytes, precision: str, progress: Progress) -> bytes:
        """Builds an engine.

        Args:
            onnx: The graph.
            precision: With fp32, TF32 is disabled for matrix products.
            progress: Receives the progress.

        Raises:
            BackendError: The library does not start, an operation is not supported, or building fails, for example for
                lack of memory.
        """
        trt = self._trt
        builder = start(trt, self._title, trt.Builder)
        log = log_of(trt)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, log)
        if not parser.parse(onnx):
            errors = [str(parser.get_error(index)) for index in range(parser.num_errors)]
            raise BackendError(f"{self._title} cannot parse the graph: {'; '.join(errors[:3])}")
        config = builder.create_builder_config()
        if precision == "fp32" and hasattr(trt.BuilderFlag, "TF32"):
            config.clear_flag(trt.BuilderFlag.TF32)
        monitor = _make_monitor(trt, f"building {self._title} engine", progress)
        config.progress_monitor = monitor
        timings = self._attach_timings(config)  # must outlive the build
        engine = builder.build_serialized_network(network, config)
        if monitor.stopped_by is not None:
            raise monitor.take_error()
        if engine is None:
            raise BackendError(f"{self._title} cannot build the engine: {log.last_error()}")
        if timings is not None:
            self._keep_timings(config)
        return bytes(engine)

    def _attach_timings(self, config: Any) -> Any | None:
        """Gives `config` the timing cache of earlier builds, or an empty one; returns None if that fails."""
        if self._timings is None:
            return None
        try:
            for content in (self._timings.read(), b""):  # an empty cache if the library rejects the kept one
                cache = config.create_timing_cache(content)
                if cache is not None and config.set_timing_cache(cache, False):
                    return cache
            _logger.warning("%s accepts no timing cache: every build measures all layers", self._title)
        except Exception as error:
            _logger.warning("%s builds without its timing cache: %s", self._title, first_line(error))
        return None

    def _keep_timings(self, config: Any) -> None:
        assert self._timings is not None
        try:
            self._timings.write(bytes(config.get_timing_cache().serialize()))
        except Exception as error:
            _logger.warning("the timing cache of %s cannot be kept: %s", self._title, first_line(error))


def _make_monitor(trt: Any, what: str, progress: Progress) -> Any:
    """Creates a progress monitor that reports the steps of TensorRT's outermost phases.

    An exception must not propagate through TensorRT, which would abort the process: it stops the build and is stored.
    """

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            super().__init__()
            self.stopped_by: BaseException | None = None
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if not parent_phase:
                self._steps[phase_name] = num_steps
                self._report(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self._steps:
                self._report(phase_name, step + 1)
            return self.stopped_by is None

        def phase_finish(self, phase_name: str) -> None:
            if phase_name in self._steps:
                self._report(phase_name, self._steps[phase_name])
                del self._steps[phase_name]

        def take_error(self) -> BaseException | None:
            # Raising an error that is still referenced here would keep the whole graph alive in a reference cycle.
            error, self.stopped_by = self.stopped_by, None
            return error

        def _report(self, phase: str, done: int) -> None:
            try:
                progress(f"{what}: {phase}", done, self._steps[phase])
            except BaseException as error:  # including Ctrl-C
                self.stopped_by = error

    return Monitor()
