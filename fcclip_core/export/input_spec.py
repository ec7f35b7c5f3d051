"""The input shape and precision of a graph."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fcclip_core.errors import SettingsError
from fcclip_core.inference.preprocess import SIZE_DIVISOR

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""Name -> type of weights and activations; `model/precision.py` lists what always stays float32."""

LARGEST_SIDE = 8192


def precision_of(dtype: torch.dtype) -> str:
    """The key of `PRECISIONS` for `dtype`."""
    return next(name for name, known in PRECISIONS.items() if known == dtype)


@dataclass(frozen=True)
class InputSpec:
    """Input shape and precision of one graph.

    Attributes:
        batch: Images per batch.
        height: Pixels, padding included; divisible by 32.
        width: Pixels, padding included; divisible by 32.
        precision: Key of `PRECISIONS`.
    """

    batch: int
    height: int
    width: int
    precision: str

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            SettingsError: A field is invalid.
        """
        for side in (self.height, self.width):
            if not 0 < side <= LARGEST_SIDE or side % SIZE_DIVISOR:
                raise SettingsError(
                    f"invalid input size {self.height}x{self.width} (height x width): both sides must be multiples of "
                    f"{SIZE_DIVISOR}, at most {LARGEST_SIDE}; images are padded to such sizes"
                )
        if self.batch < 1:
            raise SettingsError(f"batch is {self.batch}; it must be at least 1")
        if self.precision not in PRECISIONS:
            raise SettingsError(f"precision is {self.precision!r}; it must be one of {', '.join(PRECISIONS)}")

    @classmethod
    def of(cls, image: Tensor, precision: str) -> InputSpec:
        """The spec of `image` `(B, 3, h, w)`."""
        return cls(image.shape[0], image.shape[2], image.shape[3], precision)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(batch, channels, height, width) of the graph's input."""
        return (self.batch, 3, self.height, self.width)

    def __str__(self) -> str:
        """Readable form, also used in file names, for example 1x800x1088-fp16."""
        return f"{self.batch}x{self.height}x{self.width}-{self.precision}"
