"""Plain PyTorch: the reference for every other backend."""

from __future__ import annotations

import torch
from torch import Tensor

from fcclip_core.backends.interface import ReadyBackend
from fcclip_core.model.deformable_attention import sample_by_grid, sample_by_index, set_sampler
from fcclip_core.model.fcclip import FCCLIP, ModelOutput


class EagerBackend(ReadyBackend):
    """Runs the modules unchanged, channels last in memory, without gradients."""

    def __init__(self, model: FCCLIP, device: torch.device) -> None:
        """Moves `model` to `device`, where it stays; the model is not copied."""
        self.device = device
        self.description = f"eager PyTorch {torch.__version__} on {device}"
        self._model = model.to(device).to(memory_format=torch.channels_last).eval()
        set_sampler(self._model, sample_by_index if device.type == "cpu" else sample_by_grid)

    @torch.inference_mode()
    def __call__(self, image: Tensor) -> ModelOutput:
        """`image` float32 `(B, 3, h, w)`, normalized and padded to multiples of 32."""
        return self._model(image.contiguous(memory_format=torch.channels_last))
