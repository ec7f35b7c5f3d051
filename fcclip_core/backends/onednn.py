"""PyTorch on a processor with oneDNN's fused products, in bfloat16 where there is hardware for it; nothing to build."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor

from fcclip_core.backends.graph import check_device
from fcclip_core.backends.interface import Progress
from fcclip_core.errors import BackendError
from fcclip_core.export.input_spec import PRECISIONS, precision_of
from fcclip_core.kernels.deformable_native import compile_kernel
from fcclip_core.kernels.onednn import best_type, for_processor
from fcclip_core.model.fcclip import FCCLIP, ModelOutput

_logger = logging.getLogger(__name__)


class OneDnnBackend:
    """Runs a copy of the network that is made for processors; see `model/onednn.py`.

    Attributes:
        device: The CPU.
        description: What runs where, for people.
        precision: Key of `PRECISIONS`.
    """

    def __init__(self, model: FCCLIP, device: torch.device, precision: str, kernels: Path | None) -> None:
        """Copies the network; takes a second or two.

        Args:
            model: The network; it stays as it is.
            device: Must be the CPU.
            precision: "auto" (bf16 if the processor has it, else fp32), "fp32" or "bf16".
            kernels: Folder where the compiled kernel is kept; None compiles it for this process alone.

        Raises:
            BackendError: Not a CPU, torch has no oneDNN, or the precision cannot be had.
        """
        check_device("oneDNN", device, "cpu")
        self.device = device
        self._dtype = best_type() if precision == "auto" else PRECISIONS[precision]
        if self._dtype not in (torch.float32, torch.bfloat16):
            raise BackendError(f"oneDNN does not compute in {precision} here; choose fp32 or bf16")
        self.precision = precision_of(self._dtype)
        sampling = _compiled_sampling(kernels)
        self._network = for_processor(model.to(device), self._dtype, native=not sampling)
        self.description = f"PyTorch {torch.__version__} with oneDNN, {self.precision}, on {device}{sampling}"

    @torch.inference_mode()
    def __call__(self, image: Tensor) -> ModelOutput:
        """`image` float32 `(B, 3, h, w)`, normalized and padded to multiples of 32.

        Raises:
            RuntimeError: oneDNN cannot compute something on this processor, or there is too little memory.
        """
        output = self._network(image.to(self._dtype).contiguous(memory_format=torch.channels_last))
        return ModelOutput(
            mask_logits=output.mask_logits.float(),
            in_vocab_embedding=output.in_vocab_embedding.float(),
            out_vocab_embedding=output.out_vocab_embedding.float(),
            mask_survives=output.mask_survives,
        )

    def lacks(self, batch: int, height: int, width: int) -> str:
        """Nothing."""
        return ""

    def prepare(
        self, batch: int, height: int, width: int, progress: Progress | None = None, *, requested: bool = True
    ) -> None:
        """Nothing has to be made ready."""


def _compiled_sampling(folder: Path | None) -> str:
    """Compiles the sampling kernel; returns "", or what to say of a network that runs without it."""
    try:
        compile_kernel(folder)
    except BackendError as error:
        _logger.warning("deformable attention runs uncompiled, a third slower in all: %s", error)
        return ", deformable attention uncompiled"
    return ""
