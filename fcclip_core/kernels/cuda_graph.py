"""Work on fixed memory as a CUDA graph: one launch instead of one for each kernel."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch

_Output = TypeVar("_Output")

WARM_UP_RUNS = 3

ATTEMPTS = 3
"""How often a capture may fail before it is given up: what another thread does at that moment can spoil one."""

_one_at_a_time = threading.Lock()
"""Before it captures torch waits for the device, which must not be while another thread captures."""


@contextmanager
def capturing(graph: torch.cuda.CUDAGraph, stream: torch.cuda.Stream) -> Iterator[None]:
    """Captures what is launched inside, on `stream`, into `graph`; work that may compile has to have run before."""
    # Words may be encoded on this GPU by another thread meanwhile: its calls must not spoil the capture.
    with _one_at_a_time, torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        yield


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
        with torch.cuda.device(device):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP_RUNS):
                    work()
            torch.cuda.current_stream().wait_stream(stream)
            with capturing(self._graph, stream):
                self.output = work()

    def replay(self) -> None:
        """Launches the work on the current stream; returns at once."""
        self._graph.replay()
