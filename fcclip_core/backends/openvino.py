"""OpenVINO on the CPU: bfloat16 if the processor supports it, else float32."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch

from fcclip_core.backends.processor_library import ProcessorLibrary
from fcclip_core.errors import BackendError
from fcclip_core.export.onnx_export import INPUT, OUTPUTS

_DEVICE = "CPU"
_PRECISIONS = ("fp32", "bf16")


class OpenVino(ProcessorLibrary):
    """Runs graphs in the types that they declare: float32 parts are computed in float32."""

    title, package = "OpenVINO", "openvino"

    def __init__(self, device: torch.device, precision: str) -> None:
        """Imports the library.

        Args:
            device: Must be the CPU.
            precision: "auto" (bf16 if the processor supports it, else fp32), "fp32" or "bf16".

        Raises:
            BackendError: The library is not installed or does not support the device or precision.
        """
        super().__init__(device)
        self._core = self._library.Core()
        if precision == "auto":
            has_bf16 = "BF16" in self._core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")
            precision = "bf16" if has_bf16 else "fp32"
        if precision not in _PRECISIONS:
            choice = " or ".join(_PRECISIONS)
            raise BackendError(f"OpenVINO does not support {precision} on the CPU; choose {choice}")
        self.precision = precision
        self.name = f"OpenVINO {self._library.__version__.split('-')[0]} {precision}"

    def _compile(self, graph: bytes) -> Callable[[np.ndarray], Iterable[np.ndarray]]:
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            # Keeps the graph's types. The hint bf16 would also shorten sampling coordinates, with large errors.
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        request = self._core.compile_model(self._core.read_model(graph), _DEVICE, options).create_infer_request()

        def infer(image: np.ndarray) -> list[np.ndarray]:
            found = request.infer({INPUT: image}, share_inputs=True)
            return [found[name] for name in OUTPUTS]

        return infer
