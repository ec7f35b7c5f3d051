"""Segment ids and names that persist, on masks drawn by hand."""

from __future__ import annotations

import gc
import logging
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from fcclip_core.evidence import FrameEvidence
from fcclip_core.inference.preprocess import FrameGeometry
from fcclip_core.results import PanopticResult, Segment
from fcclip_core.segments.tracking import Tracker
from fcclip_core.segments.voting import FORGETTING
from fcclip_core.settings import InferenceSettings

RED, GREEN, BLUE = np.eye(3, dtype=np.float32)
Box = tuple[int, int, int, int]


def frame(*things: tuple[Box, np.ndarray], size: tuple[int, int] = (120, 160), class_id: int = 1) -> PanopticResult:
    """A result with rectangles, each with an embedding; ids 1, 2, ... as they come from the network."""
    return scene([(box, look, class_id, True) for box, look in things], size)


def scene(parts: list[tuple[Box, np.ndarray, int, bool]], size: tuple[int, int] = (120, 160)) -> PanopticResult:
    segment_map, segments = np.zeros(size, np.int32), []
    for number, (box, look, class_id, is_thing) in enumerate(parts, 1):
        x_min, y_min, x_max, y_max = box
        segment_map[y_min:y_max, x_min:x_max] = number
        area = (x_max - x_min) * (y_max - y_min)
        segments.append(Segment(number, class_id, f"class {class_id}", 0.9, is_thing, area, box, look))
    return PanopticResult(segment_map, segments, 1, {})


def ids(result: PanopticResult) -> dict[Box, int]:
    """Box -> id; the map must say the same as the segments."""
    assert set(np.unique(result.segment_map)) - {0} == {segment.id for segment in result.segments}
    for segment in result.segments:
        x_min, y_min, x_max, y_max = segment.box
        assert (result.segment_map[y_min:y_max, x_min:x_max] == segment.id).all()
    assert [segment.id for segment in result.segments] == sorted(segment.id for segment in result.segments)
    return {segment.box: segment.id for segment in result.segments}


LEFT, RIGHT = (10, 40, 40, 80), (100, 40, 130, 80)


def moved(box: Box, x: int, y: int = 0) -> Box:
    return (box[0] + x, box[1] + y, box[2] + x, box[3] + y)


def test_things_keep_their_ids_while_they_move_and_the_network_reorders_them() -> None:
    tracker = Tracker()
    first = ids(tracker.update(frame((LEFT, RED), (RIGHT, GREEN))))
    assert first == {LEFT: 1, RIGHT: 2}
    for step in range(1, 8):
        left, right = moved(LEFT, 5 * step), moved(RIGHT, -2 * step)
        assert ids(tracker.update(frame((right, GREEN), (left, RED)))) == {left: 1, right: 2}


def test_looks_decide_where_places_do_not() -> None:
    tracker = Tracker()
    # Two things that touch swap places between two frames.
    tracker.update(frame(((40, 40, 60, 60), RED), ((60, 40, 80, 60), GREEN)))
    found = ids(tracker.update(frame(((52, 40, 72, 60), RED), ((32, 40, 52, 60), GREEN))))
    assert found == {(52, 40, 72, 60): 1, (32, 40, 52, 60): 2}


def test_all_are_matched_together_not_one_by_one() -> None:
    tracker = Tracker()
    tracker.update(frame(((40, 40, 60, 60), RED), ((54, 61, 74, 81), RED)))
    # The second new box overlaps the first old one a little; the first new one lies on it better.
    found = ids(tracker.update(frame(((50, 61, 70, 81), RED), ((42, 40, 62, 60), RED))))
    assert found == {(42, 40, 62, 60): 1, (50, 61, 70, 81): 2}


def test_a_thing_that_changes_its_name_but_not_its_place_is_the_same() -> None:
    tracker = Tracker()
    tracker.update(frame((LEFT, RED), class_id=1))
    assert ids(tracker.update(frame((moved(LEFT, 2), RED), class_id=7))) == {moved(LEFT, 2): 1}


def test_a_newcomer_gets_a_new_id() -> None:
    tracker = Tracker()
    tracker.update(frame((LEFT, RED)))
    assert ids(tracker.update(frame((LEFT, RED), (RIGHT, RED)))) == {LEFT: 1, RIGHT: 2}


