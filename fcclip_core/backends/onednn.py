"""PyTorch on a CPU with oneDNN's fused operations, in bfloat16 if the hardware supports it; nothing to build."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor

from fcclip_core.backends.graph import check_device
from fcclip_core.backends.interface import ReadyBackend
from fcclip_core.errors import BackendError
from fcclip_core.export.input_spec import PRECISIONS, precision_of
from fcclip_core.kernels.deformable_native import LIBRARY
from fcclip_core.kernels.onednn import best_type, for_processor
from fcclip_core.model.fcclip import FCCLIP, ModelOutput

_logger = logging.getLogger(__name__)


class OneDnnBackend(ReadyBackend):
    """Runs a copy of the network optimized for CPUs; see `kernels/onednn.py`.

    Attributes:
        device: The CPU.
        description: Human-readable description of the backend and device.
        precision: Key of `PRECISIONS`.
    """

    def __init__(self, model: FCCLIP, device: torch.device, precision: str, kernels: Path | None) -> None:
        """Copies the network; takes a second or two.

        Args:
            model: The network; it is not changed.
            device: Must be the CPU.
            precision: "auto" (bf16 if the processor supports it, else fp32), "fp32" or "bf16".
            kernels: Folder that keeps the compiled kernel; None: it is compiled for this process only.

        Raises:
            BackendError: Not a CPU, torch has no oneDNN, or the precision is not supported.
        """
        check_device("oneDNN", device, "cpu")
        self.device = device
        self._dtype = best_type() if precision == "auto" else PRECISIONS[precision]
        if self._dtype not in (torch.float32, torch.bfloat16):
            raise BackendError(f"the oneDNN backend does not support {precision}; choose fp32 or bf16")
        self.precision = precision_of(self._dtype)
        sampling = _compiled_sampling(kernels)
        self._network = for_processor(model.to(device), self._dtype, native=not sampling)
        self.description = f"PyTorch {torch.__version__} with oneDNN, {self.precision}, on {device}{sampling}"

    @torch.inference_mode()
    def __call__(self, image: Tensor) -> ModelOutput:
        """`image` float32 `(B, 3, h, w)`, normalized and padded to multiples of 32.

        Raises:
            RuntimeError: oneDNN does not support an operation on this processor, or there is not enough memory.
        """
        output: ModelOutput = self._network(image.to(self._dtype).contiguous(memory_format=torch.channels_last))
        return output.map(lambda x: x.float() if x.is_floating_point() else x)


def _compiled_sampling(folder: Path | None) -> str:
    """Compiles the sampling kernel; returns "", or a note for the description if it cannot be compiled."""
    try:
        LIBRARY.load(folder)
    except BackendError as error:
        _logger.warning("deformable attention runs uncompiled, which makes the network a third slower: %s", error)
        return ", deformable attention uncompiled"
    return ""
