"""Which values of a 16-bit gray image become black and white: thermal cameras use a small part of all."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

import numpy as np

from fcclip_core.errors import SettingsError

_LARGEST = 65_535
_NUMBER = r"(\d+(?:\.\d+)?)"
_PERCENTILES = re.compile(rf"{_NUMBER} *% *[ ,] *{_NUMBER} *%")
_VALUES = re.compile(r"(\d+) *[ ,] *(\d+)")


@dataclass(frozen=True)
class GrayRange:
    """A range of values.

    Attributes:
        low: What becomes black, and everything below.
        high: What becomes white, and everything above.
        is_percentiles: Whether both are percentiles of each image, 0 to 100; otherwise values, 0 to 65535.
    """

    low: float = 0
    high: float = _LARGEST
    is_percentiles: bool = False

    @classmethod
    def parse(cls, name: str, text: str) -> GrayRange:
        """Reads "full", values such as "28000 32000", or percentiles such as "1% 99%".

        Args:
            name: Of the parameter, for the message.
            text: Its value.

        Raises:
            SettingsError: It is none of these, or the second number is not above the first.
        """
        words = text.strip()
        if words == "full":
            return cls()
        found = _PERCENTILES.fullmatch(words) or _VALUES.fullmatch(words)
        if found:
            low, high = map(float, found.groups())
            parsed = cls(low, high, is_percentiles="%" in words)
            if low < high <= (100 if parsed.is_percentiles else _LARGEST):
                return parsed
        raise SettingsError(
            f'{name} is {text!r}; it must be full, two values of 0 to {_LARGEST} such as "28000 32000", or two '
            'percentiles such as "1% 99%", the lower one first'
        )

    @property
    def is_full(self) -> bool:
        """Whether the values are only scaled."""
        return self == FULL_RANGE

    def to_8_bits(self, values: np.ndarray) -> np.ndarray:
        """Converts uint16 values `(H, W)`, at least one, to uint8."""
        low, high = (int(limit) for limit in (self.low, self.high))
        if self.is_percentiles:
            counts = np.cumsum(np.bincount(values.ravel(), minlength=_LARGEST + 1))
            ranks = np.ceil(np.array([self.low, self.high]) / 100 * values.size).clip(1)
            low, high = (int(value) for value in np.searchsorted(counts, ranks))
        return _table(low, high)[values]


FULL_RANGE = GrayRange()


@functools.lru_cache(maxsize=8)
def _table(low: int, high: int) -> np.ndarray:
    """The 8-bit value of each 16-bit value, uint8 `(65536,)`."""
    values = np.arange(_LARGEST + 1, dtype=np.float32)
    # Of a range without extent, an image of one value, everything is black.
    table: np.ndarray = ((values - low) * (255 / max(high - low, 1))).clip(0, 255).round().astype(np.uint8)
    return table
