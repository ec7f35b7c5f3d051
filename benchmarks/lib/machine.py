"""What a measurement was made on: part of every recorded result."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from benchmarks import ROOT


def describe() -> dict[str, Any]:
    """Hardware, software, load and the commit that ran, as JSON-ready values."""
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "commit": _commit(),
    }


def headline(machine: dict[str, Any]) -> str:
    """A human-readable line."""
    device = machine["gpu"] or f"{machine['cpu']}, {machine['cores']} cores"
    return (
        f"{device}; torch {machine['torch']} ({machine['cpu_capability']}), {machine['torch_threads']} threads; "
        f"load {machine['load_average'][0]} at start; commit {machine['commit']}"
    )


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model")))
    return next(names, platform.processor() or platform.machine())


def _commit() -> str:
    """Short hash of the checkout, marked where tracked files differ from it; empty outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip()
