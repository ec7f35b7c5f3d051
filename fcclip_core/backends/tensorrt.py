"""TensorRT on an NVIDIA GPU: one code path for `tensorrt` and for `tensorrt_rtx`, whichever is installed.

Networks are strongly typed: every number has the type that the graph gives it, and no builder flag chooses another.
"""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from fcclip_core.backends.graph import Exporter, Runner, check_device
from fcclip_core.backends.interface import Progress
from fcclip_core.devices import device_name
from fcclip_core.errors import BackendError
from fcclip_core.export.deformable_plugin import PLUGIN, PLUGIN_VERSIONS, plugin_sampler
from fcclip_core.export.form import Form
from fcclip_core.export.graph import INPUT, OUTPUTS
from fcclip_core.model.deformable_attention import sample_by_gather

_logger = logging.getLogger(__name__)

MODULES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
"""Module -> its name for people, in order of preference."""

OLDEST_MAJOR = {"tensorrt": 10, "tensorrt_rtx": 1}
"""First versions with strongly typed networks."""

_DRIVER = Path("/proc/driver/nvidia/version")


class TensorRt:
    """Builds and runs engines."""

    suffix = ".engine"

    def __init__(self, device: torch.device, precision: str) -> None:
        """Looks for the library.

        Args:
            device: A CUDA device.
            precision: "auto" (fp16), or a key of `PRECISIONS`.

        Raises:
            BackendError: Neither module is there, it is too old, or there is no NVIDIA GPU.
        """
        module, title = find_library()
        check_device(title, device, "cuda")
        self.precision = "fp16" if precision == "auto" else precision
        self.name = f"{title} {module.__version__} {self.precision}"
        self._device = device
        self._builder = EngineBuilder(module, title)
        self._plugin = find_plugin(module, self._builder.log)
        self.key = {
            "library": f"{title} {module.__version__}",
            "gpu": device_name(device),
            "driver": _driver(),
            "deformable attention": f"{PLUGIN} {self._plugin}" if self._plugin else "gathers",
        }
        self._runtime = module.Runtime(self._builder.log)

    def build(self, export: Exporter, progress: Progress) -> bytes:
        """Builds an engine for this GPU, with the plugin for deformable attention where there is one."""
        with torch.cuda.device(self._device):
            if self._plugin:
                onnx = export(plugin_sampler(self._plugin))
                try:
                    return self._builder.build(onnx, self.precision, progress)
                except BackendError as error:
                    _logger.warning("%s: built again with gathers instead of %s: %s", self.name, PLUGIN, error)
            return self._builder.build(export(sample_by_gather), self.precision, progress)

    def load(self, built: bytes, form: Form) -> Runner:
        """Makes an engine ready, on a stream of its own.

        Raises:
            BackendError: The engine was built for another library, GPU or form, or does not fit into memory.
        """
        log = self._builder.log
        with torch.cuda.device(self._device):
            engine = self._runtime.deserialize_cuda_engine(built)
            if engine is None:
                raise BackendError(f"{self.name} cannot read the engine for {form}: {log.last_error()}")
            names = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
            if names != {INPUT, *OUTPUTS} or tuple(engine.get_tensor_shape(INPUT)) != form.shape:
                raise BackendError(f"the engine is not one for {form}: it reads and writes {', '.join(sorted(names))}")
            context = engine.create_execution_context()
            if context is None:
                raise BackendError(f"{self.name} cannot run the engine for {form}: {log.last_error()}")
            return _EngineRunner(engine, context, self._device, log)


class EngineBuilder:
    """ONNX -> engine; TensorRT-RTX does this on machines without a GPU, too."""

    def __init__(self, module: ModuleType, title: str) -> None:
        """Takes `tensorrt` or `tensorrt_rtx`, and its name for people."""
        self._trt = module
        self._title = title
        self.log = _make_log(module)

    def build(self, onnx: bytes, precision: str, progress: Progress) -> bytes:
        """Builds an engine.

        Args:
            onnx: The graph.
            precision: In fp32, products are computed in float32, too, and not in TF32.
            progress: Told how far it is.

        Raises:
            BackendError: An operation is not supported, or building fails, for want of memory for example.
        """
        trt = self._trt
        self.log.forget()
        builder = trt.Builder(self.log)
        if builder is None:
            raise BackendError(f"{self._title} does not start: {self.log.last_error()}")
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, self.log)
        if not parser.parse(onnx):
            errors = [str(parser.get_error(index)) for index in range(parser.num_errors)]
            raise BackendError(f"{self._title} does not take the graph: {'; '.join(errors[:3])}")
        config = builder.create_builder_config()
        if precision == "fp32" and hasattr(trt.BuilderFlag, "TF32"):
            config.clear_flag(trt.BuilderFlag.TF32)
        monitor = _make_monitor(trt, f"building {self._title} engine", progress)
        config.progress_monitor = monitor
        engine = builder.build_serialized_network(network, config)
        if monitor.stopped_by is not None:
            raise monitor.let_go()
        if engine is None:
            raise BackendError(f"{self._title} cannot build the engine: {self.log.last_error()}")
        return bytes(engine)


