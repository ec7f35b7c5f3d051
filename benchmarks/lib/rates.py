"""How to time work on a device, and what the device can do at best: the rates that results are compared with."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any, TypeVar

import torch

_Answer = TypeVar("_Answer")
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def wait(device: torch.device) -> None:
    """Waits until the device has finished all work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(
    work: Callable[..., _Answer], *args: Any, clock: Callable[[], float] = time.perf_counter
) -> tuple[_Answer, float]:
    """What `work(*args)` returns, and the seconds of `clock` that it took."""
    began = clock()
    answer = work(*args)
    return answer, clock() - began


def median_seconds(
    run: Callable[[], Any], device: torch.device, *, repeat: int = 30, warm_up: int = 3, limit_s: float = 5.0
) -> float:
    """Median time of `run` from start to finished result, on an otherwise idle device.

    Args:
        run: The work.
        device: Where it happens.
        repeat: Runs to measure, at most.
        warm_up: Runs before them.
        limit_s: No further run is begun after so many seconds.
    """
    for _ in range(warm_up):
        run()
    wait(device)
    seconds: list[float] = []
    began = time.perf_counter()
    while len(seconds) < repeat and (not seconds or time.perf_counter() - began < limit_s):
        start = time.perf_counter()
        run()
        wait(device)
        seconds.append(time.perf_counter() - start)
    return median(seconds)


def matmul_rate(device: torch.device, precision: str, side: int) -> float:
    """FLOP/s of a product of two square matrices of random numbers; zeros would run faster than real data."""
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(side, side, device=device, generator=generator).to(PRECISIONS[precision]) for _ in range(2))
    return 2 * side**3 / median_seconds(lambda: a @ b, device, repeat=10)


def copy_rates(device: torch.device, mebibytes: int) -> dict[str, float]:
    """Bytes/s: `device`, read and written by a copy on it; on a GPU also `upload` and `download`, pinned memory."""
    size = mebibytes << 20
    source = torch.randint(256, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    rates = {"device": 2 * size / median_seconds(lambda: target.copy_(source), device, repeat=10)}
    if device.type == "cuda":
        host = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        rates["upload"] = size / median_seconds(lambda: target.copy_(host, non_blocking=True), device, repeat=10)
        rates["download"] = size / median_seconds(lambda: host.copy_(source, non_blocking=True), device, repeat=10)
    return rates


def machine_rates(device: torch.device, *, small: bool = False) -> dict[str, dict[str, float]]:
    """Measured limits: `matmul`, FLOP/s by precision, and `copy`, bytes/s.

    Args:
        device: What is measured.
        small: Sizes for a quick look; too small for a GPU.
    """
    on_gpu = device.type == "cuda"
    side = 128 if small else 8192 if on_gpu else 1024
    precisions = PRECISIONS if on_gpu else ("fp32", "bf16")
    matmul = {name: matmul_rate(device, name, side // 2 if name == "fp32" and on_gpu else side) for name in precisions}
    if on_gpu:
        allowed = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = True
        matmul["tf32"] = matmul_rate(device, "fp32", side)
        torch.backends.cuda.matmul.allow_tf32 = allowed
    return {"matmul": matmul, "copy": copy_rates(device, 1 if small else 1024 if on_gpu else 128)}
