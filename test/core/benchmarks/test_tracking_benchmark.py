"""What the benchmarks of tracking and finding count, on cases worked out by hand, and that they run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gl_here import needs_gl

from checkout import ROOT

sys.path.insert(0, str(ROOT))

from benchmarks.quality.find import Tally, judge  # noqa: E402
from benchmarks.quality.tracking import Sight, exchanges, naming, sight, switches  # noqa: E402
from fcclip_core.results import PanopticResult, Segment  # noqa: E402
from fcclip_core.segments.finding import Found  # noqa: E402
from fcclip_core.simulation.frames import Frame, TruthSegment  # noqa: E402


def segment(number: int, box: tuple[int, int, int, int], name: str = "cup", is_thing: bool = True) -> Segment:
    area = (box[2] - box[0]) * (box[3] - box[1])
    return Segment(number, 1, name, 0.9, is_thing, area, box, np.zeros(2, np.float32))


def truth(*things: tuple[int, str, tuple[int, int, int, int]]) -> Frame:
    """A frame of 8 x 8 pixels."""
    segment_map = np.zeros((8, 8), np.int32)
    for number, _, (x_min, y_min, x_max, y_max) in things:
        segment_map[y_min:y_max, x_min:x_max] = number
    nothing = np.zeros(0)
    segments = tuple(TruthSegment(number, name, name != "floor") for number, name, _ in things)
    return Frame(nothing, segment_map, segments, nothing, nothing, nothing)


def test_a_switch_is_another_id_than_when_the_thing_was_last_found() -> None:
    def seen(*pairs: tuple[int, int, float]) -> Sight:
        things, found = tuple(p[0] for p in pairs), tuple(p[1] for p in pairs)
        return Sight(things, found, np.diag([p[2] for p in pairs]), ("cup",) * len(pairs), ("cup",) * len(pairs))

    drive = [
        seen((7, 1, 0.9), (8, 2, 0.9)),
        seen((7, 1, 0.9), (8, 3, 0.4)),  # 8 is not found: the overlap is too small
        seen((7, 2, 0.9), (8, 1, 0.6)),  # both switch
        seen((8, 1, 0.9)),
        seen((7, 2, 0.9), (8, 1, 0.9)),  # 7 comes back with its last id
    ]
    assert switches(drive) == 2


def test_names_are_compared_with_the_truth_and_with_the_last_time() -> None:
    def seen(*rows: tuple[int, str, str, float]) -> Sight:
        """Rows of a thing's id, its name, what it is called and its overlap; ids of what is found change each time."""
        things, truth, names, overlaps = zip(*rows, strict=True)
        return Sight(things, tuple(range(len(rows))), np.diag(overlaps), truth, names)

    one = [
        seen((7, "cup", "cup", 0.9), (8, "fork", "fork", 0.9)),
        seen((7, "cup", "mug", 0.9), (8, "fork", "spoon", 0.4)),  # 7 changes; 8 is not found
        seen((8, "fork", "fork", 0.9), (9, "cup", "mug", 0.9)),  # 8 is called as when it was last found; 9 is new
        seen((7, "cup", "cup", 0.9)),  # changes back
    ]
    other = [seen((7, "cup", "mug", 0.9))]  # another drive, another thing
    found = naming([one, other])
    assert found["things found"] == 7
    assert found["named rightly (%)"] == pytest.approx(100 * 4 / 7)
    assert found["name changes (%)"] == pytest.approx(100 * 2 / 3)
    assert naming([[]]) == {"things found": 0, "name changes (%)": 0, "named rightly (%)": 0}


def test_an_exchange_lasts_until_the_old_name_is_gone() -> None:
    cup, plate, plate_or_cup = np.array([[0.9, 0.0], [0.0, 0.9], [0.5, 0.4]])
    # After twenty frames four of the other have 1 - 0.8 ** 4 = 59 % of the votes, three have 49 %.
    assert exchanges([[cup] * 20, [plate] * 20]) == {
        "exchanges": 2,
        "frames in the median": 4,
        "frames in 95 %": 4,
        "frames at most": 4,
    }
    assert exchanges([[cup] * 20, [plate] * 19])["exchanges"] == 0, "seen too seldom"
    assert exchanges([[cup] * 20, [plate] * 19 + [plate_or_cup]])["exchanges"] == 1, "called a cup once itself"


def test_only_things_are_followed_and_overlaps_are_those_of_masks() -> None:
    frame = truth((3, "cup", (0, 0, 4, 4)), (9, "floor", (0, 4, 8, 8)))
    segment_map = np.zeros((8, 8), np.int32)
    segment_map[0:4, 2:6] = 5
    segment_map[4:, :] = 6
    parts = [segment(5, (2, 0, 6, 4), "mug"), segment(6, (0, 4, 8, 8), "floor", False)]
    result = PanopticResult(segment_map, parts, 1, {})
    seen = sight(frame, result)
    assert (seen.truth, seen.found) == ((3,), (5,))
    assert (seen.truth_names, seen.found_names) == (("cup",), ("mug",))
    assert seen.overlap == pytest.approx(8 / 24)


def test_an_answer_is_right_if_it_overlaps_a_thing_of_that_name() -> None:
    frame = truth((1, "cup", (0, 0, 4, 4)), (2, "plate", (4, 4, 8, 8)))
    cup = Found(segment(1, (0, 0, 4, 4)), 0.6, np.ones((4, 4), bool))
    plate = Found(segment(2, (4, 4, 8, 8), "plate"), 0.3, np.ones((4, 4), bool))
    cases = {
        "right": ((cup, plate), (1, 1, 1)),
        "another thing first": ((plate, cup), (1, 0, 0)),
        "not segmented": ((plate,), (0, 0, 0)),
        "nothing at all": ((), (0, 0, 0)),
    }
    for name, (found, expected) in cases.items():
        tally = Tally()
        judge(tally, frame, "cup", found, minimum=0.1)
        assert tally.visible == 1
        assert (tally.segmented, tally.right, tally.ranked_first) == expected, name
    tally = Tally()
    judge(tally, frame, "cup", (cup, plate), minimum=0.7)
    assert (tally.right, tally.ranked_first) == (0, 1)


@needs_gl
@pytest.mark.slow
@pytest.mark.parametrize("program", [("find", "--calls", "1", "--absent", "1"), ("tracking",)])
def test_programs_run(program: tuple[str, ...], tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    module = f"benchmarks.quality.{program[0]}"
    command = [sys.executable, "-m", module, *program[1:], "--seeds", "21", "--frames", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ROS_DOMAIN_ID": "97"}
    result = subprocess.run(
        [*command, "--backend", "eager", "--json", str(out)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    found = json.loads(out.read_text())
    if program[0] == "tracking":
        assert found["ways"]["with"]["frames"] == 2
        assert found["exchanges"]["exchanges"] == 0
        assert found["ways"]["with"]["things found"] == found["ways"]["without"]["things found"] > 0
    else:
        assert found["streams"]["world"]["visible"] > 10
        assert found["service"]["known_words_ms"]["p50"] > 0
