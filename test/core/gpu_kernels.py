"""Triton kernels without a GPU: run in Triton's interpreter, compiled for GPUs that are not here.

Triton decides at import whether it interprets, so interpreted tests run in a process of their own.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
HAVE_TRITON = importlib.util.find_spec("triton") is not None
DEVICE = torch.device("cpu" if INTERPRETED or not torch.cuda.is_available() else "cuda")

LAUNCHES = HAVE_TRITON and (INTERPRETED or DEVICE.type == "cuda")
"""Whether kernels can be launched in this process."""

needs_triton = pytest.mark.skipif(not HAVE_TRITON, reason="Triton is not installed")
runs_kernels = pytest.mark.launches_kernels
"""Tests that launch kernels; where this process cannot, those marked `starts_interpreter` have another one run them."""
starts_interpreter = pytest.mark.starts_interpreter

GPUS = (80, 87, 90)
"""Compute capabilities to compile for: A100, Jetson Orin, H100 and H200."""


def interpret(test_file: str) -> None:
    """Runs the tests of `test_file` that launch kernels in Triton's interpreter."""
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "", "-k", "kernel", test_file]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
    assert "passed" in result.stdout, result.stdout
    assert "skipped" not in result.stdout, result.stdout
