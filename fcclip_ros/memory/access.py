"""What the parts of the node that serve requests need from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from std_msgs.msg import Header

from fcclip_core.memory.object_memory import ObjectMemory
from fcclip_ros.memory.parameters import MemoryParameters
from fcclip_ros.node.worker import Worker


@dataclass(frozen=True)
class Access:
    """Functions of the node; each may be called on any thread.

    Attributes:
        memory: Returns the memory; FcclipError while the node is not configured.
        parameters: Returns the present parameters.
        header: Returns a header with the map's frame and the present time.
        base_from_camera: Returns a camera's transform to the robot's base by its name; None if unknown.
        changed: Notes that objects have changed.
        refuse: Counts and logs a rejected request; returns the reason for the response.
        requests: The thread that asks the memory.
    """

    memory: Callable[[], ObjectMemory]
    parameters: Callable[[], MemoryParameters]
    header: Callable[[], Header]
    base_from_camera: Callable[[str], np.ndarray | None]
    changed: Callable[[], None]
    refuse: Callable[[str, BaseException], str]
    requests: Worker[None]
