"""What every backend is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from fcclip_core.errors import BackendError
from fcclip_core.model.fcclip import ModelOutput

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, units done, units in all)."""


class UnsupportedInputShape(BackendError):
    """The backend works, but leaves images of this form to another one."""


class Network(Protocol):
    """Runs the network on one device.

    Attributes:
        device: Where images are expected and outputs lie.
    """

    device: torch.device

    @property
    def description(self) -> str:
        """What runs where, for people."""
        ...

    def __call__(self, image: Tensor) -> ModelOutput:
        """`image` float32 `(B, 3, h, w)`, normalized and padded to multiples of 32, on `device`.

        Raises:
            UnsupportedInputShape: It leaves such images to another backend.
            BackendError: It turns out not to work here, and would not if it were tried again.
            Exception: Whatever torch or a library raises; it may pass, as a want of memory does.
        """
        ...


class Backend(Network, Protocol):
    """A network that can be made ready before the first image comes, and while images of other forms run."""

    def lacks(self, batch: int, height: int, width: int) -> str:
        """What images of a form would have to wait for longer than a stream can; empty if there is nothing.

        Args:
            batch: Images at a time.
            height: Pixels, padding included; divisible by 32.
            width: Pixels, padding included; divisible by 32.
        """
        ...

    def prepare(
        self, batch: int, height: int, width: int, progress: Progress | None = None, *, requested: bool = True
    ) -> None:
        """Does beforehand what the first image of a form would have to wait for, which may take minutes.

        Args:
            batch: Images at a time.
            height: Pixels, padding included; divisible by 32.
            width: Pixels, padding included; divisible by 32.
            progress: Told how far it is; what it raises ends the work.
            requested: Whether somebody asked for this form; if not, what is built for those who ask alone is not.

        Raises:
            SettingsError: No images can have such a form.
            UnsupportedInputShape: Nobody asked for it.
            BackendError: It turns out not to work here.
        """
        ...
