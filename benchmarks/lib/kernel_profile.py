"""Which kernels a piece of work runs on a GPU, how long each takes, and what the host asks of CUDA meanwhile."""

from __future__ import annotations

import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

MOST_KERNELS = 40
_ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")


def profile(work: Callable[[], Any], device: torch.device, runs: int = 3) -> dict[str, Any]:
    """Profiles `work`, which has been warmed up.

    Args:
        work: Launches the same every time; need not wait.
        device: A GPU, or a processor, on which there are no kernels to see.
        runs: Times to run it; all counts are for one.

    Returns:
        kernels: number of kernels and copies; busy_us: their time; span_us: from the first to the end of the last;
        runtime_calls: name of a CUDA call -> how often; top: the `MOST_KERNELS` that take most, each with name, calls,
        us and registers.
    """
    on_gpu = device.type == "cuda"
    activities = [torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] if on_gpu else [])]
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(runs):
            work()
        if on_gpu:
            torch.cuda.synchronize(device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    return summarize(events, runs)


def summarize(events: list[dict[str, Any]], runs: int) -> dict[str, Any]:
    """What `profile` returns, of a trace of `runs` runs in Chrome's format, whose last run is looked at."""
    kernels = sorted((event for event in events if event.get("cat") in _ON_DEVICE), key=lambda event: event["ts"])
    last = kernels[len(kernels) - len(kernels) // runs :]
    sums: dict[str, list[float]] = defaultdict(lambda: [0, 0.0, 0])
    for kernel in last:
        row = sums[kernel["name"][:120]]
        row[0] += 1
        row[1] += kernel["dur"]
        row[2] = kernel.get("args", {}).get("registers per thread") or 0
    calls = Counter(event["name"] for event in events if event.get("cat") == "cuda_runtime")
    top = sorted(sums.items(), key=lambda item: -item[1][1])[:MOST_KERNELS]
    return {
        "kernels": len(last),
        "busy_us": round(sum(kernel["dur"] for kernel in last), 1),
        "span_us": round(last[-1]["ts"] + last[-1]["dur"] - last[0]["ts"], 1) if last else 0.0,
        "runtime_calls": {name: round(count / runs, 2) for name, count in sorted(calls.items())},
        "top": [
            {"name": name, "calls": int(count), "us": round(spent, 1), "registers": int(registers)}
            for name, (count, spent, registers) in top
        ],
    }
