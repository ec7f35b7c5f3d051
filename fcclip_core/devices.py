"""Where to compute, and what becomes of a process whose GPU is lost to it."""

from __future__ import annotations

import contextlib
import functools
import gc
from collections.abc import Callable, Iterator
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import torch

from fcclip_core.errors import DeviceLostError, SettingsError
from fcclip_core.quoting import first_line


class _OnDevice(Protocol):
    @property
    def device(self) -> torch.device: ...


_Owner = TypeVar("_Owner", bound=_OnDevice)
_Arguments = ParamSpec("_Arguments")
_Answer = TypeVar("_Answer")


def resolve_device(name: str) -> torch.device:
    """The device that a user named: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:N".

    Raises:
        SettingsError: No such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SettingsError(f"device is {name!r}; expected auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise SettingsError(f"device is {name!r}; expected auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SettingsError(f"device is {name!r}, but torch finds no GPU; use cpu, or run `fcclip doctor` to see why")
    return device


def device_name(device: torch.device) -> str:
    """The kind of a device, for what is computed or built on it: "cpu", or a GPU's name and generation."""
    if device.type != "cuda":
        return device.type
    about = torch.cuda.get_device_properties(device)
    return f"{about.name} sm_{about.major}{about.minor}"


def fault(device: torch.device) -> str:
    """Why a device will never answer this process again, in CUDA's words; empty while it answers.

    After an illegal address, a failed launch, an assertion in a kernel and the like, every call fails with that error.
    """
    if device.type != "cuda" or not torch.cuda.is_initialized():
        return ""
    try:
        # Not the whole device: that must not be waited for while another thread captures a graph.
        torch.cuda.current_stream(device).synchronize()
    except torch.OutOfMemoryError:
        return ""
    except RuntimeError as error:
        return first_line(error)
    return ""


@contextlib.contextmanager
def watched(device: torch.device) -> Iterator[None]:
    """Where what fails inside failed because the device is lost, it says so instead.

    Kernels run behind the calls that launch them, so an error is raised at the next synchronization, anywhere.

    Raises:
        DeviceLostError: The device answers no more.
    """
    try:
        yield
    except DeviceLostError:
        raise
    except Exception as error:
        if not (said := fault(device)):
            raise
        raise DeviceLostError(
            f"{device} is lost to this process, which must be started again: {said} "
            f"(first met as {type(error).__name__}: {first_line(error)})"
        ) from error


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Computes as this program was made to, whatever mode the caller's own code has put torch in.

    Autocast would make backends fail their check, or change labels; another default type or device, and gradients or
    their want, would get into what is built. The caller's modes are as before afterwards.
    """
    with contextlib.ExitStack() as modes:
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                modes.enter_context(torch.autocast(kind, enabled=False))
        # Not no_grad alone: what is made in the caller's inference mode could not be used outside.
        modes.enter_context(torch.inference_mode(False))
        modes.enter_context(torch.no_grad())
        if torch.get_default_device().type != "cpu":
            modes.enter_context(torch.device("cpu"))
        if (usual := torch.get_default_dtype()) != torch.float32:
            torch.set_default_dtype(torch.float32)
            modes.callback(torch.set_default_dtype, usual)
        yield


def watches_device(
    method: Callable[Concatenate[_Owner, _Arguments], _Answer],
) -> Callable[Concatenate[_Owner, _Arguments], _Answer]:
    """Runs a method of something that has a device `undisturbed` and `watched`."""

    @functools.wraps(method)
    def run(self: _Owner, /, *arguments: _Arguments.args, **options: _Arguments.kwargs) -> _Answer:
        with undisturbed(), watched(self.device):
            return method(self, *arguments, **options)

    return run


def free_memory(device: torch.device) -> None:
    """Collects garbage and empties torch's cache of GPU memory; a lost GPU is left alone."""
    gc.collect()
    if device.type == "cuda":
        with contextlib.suppress(RuntimeError):
            torch.cuda.empty_cache()