def find_library() -> tuple[ModuleType, str]:
    """The TensorRT module that is installed, and its name for people.

    Raises:
        BackendError: None is, or it is too old.
    """
    failures = []
    for name, title in MODULES.items():
        try:
            module = importlib.import_module(name)
        except (ImportError, OSError, RuntimeError) as error:  # a wheel without its shared libraries raises any of them
            failures.append(str(error))
            continue
        if int(module.__version__.split(".")[0]) < OLDEST_MAJOR[name]:
            raise BackendError(f"{title} {module.__version__} is too old: {OLDEST_MAJOR[name]}.0 or newer is needed")
        return module, title
    raise BackendError(
        f"TensorRT cannot be imported ({'; '.join(failures)}); JetPack brings tensorrt, elsewhere pip install tensorrt "
        "or tensorrt-rtx"
    )


def find_plugin(trt: Any, log: Any) -> str | None:
    """The version of the plugin for deformable attention that this library brings; None: it brings none."""
    trt.init_libnvinfer_plugins(log, "")
    there = {(creator.name, creator.plugin_version) for creator in trt.get_plugin_registry().all_creators}
    return next((version for version in PLUGIN_VERSIONS if (PLUGIN, version) in there), None)


class _EngineRunner:
    """Runs one engine.

    Output tensors come from torch's caching allocator, which gives the same memory again once nobody holds the tensors
    of an earlier frame: in steady state nothing is allocated, and no frame is overwritten while somebody reads it.
    """

    def __init__(self, engine: Any, context: Any, device: torch.device, log: Any) -> None:
        self._engine = engine  # must outlive its context
        self._context = context
        self._device = device
        self._log = log
        self._stream = torch.cuda.Stream(device)
        types = [torch.float32, torch.float32, torch.float32, torch.bool]
        shapes = [tuple(engine.get_tensor_shape(name)) for name in OUTPUTS]
        self._outputs = list(zip(OUTPUTS, shapes, types, strict=True))

    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        masks, in_vocab, out_vocab, survives = (
            torch.empty(shape, dtype=dtype, device=self._device) for _, shape, dtype in self._outputs
        )
        image = image.contiguous()
        outputs = (masks, in_vocab, out_vocab, survives)
        for name, tensor in zip((INPUT, *OUTPUTS), (image, *outputs), strict=True):
            self._context.set_tensor_address(name, tensor.data_ptr())
        current = torch.cuda.current_stream(self._device)
        # On the default stream TensorRT would synchronise more often.
        self._stream.wait_stream(current)
        with torch.cuda.device(self._device):
            started = self._context.execute_async_v3(self._stream.cuda_stream)
        current.wait_stream(self._stream)
        if not started:
            raise RuntimeError(f"the engine cannot be run: {self._log.last_error()}")
        return outputs


def _make_log(trt: Any) -> Any:
    """TensorRT's messages in Python's log; errors are remembered for ours."""
    levels = {
        trt.ILogger.INTERNAL_ERROR: logging.ERROR,
        trt.ILogger.ERROR: logging.ERROR,
        trt.ILogger.WARNING: logging.WARNING,
    }

    class Log(trt.ILogger):
        def __init__(self) -> None:
            super().__init__()
            self._errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            level = levels.get(severity, logging.DEBUG)
            _logger.log(level, "%s", message)
            if level == logging.ERROR:
                self._errors.append(message.strip())

        def last_error(self) -> str:
            return self._errors[-1] if self._errors else "it gives no reason"

        def forget(self) -> None:
            self._errors.clear()

    return Log()


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


def _driver() -> str:
    """The driver's version line; Jetsons have none, but there the driver changes with the library."""
    try:
        return _DRIVER.read_text().splitlines()[0]
    except (OSError, IndexError):
        return "unknown"
