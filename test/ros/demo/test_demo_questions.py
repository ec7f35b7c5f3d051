"""What the demo asks its memory, and how it compares the answers with the truth, by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from demo.frames import Frame, SegmentList, TruthRow
from demo.map_labels import free_place
from demo.map_picture import draw_map
from demo.memory_report import memory_section
from demo.peer import Peer
from demo.questions import Asked, choose_questions, keep_out
from demo.recall import MemoryWatcher, Recalled, Remembered, problems_of
from demo.truth import TrueThing, things_of_recording, things_of_rooms
from fcclip_core.simulation.bundled_drive import bundled_drive


def thing(name: str, room: int = 0, x: float = 0.0) -> TrueThing:
    return TrueThing(name, room, np.array([30.0 * room + x, 0.0, 0.2]), 0.3)


def remembered(x: float) -> Remembered:
    place = np.array([x, 0.0, 0.2])
    return Remembered(1, "ring", place, place, np.full(3, 0.3))


def recalled(asked: Asked, x: float | None, shown_in: int = 9) -> Recalled:
    return Recalled(asked, asked.words, None if x is None else remembered(x), 2.0, 0.9, b"", shown_in)


@pytest.fixture(scope="module")
def memory() -> MemoryWatcher:
    with Peer("questions_test") as peer:
        return MemoryWatcher(peer)


def test_kept_out_are_names_that_one_thing_has_and_rare_looks_come_first() -> None:
    things = [thing("red ball"), thing("red cone"), thing("blue box", x=2), thing("green mug", x=1), thing("red box")]
    things += [thing("green mug", 1), thing("white star", 1)]
    words = [asked.words for asked in keep_out(things)]
    assert words[0] == "blue box", "the only blue one of its room, and the green mug has a double elsewhere"
    assert "green mug" not in words and "white star" in words
    assert words[-1] == "red mug" and keep_out(things)[-1].thing is None


def test_what_is_nowhere_is_really_nowhere() -> None:
    there = [thing("red mug"), thing("blue star")]
    assert keep_out(there)[-1].words == "green cone"


def test_most_shown_things_are_asked_and_first_from_different_rooms() -> None:
    kept_out = keep_out([thing("red ball"), thing("blue box"), thing("white star", 1), thing("black mug", 1)])
    shown = {"red ball": 9, "blue box": 8, "black mug": 2}
    words = [asked.words for asked in choose_questions(kept_out, shown)]
    assert words == ["red ball", "black mug", "blue box", "red mug"]


def test_answer_is_right_at_the_place_and_none_is_right_for_what_is_nowhere() -> None:
    there, nowhere = Asked("red ball", thing("red ball")), Asked("red mug", None)
    assert recalled(there, 0.29).is_right and recalled(there, 0.29).distance == pytest.approx(0.29)
    assert not recalled(there, 0.31).is_right
    assert not recalled(there, None).is_right
    assert recalled(nowhere, None).is_right and not recalled(nowhere, 0.0).is_right


def test_one_wrong_answer_is_tolerated_two_are_problems_and_an_invented_one_always_is() -> None:
    there, nowhere = Asked("red ball", thing("red ball")), Asked("red mug", None)
    right, wrong, unknown = recalled(there, 0.0), recalled(there, 5.0), recalled(there, 5.0, shown_in=2)
    assert problems_of([right, wrong, unknown, recalled(nowhere, None)]) == []
    assert len(problems_of([wrong, wrong, recalled(nowhere, None)])) == 2
    (said,) = problems_of([right, right, right, recalled(nowhere, 0.0)])
    assert "nothing of that name is there" in said


def test_thing_counts_as_segmented_if_one_segment_covers_it_and_little_else(memory: MemoryWatcher) -> None:
    truth, panoptic = np.zeros((20, 40), np.uint16), np.zeros((20, 40), np.uint16)
    truth[:10, :10], truth[:10, 20:30], truth[15:, :5] = 1, 2, 3
    panoptic[:10, :8] = 7  # IoU 0.8
    panoptic[:, 20:36] = 8  # 100 of 320 pixels
    panoptic[15:, :5] = 9  # 25 pixels: too few
    frame = Frame(truth_map=truth, truth=(TruthRow(1, "red ball"), TruthRow(2, "blue box"), TruthRow(3, "white star")))
    frame.labels |= {"panoptic": panoptic, "segments": SegmentList(1, 20, 40, ())}
    memory.shown.clear()
    memory.note(frame)
    assert dict(memory.shown) == {"red ball": 1}


def test_truth_of_a_recording_is_where_its_scene_has_the_things() -> None:
    pytest.importorskip("mujoco")
    from fcclip_core.simulation.drive import make_drive

    scene = make_drive(21).scene  # the seed that docs/reference/world.md names
    names = [item.name for item in scene.items if item.is_thing]
    true = dict(zip(names, scene.objects, strict=True))
    found = things_of_recording(bundled_drive())
    assert len(found) == 12 and {item.name for item in found} <= true.keys()
    for item in found:
        assert np.linalg.norm(item.position - true[item.name].position) < 0.03, item


def test_rooms_of_the_truth_lie_where_the_camera_sees_them() -> None:
    pytest.importorskip("mujoco")
    things = things_of_rooms(3, 2)
    assert {item.room for item in things} == {0, 1}
    for item in things:
        assert abs(item.position[0] - 30.0 * item.room) < 5


def test_report_and_map_show_every_question(tmp_path: Path, memory: MemoryWatcher) -> None:
    things = [thing("red ball"), thing("blue box", 1)]
    kept_out = [Asked(item.name, item) for item in things] + [Asked("red mug", None)]
    memory.path, memory.objects = [np.array([x, 1.0, 1.0]) for x in (0.0, 0.2, 30.0)], [remembered(0.1)]
    answers = [recalled(kept_out[0], 0.1), recalled(kept_out[1], None), recalled(kept_out[2], None)]
    text = "\n".join(memory_section(tmp_path, kept_out, memory, answers, judged=True))
    assert "| `red ball` | ring (object 1) | (0.10, 0.00, 0.20) | 10 cm | 2 s ago | 9 frames | 0.90 |" in text
    assert "`blue box`" in text and "nothing of that name is there" in text
    draw_map(tmp_path / "map.png", things, memory, answers)
    with Image.open(tmp_path / "map.png") as drawn:
        colors = {color for _, color in drawn.convert("RGB").getcolors(1 << 20) or []}
    assert (214, 39, 40) in colors, "the answer is pointed out"


def test_label_stays_inside_and_off_other_boxes() -> None:
    box, inside = (40.0, 40.0, 60.0, 60.0), (0.0, 0.0, 100.0, 100.0)
    above, below = (30.0, 20.0, 70.0, 40.0), (30.0, 60.0, 70.0, 80.0)
    assert free_place((20, 10), box, [box], inside) == (40, 30)
    assert free_place((20, 10), box, [box, above], inside) == (40, 60)
    assert free_place((20, 10), box, [box, above, below], inside) == (64, 45)
    assert free_place((20, 10), (90, 0, 100, 10), [], inside) == (80, 0)
