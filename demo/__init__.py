"""`make demo`: a robot drives through a simulated house, its camera is labeled, and what came out is checked."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The checkout."""
