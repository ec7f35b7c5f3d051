"""Quality of service, all profiles in one place."""

from __future__ import annotations

from collections.abc import Iterable

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy


def _reliable(depth: int, durability: DurabilityPolicy = DurabilityPolicy.VOLATILE) -> QoSProfile:
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=durability,
    )


OUTPUT = _reliable(1)
"""What belongs to one frame: only the newest counts, and it should arrive."""

LATCHED = _reliable(1, DurabilityPolicy.TRANSIENT_LOCAL)
"""What stays true until it is published again: whoever comes later gets it too."""

REQUESTS = _reliable(4000)
"""Requests that wait to be looked at: one beyond these is never answered."""

IMAGE_REQUESTS = _reliable(32)
"""Likewise, of requests that carry an image of many megabytes each."""

DIAGNOSTICS = _reliable(10)

TRANSFORMS = _reliable(100)
"""What tf2's broadcasters use on /tf."""

RELIABILITIES = ("auto", "reliable", "best_effort")


def image_profile(
    reliability: ReliabilityPolicy, durability: DurabilityPolicy = DurabilityPolicy.VOLATILE
) -> QoSProfile:
    """Profile of a camera topic, for its publisher or subscriber: the newest frame alone."""
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=reliability, durability=durability)


def choose_durability(offered: Iterable[DurabilityPolicy]) -> DurabilityPolicy:
    """The durability to subscribe with, so that every publisher is heard.

    Args:
        offered: What each publisher of the topic offers.

    Returns:
        TRANSIENT_LOCAL, with which a latched message from before arrives, if every publisher offers it and there is
        one. Else VOLATILE, which any publisher can serve.
    """
    offered = list(offered)
    everybody = bool(offered) and all(policy == DurabilityPolicy.TRANSIENT_LOCAL for policy in offered)
    return DurabilityPolicy.TRANSIENT_LOCAL if everybody else DurabilityPolicy.VOLATILE


def choose_reliability(wanted: str, offered: Iterable[ReliabilityPolicy]) -> ReliabilityPolicy:
    """The reliability to subscribe with, so that every publisher is heard.

    Args:
        wanted: One of `RELIABILITIES`; "auto" follows the publishers, as rosbag2 does.
        offered: What each publisher of the topic offers.

    Returns:
        RELIABLE if that is wanted, or if every publisher offers it and there is one. Else BEST_EFFORT, which any
        publisher can serve.
    """
    if wanted == "auto":
        offered = list(offered)
        everybody = bool(offered) and all(policy == ReliabilityPolicy.RELIABLE for policy in offered)
        return ReliabilityPolicy.RELIABLE if everybody else ReliabilityPolicy.BEST_EFFORT
    return ReliabilityPolicy.RELIABLE if wanted == "reliable" else ReliabilityPolicy.BEST_EFFORT
