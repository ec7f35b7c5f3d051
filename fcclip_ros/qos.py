"""QoS profiles."""

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
"""Outputs of a frame: only the latest one is relevant, and it should arrive."""

LATCHED = _reliable(1, DurabilityPolicy.TRANSIENT_LOCAL)
"""State that late-joining subscribers receive too, such as the vocabulary."""

REQUESTS = _reliable(4000)
"""Services and actions: a request that does not fit into the queue is never answered."""

IMAGE_REQUESTS = _reliable(32)
"""Services whose requests contain images of many megabytes."""

DIAGNOSTICS = _reliable(10)

TRANSFORMS = _reliable(100)
"""As used by tf2's broadcasters on /tf."""

RELIABILITIES = ("auto", "reliable", "best_effort")


def image_profile(
    reliability: ReliabilityPolicy, durability: DurabilityPolicy = DurabilityPolicy.VOLATILE, depth: int = 1
) -> QoSProfile:
    """Profile of a camera topic, for publishers and subscriptions: the latest `depth` frames."""
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=reliability, durability=durability)


def choose_durability(offered: Iterable[DurabilityPolicy]) -> DurabilityPolicy:
    """The durability of a subscription that is compatible with every publisher.

    Args:
        offered: Durability of each publisher of the topic.

    Returns:
        TRANSIENT_LOCAL, to receive latched messages, if there is a publisher and all offer it; otherwise VOLATILE,
        which is compatible with any publisher.
    """
    latched = set(offered) == {DurabilityPolicy.TRANSIENT_LOCAL}
    return DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE


def choose_reliability(requested: str, offered: Iterable[ReliabilityPolicy]) -> ReliabilityPolicy:
    """The reliability of a subscription that is compatible with every publisher, unless it is set explicitly.

    Args:
        requested: One of `RELIABILITIES`; "auto" matches the publishers, as rosbag2 does.
        offered: Reliability of each publisher of the topic.

    Returns:
        RELIABLE if requested, or for "auto" if there is a publisher and all offer it; otherwise BEST_EFFORT, which is
        compatible with any publisher.
    """
    reliable = set(offered) == {ReliabilityPolicy.RELIABLE} if requested == "auto" else requested == "reliable"
    return ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
