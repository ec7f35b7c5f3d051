"""What counts as an image's time."""

from __future__ import annotations

import pytest

from fcclip_core.commands.evaluate import FPS_RULES
from fcclip_core.evaluation import timing
from fcclip_core.evaluation.timing import SEGMENTS, TABLE_4, TIME_RULES

STAGES = {"preprocess": 1.0, "model": 2.0, "classify": 4.0, "merge": 8.0}


class Result:
    """A decoded image whose further outputs take a known time."""

    timings = STAGES

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._now = 0.0
        monkeypatch.setattr(timing, "perf_counter", lambda: self._now)

    def _taking(self, seconds: float) -> None:
        self._now += seconds

    def semantic_map(self) -> None:
        self._taking(16)

    def instances(self) -> None:
        self._taking(32)


@pytest.mark.parametrize(
    ("rule", "is_panoptic", "seconds"),
    [
        (SEGMENTS, True, 1 + 2 + 4 + 8),
        (SEGMENTS, False, 1 + 2 + 4 + 8),
        (TABLE_4, True, 2 + 4 + 8 + 16 + 32),
        (TABLE_4, False, 2 + 4 + 8 + 16),
    ],
)
def test_stages_and_outputs_that_count(
    rule: str, is_panoptic: bool, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert TIME_RULES[rule].seconds(Result(monkeypatch), is_panoptic) == seconds  # type: ignore[arg-type]


def test_the_command_offers_every_rule() -> None:
    assert tuple(TIME_RULES) == FPS_RULES
