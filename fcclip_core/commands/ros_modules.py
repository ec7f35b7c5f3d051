"""The ROS side, for the commands that need it: it lives with the ROS messages, which this package does without."""

from __future__ import annotations

import importlib
from types import ModuleType

from fcclip_core.errors import FcclipError


def ros_module(name: str, purpose: str) -> ModuleType:
    """Imports a module of `fcclip_ros`.

    Args:
        name: The module.
        purpose: What needs it, to begin a complaint with.

    Raises:
        FcclipError: There are no ROS messages here.
    """
    try:
        importlib.import_module("fcclip_ros.msg")
        return importlib.import_module(name)
    except ImportError as error:
        raise FcclipError(
            f"{purpose} needs ROS 2's Python packages and this package's messages ({error}); `fcclip doctor` says how "
            "to get them"
        ) from error
