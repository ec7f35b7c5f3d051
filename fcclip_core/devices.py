"""Where to compute."""

from __future__ import annotations

import torch

from fcclip_core.errors import SettingsError


def resolve_device(name: str) -> torch.device:
    """The device that a user named: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:N".

    Raises:
        SettingsError: No such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SettingsError(f"device is {name!r}; expected auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise SettingsError(f"device is {name!r}; expected auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SettingsError(f"device is {name!r}, but torch finds no GPU; use cpu, or run `fcclip doctor` to see why")
    return device
