"""What this machine's processor can do."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path


@functools.cache
def features() -> frozenset[str]:
    """Names of instruction sets, as Linux lists them; empty where it cannot be asked."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, values = line.partition(":")
            if name.strip().lower() in ("flags", "features"):
                return frozenset(values.split())
    return frozenset()


def has_bfloat16() -> bool:
    """Whether it multiplies bfloat16 in hardware; emulated, it is slower than float32."""
    return not features().isdisjoint(("avx512_bf16", "amx_bf16", "bf16"))
