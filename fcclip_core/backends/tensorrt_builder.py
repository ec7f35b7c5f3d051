"""ONNX graphs into TensorRT's engines.

Networks are strongly typed: every number has the type that the graph gives it, and no builder flag chooses another.
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
    """ONNX -> engine; TensorRT-RTX does this on machines without a GPU, too."""

    def __init__(self, module: ModuleType, title: str, timings: KeptFile | None = None) -> None:
        """Starts nothing yet.

        Args:
            module: `tensorrt` or `tensorrt_rtx`.
            title: Its name for people.
            timings: Where TensorRT keeps what it measured of layers, so that it need not measure them for the next size
                again; None: nothing is measured (TensorRT-RTX), or nothing is to be kept.
        """
        self._trt = module
        self._title = title
        self._timings = timings

    def build(self, onnx: bytes, precision: str, progress: Progress) -> bytes:
        """Builds an engine.

        Args:
            onnx: The graph.
            precision: In fp32, products are computed in float32, too, and not in TF32.
            progress: Told how far it is.

        Raises:
            BackendError: The library does not start, an operation is not supported, or building fails, for want of
                memory for example.
        """
        trt = self._trt
        builder = start(trt, self._title, trt.Builder)
        log = log_of(trt)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, log)
        if not parser.parse(onnx):
            errors = [str(parser.get_error(index)) for index in range(parser.num_errors)]
            raise BackendError(f"{self._title} does not take the graph: {'; '.join(errors[:3])}")
        config = builder.create_builder_config()
        if precision == "fp32" and hasattr(trt.BuilderFlag, "TF32"):
            config.clear_flag(trt.BuilderFlag.TF32)
        monitor = _make_monitor(trt, f"building {self._title} engine", progress)
        config.progress_monitor = monitor
        measured = self._attach_timings(config)  # must outlive the build
        engine = builder.build_serialized_network(network, config)
        if monitor.stopped_by is not None:
            raise monitor.let_go()
        if engine is None:
            raise BackendError(f"{self._title} cannot build the engine: {log.last_error()}")
        if measured is not None:
            self._keep_timings(config)
        return bytes(engine)

    def _attach_timings(self, config: Any) -> Any | None:
        """Gives `config` the timing cache of earlier builds, or an empty one; None: it gets none, and measures anew."""
        if self._timings is None:
            return None
        try:
            for content in (self._timings.read(), b""):  # a cache that the library refuses is begun again
                cache = config.create_timing_cache(content)
                if cache is not None and config.set_timing_cache(cache, False):
                    return cache
            _logger.warning("%s takes no timing cache: every build measures all layers", self._title)
        except Exception as error:
            _logger.warning("%s builds without its timing cache: %s", self._title, first_line(error))
        return None

    def _keep_timings(self, config: Any) -> None:
        assert self._timings is not None
        try:
            self._timings.write(bytes(config.get_timing_cache().serialize()))
        except Exception as error:
            _logger.warning("%s's timing cache cannot be kept: %s", self._title, first_line(error))


def _make_monitor(trt: Any, what: str, progress: Progress) -> Any:
    """Reports the steps of TensorRT's outermost phases.

    An exception must not pass through TensorRT, which would end the process: it stops the build and is kept.
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

        def let_go(self) -> BaseException | None:
            # An error that is raised by one who still holds it keeps the whole graph alive, in a circle.
            error, self.stopped_by = self.stopped_by, None
            return error

        def _report(self, phase: str, done: int) -> None:
            try:
                progress(f"{what}: {phase}", done, self._steps[phase])
            except BaseException as error:  # Ctrl-C, too
                self.stopped_by = error

    return Monitor()
