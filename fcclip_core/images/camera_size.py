"""Sizes of images as users write them: WIDTHxHEIGHT, as cameras and ROS say it."""

from __future__ import annotations

import re

from fcclip_core.errors import SettingsError


def parse_size(text: str) -> tuple[int, int]:
    """Reads "640x480" as (width, height).

    Raises:
        SettingsError: Not two whole numbers, 1 or more, with an x between them.
    """
    found = re.fullmatch(r"([0-9]{1,6})\s*[xX×]\s*([0-9]{1,6})", text.strip())
    if not found:
        raise SettingsError(f"{text!r} is no size; write WIDTHxHEIGHT in pixels, for example 640x480")
    width, height = int(found[1]), int(found[2])
    if not width or not height:
        raise SettingsError(f"images of {width}x{height} hold no pixel; write WIDTHxHEIGHT, for example 640x480")
    return width, height


def described_size(width: int, height: int) -> str:
    """A size as it was understood; an upright one, which may be one written the other way round, with the other."""
    text = f"images {width} wide and {height} high"
    return text if width >= height else f"{text} (upright; if they are not, write {height}x{width})"
