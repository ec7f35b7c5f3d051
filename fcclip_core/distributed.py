"""Several processes that work on one thing, as `torchrun` starts them; all functions also serve a process alone."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from fcclip_core.devices import watched
from fcclip_core.errors import FcclipError
from fcclip_core.quoting import first_line

_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables that `torchrun` sets for each process."""


@contextlib.contextmanager
def workers(device: torch.device) -> Iterator[torch.device]:
    """Joins the processes that `torchrun` started, for the length of the block; does nothing in a single process.

    Args:
        device: Where this process should compute. "cuda" without a number becomes the process's own GPU.

    Yields:
        The device of this process.

    Raises:
        FcclipError: The processes do not come together.
        DeviceLostError: The device is lost to this process.
    """
    # All of them: clusters and containers set single ones for reasons of their own.
    if not set(_TORCHRUN) <= os.environ.keys() or dist.is_initialized():
        with watched(device):
            yield device
        return
    if device.type == "cuda" and device.index is None:
        local = os.environ.get("LOCAL_RANK", "0")
        if not local.isdecimal():
            raise FcclipError(f"LOCAL_RANK is {local!r} in the environment; expected the number of a GPU")
        device = torch.device("cuda", int(local))
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except (ValueError, RuntimeError) as error:
        values = ", ".join(f"{name}={os.environ[name]}" for name in _TORCHRUN)
        raise FcclipError(
            f"the processes of this run do not come together ({first_line(error)}); the environment says {values}. "
            "Start with torchrun, or unset RANK to run alone"
        ) from error
    try:
        with watched(device):
            yield device
    finally:
        dist.destroy_process_group()


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    """True in the one process that writes files and talks."""
    return rank() == 0


def sum_over_workers(values: Tensor) -> Tensor:
    """Sum of each number over all processes; `values` is not changed."""
    if world_size() == 1:
        return values
    values = values.clone()
    dist.all_reduce(values)
    return values


def wait_for_all() -> None:
    """Returns when every process is here."""
    if world_size() > 1:
        dist.barrier()
