"""Several processes that work on one thing, as `torchrun` starts them; all functions also serve a process alone."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from fcclip_core import torchrun
from fcclip_core.devices import watched
from fcclip_core.errors import FcclipError
from fcclip_core.quoting import first_line

Part = TypeVar("Part")

_POLLED = 0.1
"""Seconds between two looks for a value. The store's own waiting would hold signals back."""


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
    if not torchrun.is_started_by_torchrun() or dist.is_initialized():
        with watched(device):
            yield device
        return
    device = own_device(device)
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except (ValueError, RuntimeError) as error:
        raise _apart(error) from error
    try:
        with watched(device):
            yield device
    finally:
        dist.destroy_process_group()


def own_device(device: torch.device) -> torch.device:
    """The device of this process: "cuda" without a number becomes the GPU with the process's number on its machine.

    Raises:
        FcclipError: The environment names no GPU.
    """
    if device.type != "cuda" or device.index is not None or not torchrun.is_started_by_torchrun():
        return device
    device = torch.device("cuda", torchrun.local_rank())
    torch.cuda.set_device(device)
    return device


class SharedStore:
    """Values that the processes of a run share, in torch.distributed's store: nobody has to wait for anybody.

    Collective operations would not do: where one process works for hours, those that wait for it time out.
    """

    def __init__(self, store: Store) -> None:
        """Wraps a store that all processes of the run use."""
        self._store = store

    @classmethod
    def joined(cls) -> SharedStore:
        """Joins the other processes, which `torchrun` must have started.

        Raises:
            FcclipError: They do not come together.
        """
        try:
            store, *_ = next(iter(rendezvous("env://")))
        except (ValueError, RuntimeError, OSError) as error:
            raise _apart(error) from error
        return cls(store)

    def section(self, name: str) -> SharedStore:
        """A part of the store for values of its own: where `torchrun` starts processes again, the store stays."""
        return SharedStore(PrefixStore(name, self._store))

    def count(self, name: str) -> int:
        """0 for the first call with this name in any process, then 1, 2 and so on, each once."""
        with _in_touch():
            return int(self._store.add(name, 1)) - 1

    def put(self, name: str, value: Any) -> None:
        """Sets a value, which JSON must be able to hold."""
        with _in_touch():
            self._store.set(name, json.dumps(value))

    def find(self, name: str) -> Any:
        """The value of this name; None if there is none yet."""
        with _in_touch():
            return json.loads(self._store.get(name)) if self._store.check([name]) else None

    def take(self, name: str) -> Any:
        """As `find`, and removes the value."""
        value = self.find(name)
        if value is not None:
            with _in_touch():
                self._store.delete_key(name)
        return value

    def wait_for(self, name: str) -> Any:
        """The value of this name, as soon as a process sets it."""
        while (value := self.find(name)) is None:
            time.sleep(_POLLED)
        return value


@contextlib.contextmanager
def _in_touch() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise FcclipError(
            f"the processes of this run have lost touch with each other ({first_line(error)}); start the command again "
            "to go on"
        ) from error


def _apart(error: Exception) -> FcclipError:
    return FcclipError(
        f"the processes of this run do not come together ({first_line(error)}); the environment says "
        f"{torchrun.described()}. Start with torchrun, or unset RANK to run alone"
    )


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


def gathered(part: Part) -> list[Part] | None:
    """What each process has, in the order of their numbers, in the first process; None in the others."""
    if world_size() == 1:
        return [part]
    parts: list[Any] | None = [None] * world_size() if is_first() else None
    dist.gather_object(part, parts)
    return parts


def wait_for_all() -> None:
    """Returns when every process is here."""
    if world_size() > 1:
        dist.barrier()
