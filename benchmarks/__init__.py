"""Programs that measure, each of which prints a table; run them in the checkout: `python -m benchmarks.speed.speed`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The checkout."""

# The baseline is the tests' oracle, the fake model and the camera with depth are those of the tests of the nodes.
sys.path += [str(ROOT / "test"), str(ROOT / "test" / "ros")]
