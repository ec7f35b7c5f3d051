"""TensorRT on an NVIDIA GPU: one code path for `tensorrt` and `tensorrt_rtx`, whichever works on this machine."""

from __future__ import annotations

import logging
import re
from typing import Any

import torch

from fcclip_core.backends.graph import Exporter, Runner, check_device
from fcclip_core.backends.interface import Progress
from fcclip_core.backends.tensorrt_builder import EngineBuilder
from fcclip_core.backends.tensorrt_library import driver, find_library, log_of, start
from fcclip_core.backends.tensorrt_runner import EngineRunner
from fcclip_core.devices import device_name
from fcclip_core.errors import BackendError
from fcclip_core.export.built_files import NOTHING_KEPT, BuiltFiles, KeptFile
from fcclip_core.export.deformable_plugin import PLUGIN, PLUGIN_VERSIONS, plugin_sampler
from fcclip_core.export.input_spec import InputSpec
from fcclip_core.export.onnx_export import INPUT, OUTPUTS
from fcclip_core.model.deformable_attention import sample_by_gather

_logger = logging.getLogger(__name__)


class TensorRt:
    """Builds and runs engines."""

    suffix = ".engine"

    def __init__(self, device: torch.device, precision: str, files: BuiltFiles = NOTHING_KEPT) -> None:
        """Imports the library.

        Args:
            device: A CUDA device.
            precision: "auto" (fp16), or a key of `PRECISIONS`.
            files: Keeps the library's caches, which make the next build or start faster.

        Raises:
            BackendError: No TensorRT works on this machine, or there is no NVIDIA GPU.
        """
        check_device("TensorRT", device, "cuda")
        module, title = find_library(torch.cuda.get_device_capability(device))
        self.precision = "fp16" if precision == "auto" else precision
        self.name = f"{title} {module.__version__} {self.precision}"
        self._device = device
        self._log = log_of(module)
        self._plugin = find_plugin(module, self._log)
        gpu = device_name(device)
        self.key = {
            "library": f"{title} {module.__version__}",
            "gpu": gpu,
            "driver": driver(),
            "deformable attention": f"{PLUGIN} {self._plugin}" if self._plugin else "gathers",
        }
        here = re.sub(r"[^A-Za-z0-9.]+", "-", f"{title} {gpu}")
        # Timings and kernels of a GPU are valid for all sizes and weights. TensorRT measures timings when it builds an
        # engine, TensorRT-RTX compiles kernels when it runs one.
        is_rtx = module.__name__ == "tensorrt_rtx"
        self._kernels = KeptFile(files, f"{here}.kernels", self.key) if is_rtx else None
        timings = None if is_rtx else KeptFile(files, f"{here}.timings", self.key)
        self._builder = EngineBuilder(module, title, timings)
        self._runtime = start(module, title, module.Runtime)

    def build(self, export: Exporter, progress: Progress) -> bytes:
        """Builds an engine for this GPU, with the plugin for deformable attention if the library has one."""
        with torch.cuda.device(self._device):
            if self._plugin:
                onnx = export(plugin_sampler(self._plugin))
                try:
                    return self._builder.build(onnx, self.precision, progress)
                except BackendError as error:
                    _logger.warning("%s: rebuilding with gathers instead of %s: %s", self.name, PLUGIN, error)
            return self._builder.build(export(sample_by_gather), self.precision, progress)

    def load(self, built: bytes, spec: InputSpec) -> Runner:
        """Loads an engine, with its own CUDA stream.

        Raises:
            BackendError: The engine was built for another library, GPU or shape, or does not fit into memory.
        """
        self._log.forget()
        with torch.cuda.device(self._device):
            engine = self._runtime.deserialize_cuda_engine(built)
            if engine is None:
                raise BackendError(f"{self.name} cannot read the engine for {spec}: {self._log.last_error()}")
            names = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
            if names != {INPUT, *OUTPUTS} or tuple(engine.get_tensor_shape(INPUT)) != spec.shape:
                raise BackendError(f"the engine is not one for {spec}: it reads and writes {', '.join(sorted(names))}")
            return EngineRunner(engine, self._device, self._log, self._kernels)


def find_plugin(trt: Any, log: Any) -> str | None:
    """The version of this library's plugin for deformable attention; None if it has none."""
    trt.init_libnvinfer_plugins(log, "")
    known = {(creator.name, creator.plugin_version) for creator in trt.get_plugin_registry().all_creators}
    return next((version for version in PLUGIN_VERSIONS if (PLUGIN, version) in known), None)
