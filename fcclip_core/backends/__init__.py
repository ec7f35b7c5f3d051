"""Ways to run the network, behind one interface: a normalised image in, a `ModelOutput` out."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from fcclip_core.backends.eager import EagerBackend
from fcclip_core.errors import SettingsError
from fcclip_core.model.fcclip import FCCLIP, ModelOutput

BACKENDS = ("auto", "eager")


class Backend(Protocol):
    """Runs the network on one device.

    Attributes:
        description: What runs where, for people.
        device: Where images are expected and outputs lie.
    """

    description: str
    device: torch.device

    def __call__(self, image: Tensor) -> ModelOutput:
        """`image` float32 `(B, 3, h, w)`, normalised and padded to multiples of 32, on `device`."""
        ...


def create_backend(name: str, model: FCCLIP, device: torch.device) -> Backend:
    """Builds a backend; `auto` takes the fastest that this machine can run.

    Raises:
        SettingsError: No such backend.
    """
    if name not in BACKENDS:
        raise SettingsError(f"backend is {name!r}; it must be one of {', '.join(BACKENDS)}")
    return EagerBackend(model, device)
