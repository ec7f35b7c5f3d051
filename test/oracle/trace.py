"""What happened in one run of the oracle: tensors by name, wall and CPU seconds by stage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch


@dataclass
class Trace:
    """Collects a run's intermediate results.

    Attributes:
        keep: Whether `note` keeps tensors; off for timing.
        tensors: Noted tensors, named as in test/reference/spec.json, `arrays`.
        wall: Wall seconds by stage.
        cpu: CPU seconds by stage, summed over threads.
    """

    keep: bool = True
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    wall: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)

    def note(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Keeps `tensor` under `name` and hands it through."""
        if self.keep:
            self.tensors[name] = tensor
        return tensor

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time of the block to stage `name`; stages may nest, an inner one is part of its outer one."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall[name] = self.wall.get(name, 0.0) + time.perf_counter() - wall
        self.cpu[name] = self.cpu.get(name, 0.0) + time.process_time() - cpu
