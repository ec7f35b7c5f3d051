"""What a captured graph needs of its surroundings, with CUDA played."""

from __future__ import annotations

import contextlib
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fcclip_core.kernels import cuda_graph
from fcclip_core.kernels.cuda_graph import WARM_UP_RUNS, CapturedWork


class Work:
    """Reads a tensor that nobody else holds, as a compiled network reads its folded constants."""

    def __init__(self) -> None:
        self.constant = torch.ones(3)
        self.runs = 0

    def __call__(self) -> torch.Tensor:
        self.runs += 1
        # The first runs may compile for a minute, in which other threads must be able to capture; not so the last.
        assert cuda_graph._one_at_a_time.locked() == (self.runs > WARM_UP_RUNS)
        return self.constant * 2


def test_work_is_kept_as_long_as_its_graph(monkeypatch: pytest.MonkeyPatch, no_collector: None) -> None:
    # A replay reads the memory that the work read when it was captured.
    replays: list[str] = []
    stream = SimpleNamespace(wait_stream=lambda other: None)

    def capture(graph: Any, *, stream: Any, capture_error_mode: str) -> contextlib.AbstractContextManager[None]:
        # Words may be encoded on the GPU by another thread while a graph is captured.
        assert capture_error_mode == "thread_local"
        return contextlib.nullcontext()

    stand_ins = {
        "CUDAGraph": lambda: SimpleNamespace(replay=lambda: replays.append("replay")),
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "device": lambda device: contextlib.nullcontext(),
        "stream": lambda one: contextlib.nullcontext(),
        "graph": capture,
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    work = Work()
    captured, constant = CapturedWork(work, torch.device("cuda")), weakref.ref(work.constant)
    assert work.runs == WARM_UP_RUNS + 1
    del work
    assert constant() is not None
    captured.replay()
    assert replays == ["replay"]
    assert captured.output.tolist() == [2, 2, 2]
