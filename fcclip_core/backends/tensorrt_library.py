"""Finds the TensorRT of this machine: `tensorrt` or `tensorrt_rtx`, which have nearly the same Python interface."""

from __future__ import annotations

import functools
import importlib
import logging
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from fcclip_core.backends.jetson import INSTALL_TENSORRT, is_jetson
from fcclip_core.errors import BackendError
from fcclip_core.quoting import first_line

_logger = logging.getLogger(__name__)

MODULES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
"""Module -> its name for messages, in order of preference."""

OLDEST_MAJOR = {"tensorrt": 10, "tensorrt_rtx": 1}
"""First versions with strongly typed networks."""

RTX_GPUS = "compute capability 7.5, 8.6, 8.9 or 12.x: GeForce and RTX from Turing on, not A100, H100 or Jetson"
"""GPUs that TensorRT-RTX supports, from the support matrices of its versions 1.0 to 1.5."""

_DRIVER = Path("/proc/driver/nvidia/version")


def find_library(capability: tuple[int, int] | None = None) -> tuple[ModuleType, str]:
    """The first TensorRT that is installed and starts, and its name for messages.

    Args:
        capability: Compute capability of the GPU to run on; None: only to build graphs.

    Raises:
        BackendError: None is installed, or none of them is new enough, starts and supports this GPU.
    """
    failures = []
    for name, title in MODULES.items():
        try:
            return load_library(name, capability), title
        except BackendError as error:
            failures.append(str(error))
    raise BackendError(f"no TensorRT works on this machine ({'; '.join(failures)}); {install_advice()}")


def load_library(name: str, capability: tuple[int, int] | None = None) -> ModuleType:
    """Imports one TensorRT and starts it.

    Args:
        name: Key of `MODULES`.
        capability: As for `find_library`.

    Raises:
        BackendError: It is not installed, too old, does not support this GPU, or does not start.
    """
    title = MODULES[name]
    try:
        module = importlib.import_module(name)
        _check_version(module, name, title)
        if capability is not None:
            check_gpu(name, title, capability)
        start(module, title, module.Runtime)
        return module
    except BackendError:
        raise
    except Exception as error:  # a broken installation may raise anything
        raise BackendError(f"{name} cannot be imported: {first_line(error) or type(error).__name__}") from error


def install_advice() -> str:
    """How to install TensorRT on this machine."""
    if is_jetson():
        return f"on a Jetson, TensorRT comes with JetPack: {INSTALL_TENSORRT}"
    return f"pip install tensorrt, or tensorrt-rtx for {RTX_GPUS}"


def check_gpu(name: str, title: str, capability: tuple[int, int]) -> None:
    """Checks that a library supports a GPU.

    Args:
        name: Key of `MODULES`.
        title: Its name for messages.
        capability: Compute capability of the GPU.

    Raises:
        BackendError: The GPU is not supported.
    """
    if name == "tensorrt_rtx" and capability not in ((7, 5), (8, 6), (8, 9)) and capability[0] != 12:
        raise BackendError(f"{title} runs on {RTX_GPUS}; this GPU has {capability[0]}.{capability[1]}")


def start(module: ModuleType, title: str, make: Callable[[Any], Any]) -> Any:
    """Creates a `Runtime` or a `Builder`, which starts the library.

    Args:
        module: The library.
        title: Its name for messages.
        make: Creates the object, given the log.

    Raises:
        BackendError: The library does not start, most often because the driver is too old for its CUDA version.
    """
    log = log_of(module)
    log.forget()
    try:
        return make(log)
    except TypeError as error:  # how pybind11 reports a constructor that returned null
        raise BackendError(_does_not_start(module, title, log.last_error(first_line(error)))) from error


def driver() -> str:
    """The line in which the NVIDIA driver states its version; "unknown" without a driver."""
    try:
        return _DRIVER.read_text().splitlines()[0]
    except (OSError, IndexError):
        return "unknown"


@functools.cache
def log_of(module: ModuleType) -> Any:
    """Forwards the library's messages to Python's log, and stores errors for our messages.

    One per module, for the life of the process: the library keeps a pointer to the first log that it is given.
    """
    levels = {
        module.ILogger.INTERNAL_ERROR: logging.ERROR,
        module.ILogger.ERROR: logging.ERROR,
        module.ILogger.WARNING: logging.WARNING,
    }

    class Log(module.ILogger):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self._errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            level = levels.get(severity, logging.DEBUG)
            _logger.log(level, "%s", message)
            if level == logging.ERROR:
                self._errors.append(message.strip())

        def last_error(self, default: str = "it gives no reason") -> str:
            return self._errors[-1] if self._errors else default

        def forget(self) -> None:
            self._errors.clear()

    return Log()


def _check_version(module: ModuleType, name: str, title: str) -> None:
    if int(module.__version__.split(".")[0]) < OLDEST_MAJOR[name]:
        raise BackendError(f"{title} {module.__version__} is too old: {OLDEST_MAJOR[name]}.0 or newer is needed")


def _does_not_start(module: ModuleType, title: str, reason: str) -> str:
    found = re.search(r"\b\d+\.\d+(\.\d+)?\b", driver())
    package = module.__name__.replace("_", "-")
    if is_jetson():
        remedy = f"driver and library both come with JetPack: {INSTALL_TENSORRT}"
    else:
        remedy = (
            "libraries for CUDA 13 need driver 580 or newer, for CUDA 12 driver 525: install a newer driver, "
            f"or the library for an older CUDA (pip install {package}-cu12)"
        )
    with_driver = f"with NVIDIA driver {found[0]}" if found else "without an NVIDIA driver"
    return f"{title} {module.__version__} does not start {with_driver} ({reason}); {remedy}"
