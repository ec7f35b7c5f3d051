"""Measures the time of each stage of a frame without synchronizing with the GPU between stages."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch


class StageClock(Mapping[str, float]):
    """Stage -> seconds, in the order in which the stages ended.

    On a GPU, stages are separated by CUDA events: each is charged with its own work, and only reading a time waits.
    """

    def __init__(self, device: torch.device) -> None:
        """Starts measuring work on `device`."""
        self._device = device
        self._stages: list[str] = []
        self._marks = [self._mark()]

    def stage(self, name: str) -> None:
        """Ends the stage `name`."""
        self._stages.append(name)
        self._marks.append(self._mark())

    def __getitem__(self, stage: str) -> float:
        """Seconds of a stage."""
        if stage not in self._stages:
            raise KeyError(stage)
        index = self._stages.index(stage)
        began, ended = self._marks[index], self._marks[index + 1]
        if isinstance(ended, float):
            return ended - began
        ended.synchronize()
        return began.elapsed_time(ended) / 1e3

    def __iter__(self) -> Iterator[str]:
        """The stages that ended."""
        return iter(self._stages)

    def __len__(self) -> int:
        """Number of stages that ended."""
        return len(self._stages)

    def _mark(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event