def test_another_thing_in_an_old_place_is_not_the_old_one() -> None:
    tracker = Tracker()
    tracker.update(frame((LEFT, RED)))
    for _ in range(4):
        tracker.update(frame())
    assert ids(tracker.update(frame((LEFT, GREEN), class_id=2))) == {LEFT: 2}


@pytest.mark.parametrize(("missing", "expected"), [(1, 1), (5, 1), (6, 2)])
def test_a_thing_comes_back_until_it_is_given_up(missing: int, expected: int) -> None:
    tracker = Tracker(lost_frames=5)
    tracker.update(frame((LEFT, RED)))
    for _ in range(missing):
        tracker.update(frame())
    assert ids(tracker.update(frame((moved(LEFT, 12), RED)))) == {moved(LEFT, 12): expected}


def test_frames_that_were_dropped_leave_room_for_a_jump() -> None:
    tracker = Tracker()
    tracker.update(frame((LEFT, RED), (RIGHT, GREEN)))
    # Three frames' way at once: the masks do not touch any more, but look and place fit.
    found = ids(tracker.update(frame((moved(LEFT, 33), RED), (moved(RIGHT, 25), GREEN))))
    assert found == {moved(LEFT, 33): 1, moved(RIGHT, 25): 2}


def test_the_camera_may_change_its_resolution() -> None:
    tracker = Tracker()
    tracker.update(frame((LEFT, RED), (RIGHT, RED)))
    double = {box: (2 * box[0], 2 * box[1], 2 * box[2], 2 * box[3]) for box in (LEFT, RIGHT)}
    found = ids(tracker.update(frame((double[RIGHT], RED), (double[LEFT], RED), size=(240, 320))))
    assert found == {double[LEFT]: 1, double[RIGHT]: 2}


def test_things_too_small_for_the_comparison_are_followed_too() -> None:
    tracker = Tracker()
    size, speck = (960, 1280), (641, 481, 643, 483)
    assert ids(tracker.update(frame((speck, RED), size=size))) == {speck: 1}
    assert ids(tracker.update(frame((moved(speck, 3), RED), size=size))) == {moved(speck, 3): 1}


def test_stuff_keeps_one_id_for_each_class_for_good() -> None:
    tracker = Tracker(lost_frames=0)
    floor, wall = (0, 60, 160, 120), (0, 0, 160, 60)
    first = ids(tracker.update(scene([(floor, RED, 5, False), (wall, GREEN, 6, False)])))
    assert first == {floor: 1, wall: 2}
    for _ in range(3):
        tracker.update(frame((LEFT, RED)))
    # Where the floor is now says nothing; a thing of the floor's class is no floor.
    below = (10, 70, 40, 100)
    assert ids(tracker.update(scene([(wall, BLUE, 5, False), (below, GREEN, 5, True)]))) == {wall: 1, below: 4}


def test_ids_are_used_up_before_one_comes_again(caplog: pytest.LogCaptureFixture) -> None:
    tracker = Tracker(lost_frames=0)
    floor = (0, 100, 160, 120)
    tracker.update(scene([(floor, RED, 5, False), (LEFT, RED, 1, True)]))
    tracker._next_id = 65_535
    with caplog.at_level(logging.WARNING):
        found = ids(tracker.update(scene([(floor, RED, 5, False), (LEFT, RED, 1, True), (RIGHT, GREEN, 1, True)])))
        assert found == {LEFT: 1, floor: 2, RIGHT: 65_535}
        assert not caplog.records
        # 1 and 2 are still in use.
        more = (60, 5, 80, 25)
        parts = [(floor, RED, 5, False), (LEFT, RED, 1, True), (more, BLUE, 1, True)]
        assert ids(tracker.update(scene(parts)))[more] == 3
    assert [record.message.split(";")[0] for record in caplog.records] == ["all 65535 segment ids were assigned"]


def test_a_frame_without_anything_is_no_trouble() -> None:
    tracker = Tracker()
    assert tracker.update(frame()).segments == []
    zero = np.zeros(3, np.float32)
    assert ids(tracker.update(frame((LEFT, zero)))) == {LEFT: 1}
    assert ids(tracker.update(frame((LEFT, zero)))) == {LEFT: 1}


NAMES = ("cup", "mug", "plate", "floor")
FLOOR = (0, 100, 160, 120)


