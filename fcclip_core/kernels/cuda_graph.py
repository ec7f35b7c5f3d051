"""Work on fixed memory as a CUDA graph: one launch instead of one for each kernel."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

import torch

_Output = TypeVar("_Output")

WARM_UP_RUNS = 3

ATTEMPTS = 3
"""How often a capture may fail before it is given up: what another thread does at that moment can spoil one."""

_one_at_a_time = threading.Lock()
"""Before it captures torch waits for the device, which must not be while another thread captures."""


class CapturedWork(Generic[_Output]):
    """What some work launches on a GPU, to be launched again; it reads and writes the same memory every time.

    Attributes:
        output: What the work returned when it was captured; replays overwrite its tensors.
    """

    def __init__(self, work: Callable[[], _Output], device: torch.device) -> None:
        """Runs `work` a few times, so that everything is compiled and chosen, and then captures it.

        Args:
            work: Must not wait for the GPU. It is kept, and with it what it reads: replays read the same memory.
            device: The GPU.

        Raises:
            RuntimeError: Something in it cannot be captured, or fails.
        """
        self._work = work
        self._graph = torch.cuda.CUDAGraph()
        with _one_at_a_time, torch.cuda.device(device):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP_RUNS):
                    work()
            torch.cuda.current_stream().wait_stream(stream)
            # Words may be encoded on this GPU by another thread meanwhile: its calls must not spoil the capture.
            with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
                self.output = work()

    def replay(self) -> None:
        """Launches the work on the current stream; returns at once."""
        self._graph.replay()
