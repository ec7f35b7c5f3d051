"""Weights by published name, seen from a prefix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Weights:
    """The tensors of a checkpoint whose names start with `prefix`.

    Attributes:
        tensors: Published key -> tensor, the whole checkpoint.
        prefix: Put before every name that is asked for.
    """

    tensors: Mapping[str, torch.Tensor]
    prefix: str = ""

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.tensors[self.prefix + name]

    def __contains__(self, name: str) -> bool:
        return self.prefix + name in self.tensors

    @property
    def bias(self) -> torch.Tensor | None:
        """This module's bias, if it has one."""
        return self.tensors.get(self.prefix + "bias")

    def under(self, name: str) -> Weights:
        """The weights below module `name`."""
        return Weights(self.tensors, f"{self.prefix}{name}.")

    def linear(self, x: torch.Tensor) -> torch.Tensor:
        """Applies this module as a linear layer."""
        return F.linear(x, self["weight"], self.bias)

    def conv(self, x: torch.Tensor, **options: int) -> torch.Tensor:
        """Applies this module as a convolution."""
        return F.conv2d(x, self["weight"], self.bias, **options)

    def layer_norm(self, x: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
        """Applies this module as a layer norm over the last axis."""
        return F.layer_norm(x, self["weight"].shape, self["weight"], self["bias"], eps)

    def group_norm(self, x: torch.Tensor) -> torch.Tensor:
        """Applies this module as a group norm with the 32 groups that FC-CLIP uses everywhere."""
        return F.group_norm(x, 32, self["weight"], self["bias"])

    def batch_norm(self, x: torch.Tensor) -> torch.Tensor:
        """Applies this module as a batch norm in evaluation mode."""
        return F.batch_norm(x, self["running_mean"], self["running_var"], self["weight"], self["bias"])
