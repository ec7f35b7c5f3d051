"""Programs that measure, each of which prints a table; run them in the checkout: `python -m benchmarks.speed.speed`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The checkout."""

# The baseline is the tests' oracle.
sys.path.append(str(ROOT / "test"))
