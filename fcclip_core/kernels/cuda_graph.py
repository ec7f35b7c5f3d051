"""Captures work on fixed memory as a CUDA graph: one launch instead of one per kernel."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch

_Output = TypeVar("_Output")

WARM_UP_RUNS = 3

ATTEMPTS = 3
"""Capture attempts before giving up: another thread's CUDA calls can invalidate a capture."""

_one_at_a_time = threading.Lock()
"""torch synchronizes the device before a capture, which must not happen while another thread captures."""


@contextmanager
def capturing(graph: torch.cuda.CUDAGraph, stream: torch.cuda.Stream) -> Iterator[None]:
    """Captures the work launched inside on `stream` into `graph`; anything that compiles must have run before."""
    # Another thread may encode words on this GPU: its calls must not invalidate the capture.
    with _one_at_a_time, torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        yield


class CapturedWork(Generic[_Output]):
    """A captured function; replays read and write the same memory.

    Attributes:
        output: The function's return value at capture; replays overwrite its tensors.
    """

    def __init__(self, work: Callable[[], _Output], device: torch.device) -> None:
        """Runs `work` a few times, so that everything is compiled and selected, and then captures it.

        Args:
            work: Must not synchronize with the GPU. It is kept alive together with the tensors that replays read.
            device: The GPU.

        Raises:
            RuntimeError: The work fails or cannot be captured.
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
