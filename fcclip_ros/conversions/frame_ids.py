"""Whether two messages are in one frame, when a driver writes its name carelessly."""

from __future__ import annotations


def compare_frames(what: str, other: str, image: str) -> tuple[bool, str]:
    """Compares the frame of depth or camera_info with that of the image.

    Args:
        what: What has the frame `other`, for the text.
        other: Its frame_id.
        image: The image's frame_id.

    Returns:
        Whether they are taken as one frame, and what is doubtful about that; empty if nothing is.
    """
    if other == image:
        return True, ""
    if not other:
        return True, f"{what} has an empty frame_id; the image's, {image!r}, is taken: set it in the driver"
    if not image:
        return (
            True,
            f"the image has an empty frame_id, {what} has {other!r}; they are taken as one: set it in the driver",
        )
    if other.lstrip("/") == image.lstrip("/"):
        return True, (
            f"{what} is in the frame {other!r}, the image in {image!r}; they are taken as one: tf2 allows no slash at "
            "the beginning, take it away in the driver"
        )
    return False, ""
