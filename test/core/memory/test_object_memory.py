"""The memory on a world of boxes, where the right answer is known: one object per thing, in its place, while it is."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from box_world import CAMERA, SECOND, Thing, look, pose_at
from hypothesis import given, settings
from hypothesis import strategies as st

from fcclip_core.errors import ObservationError, SettingsError, VocabularyError
from fcclip_core.geometry.segments import SegmentGeometry
from fcclip_core.memory.object_memory import ObjectMemory
from fcclip_core.memory.objects import RememberedObject, State
from fcclip_core.memory.observation import Observation, SeenSegment, pose_covariance
from fcclip_core.memory.settings import MemorySettings

MUG = Thing("mug", (2.0, 0.0, 0.1), (0.12, 0.12, 0.2), look=0)
BOX = Thing("box", (2.0, 0.8, 0.15), (0.3, 0.3, 0.3), look=2)
EYE, TARGET = (0.0, 0.2, 0.9), (2.0, 0.2, 0.1)


def seen(memory: ObjectMemory, *things: Thing, looks: int = 4, eye=EYE, target=TARGET, **options) -> list[int]:
    """Ids of the last of several looks."""
    for number in range(looks):
        outcome = memory.observe(look(things, eye, target, stamp=number * SECOND, seed=number, **options))
    return list(outcome.ids)


def only(memory: ObjectMemory) -> RememberedObject:
    (item,) = memory.objects()
    return item


def test_a_thing_is_confirmed_after_three_looks_and_not_before() -> None:
    memory = ObjectMemory()
    for number, expected in enumerate(([], [], [1])):
        outcome = memory.observe(look([MUG], EYE, TARGET, stamp=number))
        assert outcome.ids == (1,)
        assert list(outcome.confirmed) == expected
    assert [item.name for item in memory.objects()] == ["mug"]


def test_two_sides_of_a_box_are_one_box_of_its_true_size() -> None:
    memory, thing = ObjectMemory(), Thing("crate", (2.0, 0.0, 0.25), (0.5, 0.5, 0.5))
    for angle in np.linspace(0, 2 * math.pi, 12, endpoint=False):
        eye = (2.0 + 1.8 * math.cos(angle), 1.8 * math.sin(angle), 0.9)
        assert memory.observe(look([thing], eye, (2.0, 0.0, 0.25))).ids == (1,)
    crate = only(memory)
    assert crate.position == pytest.approx((2.0, 0.0, 0.25), abs=0.05)
    # The bottom is hidden where the box's own edge covers it.
    assert crate.extents == pytest.approx((0.5, 0.5, 0.5), abs=0.08)


def test_from_one_side_the_center_is_behind_what_is_visible_and_uncertain_along_the_ray() -> None:
    memory, thing = ObjectMemory(), Thing("crate", (2.0, 0.0, 0.5), (0.4, 0.4, 1.0))
    seen(memory, thing, eye=(0.0, 0.0, 0.5), target=(2.0, 0.0, 0.5))
    crate = only(memory)
    assert crate.high[0] == pytest.approx(1.8, abs=0.03)  # the front face
    assert crate.position[0] == pytest.approx(2.0, abs=0.08)
    assert crate.covariance[0, 0] > 2 * crate.covariance[1, 1]


def test_two_mugs_30_cm_apart_are_two_though_they_look_the_same() -> None:
    memory = ObjectMemory()
    second = MUG.at(2.0, 0.3)
    ids = seen(memory, MUG, second, looks=8, depth_noise=0.004)
    assert sorted(ids) == [1, 2]
    # Now one at a time.
    assert memory.observe(look([MUG], EYE, TARGET, unlabeled=[second])).ids == (ids[0],)
    assert memory.observe(look([second], EYE, TARGET, unlabeled=[MUG])).ids == (ids[1],)
    assert len(memory) == 2


def test_one_mug_seen_by_two_cameras_from_opposite_sides_is_one() -> None:
    memory = ObjectMemory()
    for number in range(3):
        memory.observe(look([MUG], EYE, TARGET, stamp=number, camera_name="front"))
        memory.observe(look([MUG], (4.0, 0.0, 0.9), TARGET, stamp=number, camera_name="rear"))
    mug = only(memory)
    assert mug.looks == 6
    assert {view.camera_name for view in mug.views} == {"front", "rear"}


def test_under_two_vocabularies_a_thing_is_one_and_both_names_are_counted() -> None:
    memory = ObjectMemory()
    seen(memory, MUG, words=("mug", "table"))
    seen(memory, replace(MUG, name="cup", tilt=0.3), words=("cup", "plate"))
    mug = only(memory)
    assert {name: count.looks for name, count in mug.names.items()} == {"mug": 4, "cup": 4}
    assert sorted(mug.word_looks.values()) == [4, 4]


def test_what_is_taken_away_is_gone_once_its_place_was_seen_empty() -> None:
    memory = ObjectMemory()
    seen(memory, MUG, BOX, looks=6)
    gone = [number for _ in range(10) for number in memory.observe(look([BOX], EYE, TARGET)).gone]
    assert gone == [1]
    assert [item.name for item in memory.objects()] == ["box"]
    assert [item.name for item in memory.objects([State.GONE])] == ["mug"]


def test_without_negative_evidence_nothing_is_ever_gone() -> None:
    memory = ObjectMemory(MemorySettings(absence=0.0, displaced=0.0, miss=0.0))
    seen(memory, MUG, BOX)
    for _ in range(20):
        assert memory.observe(look([BOX], EYE, TARGET)).gone == ()


@pytest.mark.parametrize(
    ("why", "eye", "target", "hidden_by"),
    [
        ("occluded", EYE, TARGET, [Thing("", (1.2, 0.1, 0.5), (0.1, 1.5, 1.0))]),
        ("out of range", (-9.0, 0.0, 0.9), TARGET, []),
        ("out of view", EYE, (-2.0, 0.0, 0.1), []),
    ],
)
def test_what_cannot_be_seen_is_not_missed(why: str, eye, target, hidden_by) -> None:
    memory = ObjectMemory()
    seen(memory, MUG)
    before = only(memory).log_odds
    for _ in range(20):
        memory.observe(look([], eye, target, unlabeled=hidden_by))
    assert only(memory).log_odds == before, why


def test_unknown_depth_counts_nothing() -> None:
    memory = ObjectMemory()
    seen(memory, MUG)
    empty = look([], EYE, TARGET)
    for depth in (np.full_like(empty.depth, np.nan), np.zeros_like(empty.depth), None):
        memory.observe(replace(empty, depth=depth))
    assert only(memory).log_odds == pytest.approx(min(4 * memory.settings.hit, memory.settings.max_log_odds))


def test_a_thing_that_is_there_but_was_not_segmented_stays() -> None:
    memory = ObjectMemory()
    seen(memory, MUG)
    for _ in range(30):
        memory.observe(look([], EYE, TARGET, unlabeled=[MUG]))
    assert only(memory).name == "mug"


@pytest.mark.parametrize("new_place_first", [True, False])
def test_what_moved_keeps_its_id_if_it_is_the_only_one_of_its_kind(new_place_first: bool) -> None:
    memory, moved = ObjectMemory(), MUG.at(2.0, -1.6)
    seen(memory, MUG, BOX, looks=6)
    memory.name(1, "Ann's mug")
    there = ((0.0, -1.6, 0.9), (2.0, -1.6, 0.1))
    old_place, new_place = ([BOX], EYE, TARGET), ([moved], *there)
    outcomes = []
    for things, eye, target in [new_place, old_place] if new_place_first else [old_place, new_place]:
        outcomes += [memory.observe(look(things, eye, target)) for _ in range(8)]
    assert [number for outcome in outcomes for number in outcome.moved] == [1]
    assert memory.get(1).position[:2] == pytest.approx((2.0, -1.6), abs=0.08)
    assert memory.get(1).own_name == "Ann's mug"
    assert len(memory.objects()) == 2


def test_of_two_candidates_neither_is_what_moved() -> None:
    memory = ObjectMemory()
    seen(memory, MUG, looks=6)
    seen(memory, BOX, MUG.at(1.6, 0.5), MUG.at(2.0, -0.6), looks=12)
    assert memory.get(1).state is State.GONE
    assert len(memory.objects()) == 3


def test_a_thing_that_looks_different_is_not_what_moved() -> None:
    memory = ObjectMemory()
    seen(memory, MUG, looks=6)
    seen(memory, BOX, replace(MUG.at(2.0, -0.6), look=4), looks=12)
    assert memory.get(1).state is State.GONE


def test_a_thing_cut_in_two_by_another_one_is_one_object() -> None:
    memory = ObjectMemory()
    shelf = Thing("shelf", (2.0, 0.0, 0.4), (0.2, 1.2, 0.8), look=3)
    seen(memory, shelf, eye=(0.0, 0.0, 0.9), target=(2.0, 0.0, 0.3))
    post = Thing("post", (1.5, 0.0, 0.5), (0.1, 0.15, 1.0), look=5)
    whole = look([shelf, post], (0.0, 0.0, 0.9), (2.0, 0.0, 0.3))
    halves = _in_two(whole)
    for _ in range(6):
        outcome = memory.observe(halves)
        assert outcome.ids[0] == outcome.ids[-1] == 1
    assert sorted(item.name for item in memory.objects()) == ["post", "shelf"]


def _in_two(whole: Observation) -> Observation:
    """The first segment as a left and a right half, as where something stands before it."""
    segment = whole.segments[0]
    geometry = segment.geometry
    halves = []
    for number, side in ((segment.id, -1), (99, 1)):
        shift, share = np.array([side * geometry.extents[0] / 4, 0, 0]), np.array([0.5, 1, 1])
        half = replace(
            geometry,
            centroid=geometry.centroid + shift,
            center=geometry.center + shift,
            extents=geometry.extents * share,
            oriented_center=geometry.center + shift,
            orientation=np.array([0, 0, 0, 1.0]),
            oriented_extents=geometry.extents * share,
        )
        halves.append(replace(segment, id=number, geometry=half))
    return replace(whole, segments=[halves[0], *whole.segments[1:], halves[1]])


def test_duplicates_are_joined_under_the_older_id() -> None:
    memory = ObjectMemory()
    seen(memory, MUG)
    # A pose error of half a meter makes a second one, which later good poses bring to the first.
    seen(memory, MUG, pose_error=(0.0, 0.5, 0.0), looks=1)
    assert len(memory) == 2
    duplicate = memory.get(2)
    memory._map.put(replace(duplicate, **{name: getattr(memory.get(1), name) for name in ("position", "low", "high")}))
    joins = [memory.observe(look([MUG], EYE, TARGET)).joined for _ in range(8)]
    assert {2: 1} in joins
    assert len(memory) == 1


def test_pose_noise_makes_neither_duplicates_nor_a_wrong_place() -> None:
    memory, dice = ObjectMemory(), np.random.default_rng(0)
    for number in range(40):
        angle = 0.15 * number
        eye = (2.0 + 1.9 * math.cos(angle), 0.4 + 1.9 * math.sin(angle), 0.9)
        error = dice.normal(0, 0.02, 3)
        memory.observe(look([MUG, BOX], eye, (2.0, 0.4, 0.1), pose_error=error, depth_noise=0.004, seed=number))
    found = {item.name: item.position for item in memory.objects()}
    assert len(memory) == 2
    for thing in (MUG, BOX):
        assert np.linalg.norm(found[thing.name] - thing.center) < 0.05


def test_a_clock_that_jumps_back_harms_nothing() -> None:
    memory = ObjectMemory()
    for stamp in (100, 50, 50, 200, 1):
        memory.observe(look([MUG], EYE, TARGET, stamp=stamp * SECOND))
    mug = only(memory)
    assert (mug.first_seen, mug.last_seen, mug.looks) == (1 * SECOND, 1 * SECOND, 5)
    assert mug.age(0) == 0.0


def test_frames_without_segments_change_nothing() -> None:
    memory = ObjectMemory()
    assert memory.observe(look([], EYE, TARGET)).ids == ()
    assert len(memory) == 0


def test_segments_without_a_place_have_no_object() -> None:
    memory = ObjectMemory()
    observation = look([MUG], EYE, TARGET)
    (segment,) = observation.segments
    nan, far = np.full(3, np.nan), np.array([0.0, 0.0, 1e30])
    for geometry in (
        None,
        replace(segment.geometry, centroid=nan),
        replace(segment.geometry, centroid=far),
        replace(segment.geometry, orientation=np.zeros(4)),
        replace(segment.geometry, centroid=np.array([0.0, 0.0, -1.0])),
    ):
        assert memory.observe(replace(observation, segments=[replace(segment, geometry=geometry)])).ids == (0,)
    for embedding in (np.zeros(8, np.float32), np.full(8, np.nan, np.float32)):
        assert memory.observe(replace(observation, segments=[replace(segment, embedding=embedding)])).ids == (0,)
    assert len(memory) == 0


def test_stuff_is_remembered_on_request_only() -> None:
    observation = look([MUG], EYE, TARGET)
    stuff = replace(observation, segments=[replace(observation.segments[0], is_thing=False)])
    assert ObjectMemory().observe(stuff).ids == (0,)
    assert ObjectMemory(MemorySettings(remember_stuff=True)).observe(stuff).ids == (1,)


def test_memory_stays_bounded_and_named_objects_go_last() -> None:
    memory = ObjectMemory(MemorySettings(max_objects=10))
    for number in range(4):
        for _ in range(3):
            memory.observe(look([MUG.at(10.0 * number, 0)], (10.0 * number - 2, 0.2, 0.9), (10.0 * number, 0, 0.1)))
    memory.name(1, "mine")
    for number in range(5, 40):
        memory.observe(look([MUG.at(10.0 * number, 0)], (10.0 * number - 2, 0.2, 0.9), (10.0 * number, 0, 0.1)))
        assert len(memory) <= 10
    # What was confirmed outlives what was seen once.
    assert [item.id for item in memory.objects()] == [1, 2, 3, 4]


def test_the_best_view_has_a_picture_and_the_approach_view_is_near() -> None:
    memory, image = ObjectMemory(), np.full((CAMERA.height, CAMERA.width, 3), 120, np.uint8)
    seen(memory, MUG, image=image)
    mug = only(memory)
    assert mug.crop.startswith(b"\xff\xd8")
    assert mug.approach is None  # 2 m away
    seen(memory, MUG, eye=(1.0, 0.0, 0.6), target=MUG.center, image=image)
    approach = only(memory).approach
    assert approach.ground_pose == pytest.approx((1.0, 0.0, 0.0))
    assert approach.distance == pytest.approx(math.hypot(1.0, 0.5), abs=0.1)


def test_a_jump_of_the_frame_moves_everything() -> None:
    memory = ObjectMemory()
    seen(memory, MUG)
    quarter = np.array([[0, -1, 0, 5], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], float)
    before = only(memory)
    memory.move_frame(quarter)
    after = only(memory)
    assert after.position == pytest.approx((5 - before.position[1], before.position[0], before.position[2]))
    assert after.extents == pytest.approx(before.extents[[1, 0, 2]])
    assert after.best_view.map_from_camera == pytest.approx(quarter @ before.best_view.map_from_camera)


def test_objects_follow_the_part_of_the_path_from_which_they_were_seen() -> None:
    memory = ObjectMemory()
    for start, thing in ((0, MUG), (100, MUG.at(12.0, 0))):
        for number in range(3):
            eye = (thing.center[0] - 2, 0.2, 0.9)
            memory.observe(look([thing], eye, thing.center, stamp=(start + number) * SECOND))
    stamps = np.array([0, 50, 100]) * SECOND
    path = np.tile(np.eye(4), (3, 1, 1))
    path[:, 0, 3] = 0, 5, 10
    assert memory.reanchor(stamps, path) == 0
    changed = path.copy()
    changed[:, 1, 3] = 0, 0.5, 1.0  # the drift that a loop closure took back, at the end only
    assert memory.reanchor(stamps, changed) == 1
    first, second = memory.objects()
    assert first.position[1] == pytest.approx(0.0, abs=0.06)
    assert second.position[1] == pytest.approx(1.0, abs=0.06)


def test_objects_of_another_memory_are_joined_or_added() -> None:
    here, there = ObjectMemory(), ObjectMemory()
    seen(here, MUG)
    seen(there, BOX, MUG)
    ids = here.merge(there)
    assert ids == {1: 2, 2: 1}
    assert sorted(item.name for item in here.objects()) == ["box", "mug"]
    assert here.get(1).looks == 8


def test_what_is_forgotten_is_forgotten_and_its_id_is_not_given_again() -> None:
    memory = ObjectMemory()
    seen(memory, MUG, BOX)
    assert memory.forget([1, 77]) == 1
    with pytest.raises(ObservationError, match="no object 1"):
        memory.get(1)
    assert seen(memory, MUG, BOX, looks=1) == [3, 2]
    assert memory.forget_where() == 2
    assert len(memory) == 0


def test_a_name_must_be_one() -> None:
    memory = ObjectMemory()
    seen(memory, MUG)
    with pytest.raises(VocabularyError):
        memory.name(1, "a\x07b")
    with pytest.raises(ObservationError):
        memory.name(5, "cup")
    assert memory.name(1, "cup").name == "cup"
    assert memory.name(1, "").name == "mug"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"map_from_camera": np.full((4, 4), np.nan)}, "finite"),
        ({"map_from_camera": 2 * np.eye(4)}, "rotation"),
        ({"map_from_camera": pose_at((1e9, 0, 0), (1e9, 1, 0))}, "beyond"),
        ({"pose_covariance": -np.eye(6)}, "covariance"),
        ({"depth": np.zeros((3, 4), np.float32)}, "4 x 3"),
        ({"depth": np.zeros((120, 160))}, "float64"),
        ({"stamp": 2**64}, "64 bits"),
    ],
)
def test_damaged_observations_are_refused(change, expected: str) -> None:
    with pytest.raises(ObservationError, match=expected):
        replace(look([MUG], EYE, TARGET), **change)


def test_embeddings_of_another_model_are_refused_and_change_nothing() -> None:
    memory = ObjectMemory()
    seen(memory, MUG)
    observation = look([MUG], EYE, TARGET)
    other = [replace(segment, embedding=np.ones(4, np.float32)) for segment in observation.segments]
    with pytest.raises(ObservationError, match="4 numbers"):
        memory.observe(replace(observation, segments=other))
    assert only(memory).looks == 4


@pytest.mark.parametrize(
    "wrong",
    [{"max_range": math.nan}, {"max_objects": 3}, {"max_objects": 20.5}, {"remember_stuff": 1}, {"approach_near": 2.0}],
)
def test_settings_outside_their_range_are_refused(wrong) -> None:
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        MemorySettings(**wrong)


numbers = st.floats(allow_nan=True, allow_infinity=True, width=32)
vectors = st.tuples(numbers, numbers, numbers).map(np.array)


@given(
    st.lists(
        st.builds(
            SegmentGeometry,
            centroid=vectors,
            distance=numbers,
            center=vectors,
            extents=vectors,
            oriented_center=vectors,
            orientation=st.tuples(*[numbers] * 4).map(np.array),
            oriented_extents=vectors,
            points=st.integers(12, 1000),
        ),
        max_size=4,
    )
)
@settings(max_examples=150, deadline=None)
def test_no_numbers_break_the_memory(places: list[SegmentGeometry]) -> None:
    memory = ObjectMemory()
    row = np.eye(8, dtype=np.float32)[0]
    segments = [
        SeenSegment(number, 1, "thing", True, 0.9, row, 100, (10, 10, 20, 20), place)
        for number, place in enumerate(places, 1)
    ]
    observation = Observation("", 0, np.eye(4), pose_covariance(), CAMERA, look([], EYE, TARGET).depth, segments)
    for _ in range(3):
        memory.observe(observation)
    for item in memory.objects(tuple(State)):
        assert np.isfinite(item.position).all()
        assert np.isfinite(item.covariance).all()
        assert (np.linalg.eigvalsh(item.covariance) > 0).all()
        assert (item.low <= item.high).all()


steps = st.lists(
    st.tuples(
        st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), max_size=3, unique_by=lambda pair: pair[0]),
        st.integers(0, 1),
    ),
    min_size=5,
    max_size=40,
)


@given(steps)
@settings(max_examples=40, deadline=None)
def test_whatever_comes_and_goes_the_parts_of_the_memory_agree(frames) -> None:
    memory = ObjectMemory(MemorySettings(max_objects=10, confirm_looks=1, confirm_log_odds=0.5))
    for things, side in frames:
        eye = ((0.0, 0.0, 0.9), (4.0, 0.0, 0.9))[side]
        shown = [replace(MUG.at(2.0, 0.5 * (place - 2)), look=look) for place, look in things]
        outcome = memory.observe(look(shown, eye, (2.0, 0.0, 0.1)))
        known = {item.id: item for item in memory.objects(tuple(State))}
        assert {number for number in outcome.ids if number} <= known.keys()
        # Two things of one frame are never one object.
        assert len({number for number in outcome.ids if number}) == len([number for number in outcome.ids if number])
        assert memory.counts() == {state: sum(item.state is state for item in known.values()) for state in State}
        columns = memory._map.table.columns()
        assert set(columns.ids.tolist()) == known.keys()
        assert all(number in memory._map.called("mug") for number in known)
        for item in known.values():
            assert item.id in memory._map._grid.near(item.position, item.position)
        assert len(known) <= 10


def test_without_exact_bounds_the_box_is_estimated_from_those_of_the_message() -> None:
    exact, estimated = ObjectMemory(), ObjectMemory()
    thing = Thing("crate", (2.0, 0.0, 0.5), (0.4, 0.4, 1.0))
    for angle in (0.0, 0.4, 0.8):
        eye = (2.0 - 2 * math.cos(angle), 2 * math.sin(angle), 0.5)
        observation = look([thing], eye, (2.0, 0.0, 0.5))
        exact.observe(observation)
        segments = [replace(segment, bounds=None) for segment in observation.segments]
        estimated.observe(replace(observation, segments=segments))
    ratio = only(estimated).extents / only(exact).extents
    assert (ratio > 0.99).all() and (ratio < 1.5).all()
    assert only(estimated).extents[1] == pytest.approx(0.4, abs=0.2)
