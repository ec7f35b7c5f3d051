"""How often something may happen, by a clock that tests set."""

from __future__ import annotations

import numpy as np
import pytest

from fcclip_ros.node import rate_limit
from fcclip_ros.node.rate_limit import RateLimit


def let_through(limit: RateLimit, times: np.ndarray, rate: float, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The times at which events were due and spent."""
    spent = []
    for now in times.tolist():
        monkeypatch.setattr(rate_limit.time, "monotonic", lambda now=now: now)
        if limit.is_due(rate):
            limit.spend(rate)
            spent.append(now)
    return spent


@pytest.mark.parametrize(("camera", "rate"), [(30.0, 10.0), (30.0, 7.0), (30.0, 29.0), (15.0, 0.5), (60.0, 59.9)])
def test_the_rate_is_kept_on_average_and_never_exceeded(
    camera: float, rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = 100.0
    jitter = np.random.default_rng(1).uniform(-0.4, 0.4, int(seconds * camera))
    times = 1000.0 + (np.arange(len(jitter)) + jitter) / camera
    spent = let_through(RateLimit(), times, rate, monkeypatch)
    assert 0.97 * seconds * rate - 1 <= len(spent) <= seconds * rate + 1.5


def test_a_camera_at_just_the_rate_loses_nothing_to_its_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    times = 1000.0 + (np.arange(500) + np.random.default_rng(2).uniform(-0.2, 0.2, 500)) / 10.0
    assert len(let_through(RateLimit(), times, 10.0, monkeypatch)) >= 498, "one or two until it has been late once"


def test_a_pause_is_not_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = RateLimit()
    let_through(limit, np.array([0.0]), 10.0, monkeypatch)
    assert len(let_through(limit, np.arange(50.0, 51.0, 0.001), 10.0, monkeypatch)) <= 12


def test_a_rate_that_is_raised_does_not_wait_out_the_old_period(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = RateLimit()
    assert let_through(limit, np.array([5.0, 6.0]), 0.01, monkeypatch) == [5.0]
    assert let_through(limit, np.array([6.1]), 5.0, monkeypatch) == [6.1]
