"""Stamps of messages."""

from __future__ import annotations

from typing import Any


def nanoseconds(stamp: Any) -> int:
    """A builtin_interfaces/Time, ROS's own or a bag reader's, in nanoseconds."""
    return stamp.sec * 1_000_000_000 + stamp.nanosec
