"""Where things are in the checkout."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The checkout."""

REFERENCE = ROOT / "test" / "reference"
"""Numbers that the authors' code made."""