def voting(*parts: tuple[Box, list[float]], version: int = 1, names: tuple[str, ...] = NAMES) -> PanopticResult:
    """A frame of rectangles with the probabilities of four classes, ids 11 to 14, of which the last one is stuff."""
    table = np.array([row for _, row in parts], np.float32)
    best = table.argmax(1)
    result = scene([(box, RED, 11 + int(index), bool(index != 3)) for (box, _), index in zip(parts, best, strict=True)])
    segments = [
        replace(segment, name=names[index], score=float(row[index]))
        for segment, index, row in zip(result.segments, best, table, strict=True)
    ]
    return replace(
        result, segments=segments, vocabulary_version=version, evidence=evidence_of(table, names, (11, 12, 13, 14))
    )


def evidence_of(table: np.ndarray, names: tuple[str, ...], class_ids: tuple[int, ...]) -> FrameEvidence:
    """A query a segment, and those of nothing before them, as networks have many."""
    empty = np.zeros((5, len(names) + 1), np.float32)
    rows = np.concatenate((empty, np.pad(table, ((0, 0), (0, 1)))))
    return FrameEvidence(
        mask_logits=torch.zeros(len(rows), 1, 1),
        class_probs=torch.from_numpy(rows),
        geometry=FrameGeometry.of(120, 160, InferenceSettings()),
        queries=np.arange(5, len(rows)),
        class_ids=class_ids,
        names=names,
        is_thing=tuple(name != "floor" for name in names),
        top_k=10,
    )


def called(result: PanopticResult) -> dict[Box, tuple[str, int, float]]:
    return {item.box: (item.name, item.class_id, round(item.score, 6)) for item in result.segments}


CUP, MUG = [0.6, 0.3, 0.0, 0.0], [0.4, 0.5, 0.0, 0.0]


def test_a_thing_keeps_its_name_through_a_frame_that_says_otherwise() -> None:
    tracker = Tracker()
    assert called(tracker.update(voting((LEFT, CUP)))) == {LEFT: ("cup", 11, 0.6)}
    result = tracker.update(voting((LEFT, MUG)))
    (thing,) = result.segments
    assert (thing.name, thing.class_id) == ("cup", 11)
    assert thing.score == pytest.approx((FORGETTING * 0.6 + 0.4) / (FORGETTING + 1))
    assert (thing.frame_class_id, thing.frame_score) == (12, pytest.approx(0.5))
    # All that is made of the result says the same.
    assert set(np.unique(result.class_map())) == {0, 11}
    assert result.confidence_map().max() == np.float32(thing.score)
    assert (thing.unvoted().name, thing.unvoted().class_id, thing.unvoted().score) == ("mug", 12, pytest.approx(0.5))


def test_frames_without_the_thing_do_not_count() -> None:
    tracker, plain = Tracker(), Tracker()
    for one in (tracker, plain):
        one.update(voting((LEFT, CUP)))
    for _ in range(20):
        tracker.update(voting((FLOOR, [0.0, 0.0, 0.0, 0.9])))
    assert called(tracker.update(voting((LEFT, MUG)))) == called(plain.update(voting((LEFT, MUG))))


def test_each_thing_has_its_own_votes_whatever_the_order() -> None:
    tracker = Tracker()
    tracker.update(voting((LEFT, CUP), (RIGHT, [0.0, 0.1, 0.8, 0.0])))
    found = called(tracker.update(voting((RIGHT, [0.0, 0.5, 0.4, 0.0]), (FLOOR, [0.2, 0.0, 0.0, 0.7]), (LEFT, MUG))))
    assert found[LEFT] == ("cup", 11, pytest.approx((FORGETTING * 0.6 + 0.4) / (FORGETTING + 1), abs=1e-6))
    assert found[RIGHT] == ("plate", 13, pytest.approx((FORGETTING * 0.8 + 0.4) / (FORGETTING + 1), abs=1e-6))
    assert found[FLOOR] == ("floor", 14, 0.7)


def test_stuff_neither_votes_nor_is_voted() -> None:
    """A thing that is a floor in the mean over its frames, though in none of them, is no floor."""
    tracker = Tracker()
    tracker.update(voting((LEFT, [0.5, 0.0, 0.0, 0.49]), (FLOOR, [0.4, 0.0, 0.0, 0.5])))
    result = tracker.update(voting((LEFT, [0.0, 0.5, 0.0, 0.49]), (FLOOR, [0.0, 0.0, 0.0, 0.6])))
    thing, floor = sorted(result.segments, key=lambda item: item.class_id)
    assert thing.name == "mug"
    assert (floor.score, floor.frame_label) == (pytest.approx(0.6), None)
    assert (floor.frame_class_id, floor.frame_score) == (floor.class_id, floor.score)


