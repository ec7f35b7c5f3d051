"""The interface of all backends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from fcclip_core.errors import BackendError
from fcclip_core.model.fcclip import ModelOutput

Progress = Callable[[str, int, int], None]
"""Called with (name of the task, units done, total units)."""


class UnsupportedInputShape(BackendError):
    """The backend works, but does not run images of this shape."""


class Network(Protocol):
    """Runs the network on one device.

    Attributes:
        device: Device of images and outputs.
    """

    device: torch.device

    @property
    def description(self) -> str:
        """Human-readable description of the backend and device."""
        ...

    def __call__(self, image: Tensor) -> ModelOutput:
        """`image` float32 `(B, 3, h, w)`, normalized and padded to multiples of 32, on `device`.

        Raises:
            UnsupportedInputShape: It does not run images of this shape.
            BackendError: It does not work on this machine; retrying would not help.
            Exception: Any error of torch or a library; it may be temporary, for example a lack of memory.
        """
        ...


class Backend(Network, Protocol):
    """A network that can be prepared before the first image arrives and while images of other shapes run."""

    def lacks(self, batch: int, height: int, width: int) -> str:
        """What is missing to run images of a shape without a long delay; empty if nothing is.

        Args:
            batch: Images per batch.
            height: Pixels, padding included; divisible by 32.
            width: Pixels, padding included; divisible by 32.
        """
        ...

    def prepare(
        self, batch: int, height: int, width: int, progress: Progress | None = None, *, requested: bool = True
    ) -> None:
        """Builds everything that the first image of a shape needs, which may take minutes.

        Args:
            batch: Images per batch.
            height: Pixels, padding included; divisible by 32.
            width: Pixels, padding included; divisible by 32.
            progress: Receives the progress; an exception from it stops the work.
            requested: Whether the user requested this shape; some builds are done on request only.

        Raises:
            SettingsError: Invalid shape.
            UnsupportedInputShape: The shape is built on request only and was not requested.
            BackendError: The backend does not work on this machine.
        """
        ...


class ReadyBackend:
    """The part of a `Backend` that runs images of any shape without preparation."""

    def lacks(self, batch: int, height: int, width: int) -> str:
        """Nothing is missing."""
        return ""

    def prepare(
        self, batch: int, height: int, width: int, progress: Progress | None = None, *, requested: bool = True
    ) -> None:
        """Does nothing."""
