"""Explores one kind of input in this process until the time is up: `python explore.py TARGET --seconds S --seed N`."""

from __future__ import annotations

import argparse
import gc
import hashlib
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import targets
from bounds import read_within_bounds
from hypothesis import HealthCheck, Phase, given, seed, settings

SEEDS = Path(__file__).with_name("seeds")
"""Inputs that failed once, a folder a kind."""


def reader(name: str) -> Callable[[bytes], None]:
    """Reads an input of a kind within its bounds, in a folder of its own."""
    target = targets.load(name)

    def read(data: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            read_within_bounds(lambda data: target.read(data, Path(folder)), data)

    return read


def explore(name: str, seconds: float, first_seed: int, current: Path | None = None, examples: int = 25) -> int:
    """Makes inputs of a kind and reads them.

    Args:
        name: The kind.
        seconds: How long; the round that is begun is finished.
        first_seed: Each round of inputs has the next one.
        current: Where the input that is being read lies, for whoever finds this process dead.
        examples: Inputs in a round. Hypothesis keeps them all until it ends, and a checkpoint has 20 MB.

    Returns:
        The number of inputs.

    Raises:
        Exception: What the smallest input that failed raised; it lies in `seeds` from then on.
    """
    read, count, failed = reader(name), 0, b""

    def attempt(data: bytes) -> None:
        nonlocal count, failed
        count += 1
        if current is not None:
            current.write_bytes(data)
        try:
            read(data)
        except BaseException:
            failed = data
            raise

    end, number = time.monotonic() + seconds, first_seed
    while time.monotonic() < end:
        round_ = given(targets.load(name).inputs())(attempt)
        round_ = settings(
            max_examples=examples,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
        )(round_)
        try:
            seed(number)(round_)()
        except BaseException:
            keep(name, failed)
            raise
        gc.collect()  # a few large inputs in cycles are nothing to a collector that counts objects
        number += 1
    return count


def keep(name: str, data: bytes) -> Path:
    """Puts an input where the fast tests read it again."""
    path = SEEDS / name / f"{hashlib.sha256(data).hexdigest()[:12]}.bin"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=targets.NAMES)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--current", type=Path)
    options = parser.parse_args()
    print(explore(options.target, options.seconds, options.seed, options.current))
    sys.exit(0)
