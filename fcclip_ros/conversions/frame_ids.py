"""Checks of frame_ids: tolerant of drivers that set them incorrectly, strict with parameters."""

from __future__ import annotations

from fcclip_core.errors import SettingsError
from fcclip_core.quoting import short


def compare_frames(what: str, other: str, image: str) -> tuple[bool, str]:
    """Compares the frame_id of depth or camera_info with that of the image.

    Args:
        what: Name of the other message, for the warning.
        other: Its frame_id.
        image: The frame_id of the image.

    Returns:
        Whether they are treated as the same frame, and a warning; empty if there is none.
    """
    if other == image:
        return True, ""
    if not other:
        return True, f"{what} has an empty frame_id; that of the image, {image!r}, is used: set it in the driver"
    if not image:
        return True, f"the image has an empty frame_id; that of {what}, {other!r}, is used: set it in the driver"
    if other.lstrip("/") == image.lstrip("/"):
        return True, (
            f"{what} is in the frame {other!r}, the image in {image!r}; they are treated as the same: tf2 allows no "
            "leading slash, remove it in the driver"
        )
    return False, ""


def check_frame_id(parameter: str, name: str) -> str:
    """Checks and returns a frame_id that a parameter names; may be empty.

    Raises:
        SettingsError: tf2 could never know a frame of that name.
    """
    if name.startswith("/"):
        raise SettingsError(f"{parameter} is {short(name)}; tf2 allows no leading slash, write it without")
    if not name.isprintable() or " " in name:
        raise SettingsError(f"{parameter} is {short(name)}; expected the name of a frame, such as map, without spaces")
    return name
