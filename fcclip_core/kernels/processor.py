"""Capabilities of this machine's CPU."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path


@functools.cache
def features() -> frozenset[str]:
    """Names of the CPU's features as Linux lists them; empty if unavailable."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, values = line.partition(":")
            if name.strip().lower() in ("flags", "features"):
                return frozenset(values.split())
    return frozenset()


def has_bfloat16() -> bool:
    """Whether the CPU has bfloat16 instructions; emulated bfloat16 is slower than float32."""
    return not features().isdisjoint(("avx512_bf16", "amx_bf16", "bf16"))
