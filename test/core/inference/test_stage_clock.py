"""Clocks of stages: on a processor by time, on a GPU by events in its queue."""

from __future__ import annotations

import pytest
import torch

from fcclip_core.inference import stage_clock
from fcclip_core.inference.stage_clock import StageClock


def test_stages_are_named_in_order_and_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1.0, 1.5, 3.5])
    monkeypatch.setattr(stage_clock.time, "perf_counter", lambda: next(times))
    clock = StageClock(torch.device("cpu"))
    clock.stage("model")
    clock.stage("merge")
    assert dict(clock) == {"model": 0.5, "merge": 2.0}
    assert list(clock) == ["model", "merge"]
    with pytest.raises(KeyError, match="classify"):
        clock["classify"]


def test_nobody_waits_for_a_gpu_until_somebody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    times = iter([10.0, 12.0, 17.0])

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: str) -> None:
            assert stream == "the frame's"
            self.at = next(times)

        def synchronize(self) -> None:
            waits.append(self.at)

        def elapsed_time(self, later: Event) -> float:
            return later.at - self.at

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "the frame's")
    clock = StageClock(torch.device("cuda"))
    clock.stage("model")
    clock.stage("merge")
    assert waits == []
    assert dict(clock) == {"model": 0.002, "merge": 0.005}
    assert waits == [12.0, 17.0]
