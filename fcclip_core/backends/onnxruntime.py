"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch

from fcclip_core.backends.processor_library import ProcessorLibrary
from fcclip_core.errors import BackendError
from fcclip_core.export.onnx_export import INPUT, OUTPUTS


class OnnxRuntime(ProcessorLibrary):
    """Runs graphs in float32, or in float16, which it computes in float32 where it has no float16 kernel."""

    title, package = "ONNX Runtime", "onnxruntime"
    errors = Exception  # its exceptions have no common base class

    def __init__(self, device: torch.device, precision: str) -> None:
        """Imports the library.

        Args:
            device: Must be the CPU.
            precision: "auto" (float32), or a key of `PRECISIONS` except bf16.

        Raises:
            BackendError: The library is not installed or does not support the device or precision.
        """
        super().__init__(device)
        if precision == "bf16":
            raise BackendError("ONNX Runtime cannot run bf16 graphs on the CPU; choose fp32, or openvino")
        self.precision = "fp32" if precision == "auto" else precision
        self.name = f"ONNX Runtime {self._library.__version__} {self.precision}"

    def _compile(self, graph: bytes) -> Callable[[np.ndarray], Iterable[np.ndarray]]:
        options = self._library.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # otherwise it warns of every node that it cannot fold
        session = self._library.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        return lambda image: session.run(OUTPUTS, {INPUT: image})
