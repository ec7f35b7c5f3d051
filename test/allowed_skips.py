"""The skips that a run with `--strict-skips` may have: what a test misses that this machine truly cannot have.

`make test` passes that option, and CI runs `make test`. Any other skip turns the run red: a test that is skipped for
want of a package that nobody installs is a test that never runs.
"""

from __future__ import annotations

import ctypes
import platform
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True)
class AllowedSkip:
    """One part that may be missing.

    Attributes:
        pattern: Regular expression for the reason that the test gives.
        why: Why the machine cannot have the part.
        holds: Whether that is so on this machine.
    """

    pattern: str
    why: str
    holds: Callable[[], bool]


def _ros_comes_from_wheels() -> bool:
    spec = find_spec("rclpy")
    return spec is None or Path(str(spec.origin)).is_relative_to(sys.prefix)


def _no_gl_library() -> bool:
    def is_there(library: str) -> bool:
        try:
            ctypes.CDLL(library)
        except OSError:
            return False
        return True

    return not any(map(is_there, ("libEGL.so.1", "libOSMesa.so")))


def _no_tensorrt_rtx_wheel() -> bool:
    library, version = platform.libc_ver()
    glibc = tuple(map(int, version.split(".")[:2])) if library == "glibc" else (0, 0)
    return (sys.platform, platform.machine()) != ("linux", "x86_64") or glibc < (2, 28)


ALLOWED = (
    AllowedSkip(r"\bcv_bridge\b", "not on PyPI; a full ROS 2 has it", _ros_comes_from_wheels),
    AllowedSkip(r"^launch is not on PyPI", "a full ROS 2 has it", _ros_comes_from_wheels),
    AllowedSkip(
        r"^(\S+: )?neither libEGL nor libOSMesa was found", "no wheel brings one; apt needs root", _no_gl_library
    ),
    AllowedSkip(
        r"\btensorrt_rtx\b", "NVIDIA has wheels for x86-64 with glibc 2.28 or newer alone", _no_tensorrt_rtx_wheel
    ),
)


def allowed(reason: str) -> AllowedSkip | None:
    """The entry that allows a skip for `reason` on this machine; None: nothing does."""
    return next((skip for skip in ALLOWED if re.search(skip.pattern, reason) and skip.holds()), None)
