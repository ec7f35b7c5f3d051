"""Reliability that follows the publishers, as rosbag2 does."""

from __future__ import annotations

import pytest
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy

from fcclip_ros.qos import LATCHED, OUTPUT, choose_reliability, image_profile

RELIABLE, BEST_EFFORT = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT


@pytest.mark.parametrize(
    ("wanted", "offered", "chosen"),
    [
        ("auto", [], BEST_EFFORT),
        ("auto", [RELIABLE], RELIABLE),
        ("auto", [RELIABLE, RELIABLE], RELIABLE),
        ("auto", [RELIABLE, BEST_EFFORT], BEST_EFFORT),
        ("auto", [BEST_EFFORT], BEST_EFFORT),
        ("reliable", [BEST_EFFORT], RELIABLE),
        ("best_effort", [RELIABLE], BEST_EFFORT),
    ],
)
def test_auto_hears_every_publisher(wanted: str, offered: list[ReliabilityPolicy], chosen: ReliabilityPolicy) -> None:
    assert choose_reliability(wanted, offered) == chosen


def test_outputs_arrive_and_latched_ones_stay() -> None:
    for profile in (OUTPUT, LATCHED):
        assert (profile.depth, profile.reliability) == (1, RELIABLE)
    assert OUTPUT.durability == DurabilityPolicy.VOLATILE
    assert LATCHED.durability == DurabilityPolicy.TRANSIENT_LOCAL
    assert image_profile(BEST_EFFORT).depth == 1
