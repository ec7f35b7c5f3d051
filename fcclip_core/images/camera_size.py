"""Image sizes in user input: WIDTHxHEIGHT, as for cameras and in ROS."""

from __future__ import annotations

import re

from fcclip_core.errors import SettingsError


def parse_size(text: str) -> tuple[int, int]:
    """Parses "640x480" as (width, height).

    Raises:
        SettingsError: Not two positive integers separated by x.
    """
    found = re.fullmatch(r"([0-9]{1,6})\s*[xX×]\s*([0-9]{1,6})", text.strip())
    if not found:
        raise SettingsError(f"{text!r} is not a size; use WIDTHxHEIGHT in pixels, for example 640x480")
    width, height = int(found[1]), int(found[2])
    if not width or not height:
        raise SettingsError(f"size {width}x{height} has no pixels; use WIDTHxHEIGHT, for example 640x480")
    return width, height


def described_size(width: int, height: int) -> str:
    """A size in words; a portrait size, which may be a swapped landscape size, with a hint."""
    text = f"images {width} wide and {height} high"
    return text if width >= height else f"{text} (portrait; if this is wrong, use {height}x{width})"