def test_a_new_vocabulary_begins_anew_but_ends_no_track() -> None:
    tracker = Tracker()
    for _ in range(10):
        tracker.update(voting((LEFT, CUP)))
    result = tracker.update(voting((LEFT, MUG), version=2))
    assert called(result) == {LEFT: ("mug", 12, 0.5)}
    assert ids(result) == {LEFT: 1}
    # Words for one frame alone have no version; then the names tell.
    tracker.update(voting((LEFT, CUP), version=0))
    found = tracker.update(voting((LEFT, MUG), version=0, names=("tin", "jug", "bowl", "floor")))
    assert called(found) == {LEFT: ("jug", 12, 0.5)}


@pytest.mark.parametrize("seen", [1, 300])
@pytest.mark.parametrize(("lead", "frames"), [(0.9, 4), (0.5, 5), (0.2, 9), (0.1, 11)])
def test_another_object_in_the_same_place_is_renamed_in_time(lead: float, frames: int, seen: int) -> None:
    """As docs/explanation/tracking.md says, however long the first one stood there and however sure the network was."""
    tracker = Tracker()
    for _ in range(seen):
        tracker.update(voting((LEFT, [1.0, 0.0, 0.0, 0.0])))
    names = [tracker.update(voting((LEFT, [0.05, 0.0, 0.05 + lead, 0.0]))).segments[0].name for _ in range(frames + 1)]
    assert names[frames - 1 :] == ["plate"] * 2
    assert names == sorted(names), "it is renamed once"
    if seen > 1:
        assert names[frames - 2] == "cup", "no earlier than it is said"


def test_votes_change_no_id() -> None:
    generator = np.random.default_rng(5)
    with_votes, without = Tracker(lost_frames=2), Tracker(lost_frames=2, votes=False)
    for step in range(30):
        rows = generator.dirichlet(np.full(5, 0.5), 4)[:, :4].astype(np.float32)
        boxes = [moved(box, 3 * step % 20, number) for number, box in enumerate((LEFT, RIGHT, (50, 5, 70, 25), FLOOR))]
        frames = [(box, row.tolist()) for box, row in zip(boxes, rows, strict=True) if generator.random() < 0.8]
        if not frames or sum(row[3] == max(row) for _, row in frames) > 1:
            continue  # no frame has two segments of one stuff class
        result = voting(*frames)
        one, other = with_votes.update(result), without.update(result)
        assert ids(one) == ids(other)
        assert [item.unvoted() for item in one.segments] == other.segments


def test_votes_keep_no_frame_alive() -> None:
    """Its evidence is many megabytes on the GPU."""
    tracker = Tracker()
    result = voting((LEFT, CUP))
    evidence, logits = weakref.ref(result.evidence), weakref.ref(result.evidence.class_probs.untyped_storage())
    shown = tracker.update(result)
    del result, shown
    gc.collect()
    assert evidence() is None and logits() is None
    assert tracker.update(voting((LEFT, MUG))).segments[0].name == "cup"


def test_what_has_no_evidence_keeps_its_own_names() -> None:
    tracker = Tracker()
    tracker.update(voting((LEFT, CUP)))
    found = tracker.update(replace(voting((LEFT, MUG)), evidence=None))
    assert called(found) == {LEFT: ("mug", 12, 0.5)}
    assert ids(found) == {LEFT: 1}


def test_scores_and_classes_go_with_their_segments() -> None:
    table = np.array([[0.7, 0.2], [0.1, 0.8]], np.float32)
    first = frame((LEFT, RED), (RIGHT, GREEN))
    evidence = evidence_of(table, ("red", "green"), (1, 2))
    result = replace(first, evidence=evidence)
    renumbered = result.with_ids([9, 4])
    assert [(segment.id, segment.box) for segment in renumbered.segments] == [(4, RIGHT), (9, LEFT)]
    assert renumbered.probabilities().tolist() == table[::-1].tolist()
    assert (renumbered.class_map() == result.class_map()).all()
    assert [segment.id for segment in result.segments] == [1, 2]
