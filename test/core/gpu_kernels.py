"""Triton kernels without a GPU: run in Triton's interpreter, compiled for GPUs that are not here.

Triton decides at import whether it interprets, so interpreted tests run in a process of their own.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from checkout import ROOT

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
HAVE_TRITON = importlib.util.find_spec("triton") is not None
DEVICE = torch.device("cpu" if INTERPRETED or not torch.cuda.is_available() else "cuda")

LAUNCHES = HAVE_TRITON and (INTERPRETED or DEVICE.type == "cuda")
"""Whether kernels can be launched in this process."""

needs_triton = pytest.mark.skipif(not HAVE_TRITON, reason="Triton is not installed")
runs_kernels = pytest.mark.launches_kernels
"""Tests that launch kernels; where this process cannot, those marked `starts_interpreter` have another one run them."""
starts_interpreter = pytest.mark.starts_interpreter

GPUS = (80, 87, 89, 90, 100, 120)
"""Compute capabilities to compile for: A100, Jetson Orin, RTX 40, H100 and H200, B200, RTX 50."""


MOST_SPILLED = 128
"""Bytes a thread that a kernel may keep in memory for want of registers; more is a kernel that does not fit."""


def compile_for(
    capability: int, kernel: Any, types: dict[str, str], constants: dict[str, Any], *, warps: int = 4
) -> tuple[str, int, int]:
    """Compiles a kernel for a GPU that need not be here, whose pointers are aligned as torch's are.

    Args:
        capability: One of `GPUS`.
        kernel: Of `triton.jit`.
        types: Triton's type of each argument that is no constant.
        constants: The others.
        warps: That run a program.

    Returns:
        Its PTX, registers a thread, and bytes a thread that did not fit into registers.
    """
    import triton.backends.nvidia
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    names = kernel.arg_names
    aligned = {(names.index(name),): [["tt.divisibility", 16]] for name, kind in types.items() if kind[0] == "*"}
    signature = {name: types.get(name, "constexpr") for name in names}
    compiled = compile(
        ASTSource(kernel, signature, constants, aligned),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": warps},
    )
    reader = Path(triton.backends.nvidia.__file__).parent / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [str(reader), "-res-usage", file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"REG:(\d+) STACK:(\d+)", said.stdout + said.stderr)
    assert found, said.stdout + said.stderr
    return compiled.asm["ptx"], int(found[1]), int(found[2])


def interpret(*test_files: str) -> None:
    """Runs the tests of files in test/core that launch kernels, in Triton's interpreter."""
    files = [str(ROOT / "test" / "core" / name) for name in test_files]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "launches_kernels", *files]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
    assert "passed" in result.stdout, result.stdout
    assert "skipped" not in result.stdout, result.stdout
