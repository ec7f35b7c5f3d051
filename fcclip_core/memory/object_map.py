"""The objects of the memory and what an observation changes among them; one thread at a time, no file."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

import numpy as np

from fcclip_core.errors import ObservationError
from fcclip_core.memory.association import MAX_GATE, assign, same_place, taken_places
from fcclip_core.memory.existence import Look, look_at, not_seen, seen_again
from fcclip_core.memory.fusion import fused, joined, moved_to, new_object, with_part
from fcclip_core.memory.grid import Grid
from fcclip_core.memory.measurement import Measurements, measure
from fcclip_core.memory.objects import RememberedObject, State
from fcclip_core.memory.observation import Observation
from fcclip_core.memory.outcome import Events, Outcome
from fcclip_core.memory.settings import MemorySettings
from fcclip_core.memory.table import ObjectTable, Places

_MERGE_EVERY = 4
"""Each object that is seen looks for its duplicates in every so many-th of its looks."""

_SEEN_TOGETHER = 0.3
"""Share of the looks of the rarer of two objects in which frames showed both, above which they are two."""

_DROPPED_AT_ONCE = 100
"""One in so many objects is dropped at once when there are too many, so that sorting them is rare."""


class ObjectMap:
    """All objects, by id, by place, by name and by embedding."""

    def __init__(self, settings: MemorySettings, next_id: int = 1, look: int = 0) -> None:
        """Starts empty.

        Args:
            settings: The memory's.
            next_id: First id to give; ids are never given twice.
            look: Number of the last observation.
        """
        self.settings = settings
        self.next_id = next_id
        self.look = look
        self.table = ObjectTable()
        self._objects: dict[int, RememberedObject] = {}
        self._grid = Grid()
        self._by_name: dict[str, set[int]] = defaultdict(set)
        self._missing: set[int] = set()
        self._together: Counter[tuple[int, int]] = Counter()
        self._changed: dict[int, RememberedObject | None] = {}
        self._dimension = 0

    def __len__(self) -> int:
        """Number of objects."""
        return len(self._objects)

    def get(self, number: int) -> RememberedObject | None:
        """The object with this id; None if there is none."""
        return self._objects.get(number)

    def all(self) -> list[RememberedObject]:
        """All objects, as they are now."""
        return list(self._objects.values())

    def called(self, name: str) -> Collection[int]:
        """Ids of the objects that frames or users called by this name."""
        return tuple(self._by_name.get(name, ()))

    def take_changes(self) -> dict[int, RememberedObject | None]:
        """What has changed since the last call: id -> object, None for one that is no longer remembered."""
        changed, self._changed = self._changed, {}
        return changed

    def put(self, item: RememberedObject) -> None:
        """Adds an object or replaces it.

        Raises:
            ObservationError: Its embedding has another dimension than the others'.
        """
        self._require_dimension(len(item.embedding_sum))
        before = self._objects.get(item.id)
        self._objects[item.id] = item
        self._changed[item.id] = item
        # The center may lie behind what was seen of it so far.
        self._grid.put(item.id, np.minimum(item.low, item.position), np.maximum(item.high, item.position))
        (self._missing.add if self._is_missing(item) else self._missing.discard)(item.id)
        self.table.put(item)
        if before is None or before.names.keys() != item.names.keys() or before.own_name != item.own_name:
            for name in _names_of(before) - _names_of(item):
                self._unname(name, item.id)
            for name in _names_of(item) - _names_of(before):
                self._by_name[name].add(item.id)

    def remove(self, number: int) -> None:
        """Removes an object; nothing happens if there is none."""
        item = self._objects.pop(number, None)
        if item is None:
            return
        self._changed[number] = None
        self._grid.remove(number)
        self._missing.discard(number)
        self.table.remove(number)
        for name in _names_of(item):
            self._unname(name, number)
        for pair in [pair for pair in self._together if number in pair]:
            del self._together[pair]

    def observe(self, observation: Observation, words: str) -> Outcome:
        """Takes in a frame.

        Args:
            observation: The frame.
            words: Key of its vocabulary; empty if unknown.

        Raises:
            ObservationError: Embeddings of another dimension than before.
        """
        for segment in observation.segments:
            self._require_dimension(len(segment.embedding))
        self.look += 1
        measured = measure(observation, self.settings)
        events = Events()
        owners = self._match(measured, observation, words, events)
        self._note_absent(observation, measured, set(owners), events)
        self._join_duplicates(owners, events)
        self._find_moved(events)
        self._drop_beyond_limit(events)
        ids = {item.id: events.now(number) for item, number in zip(measured.segments, owners, strict=True)}
        return events.outcome([ids.get(segment.id, 0) for segment in observation.segments])

    def transform(self, moved: Callable[[RememberedObject], RememberedObject], chosen: Iterable[int]) -> None:
        """Replaces objects by what a function makes of them."""
        for number in chosen:
            self.put(moved(self._objects[number]))

    def adopt(self, others: Iterable[RememberedObject]) -> dict[int, int]:
        """Takes in objects of another memory: those that are known are joined, the others get new ids.

        Returns:
            Id in the other memory -> id here.
        """
        ids: dict[int, int] = {}
        # Known ones are looked for among those that were here before: the other memory's own are told apart.
        here = set(self._objects)
        for item in sorted(others, key=lambda other: other.id):
            known = self._known_as(item, here)
            if known is not None:
                self.put(joined(known, _as_of(item, self.look)))
                here.discard(known.id)
            else:
                known = replace(_as_of(item, self.look), id=self._new_id())
                self.put(known)
            ids[item.id] = known.id
        self._drop_beyond_limit(Events())
        return ids

    def _match(self, measured: Measurements, observation: Observation, words: str, events: Events) -> list[int]:
        """Updates the objects that the measurements match and creates the others; returns an id a measurement."""
        numbers = self._near(measured)
        places = self.table.places(numbers)
        names = [self._objects[number].names for number in numbers]
        assignment = assign(measured, places, self.table.embeddings(numbers), names, self.settings)
        rows = [row for row, column in enumerate(assignment.matched) if column >= 0]
        columns = [assignment.matched[row] for row in rows]
        known = [self._objects[numbers[column]] for column in columns]
        found = iter(
            fused(known, places.take(columns), measured.take(rows), observation, self.look, words, self.settings)
        )
        owners = []
        for row, (segment, column, whole) in enumerate(
            zip(measured.segments, assignment.matched, assignment.part_of, strict=True)
        ):
            if whole >= 0:
                owners.append(numbers[whole])
                continue
            before = self._objects[numbers[column]] if column >= 0 else None
            after = (
                next(found)
                if before is not None
                else new_object(self._new_id(), measured, row, observation, self.look, words, self.settings)
            )
            after = seen_again(after, segment.score, self.settings)
            if before is None:
                events.created.append(after.id)
            events.compare(before, after)
            self.put(after)
            owners.append(after.id)
        for row, (number, whole) in enumerate(zip(owners, assignment.part_of, strict=True)):
            if whole >= 0:
                self.put(with_part(self._objects[number], measured, row))
        return owners

    def _near(self, measured: Measurements) -> list[int]:
        if not len(measured):
            return []
        widest = np.sqrt(np.diagonal(measured.covariance, axis1=1, axis2=2).max(1))
        reach = np.minimum(MAX_GATE, self.settings.max_mahalanobis * widest + 0.1)[:, None]
        low = np.minimum(measured.low, measured.position) - reach
        high = np.maximum(measured.high, measured.position) + reach
        return sorted(set().union(*map(self._grid.near, low, high)))

    def _note_absent(self, observation: Observation, measured: Measurements, seen: set[int], events: Events) -> None:
        """Objects that should have been seen and were not."""
        if observation.depth is None:
            return
        eye, reach = observation.map_from_camera[:3, 3], self.settings.max_range
        near = [
            number
            for number in sorted(self._grid.near(*_footprint(observation, reach)) - seen)
            if self._objects[number].state is not State.GONE
        ]
        places = self.table.places(near)
        within = np.flatnonzero(places.distances(eye) <= reach).tolist()
        near, places = [near[row] for row in within], places.take(within)
        looks = look_at(places, observation, self.settings)
        taken = taken_places(places, measured) if len(measured) else np.zeros(len(near), bool)
        for number, look, is_taken in zip(near, looks, taken, strict=True):
            known = self._objects[number]
            look = Look.OTHER if look is Look.SURFACE and is_taken else look
            found = not_seen(known, look, self.settings)
            if found is known:
                continue
            if found.state is State.GONE and known.state is State.TENTATIVE:
                events.dropped.append(number)
                self.remove(number)
                continue
            events.compare(known, found)
            self.put(found)

    def _join_duplicates(self, owners: Sequence[int], events: Events) -> None:
        """Joins the objects that were just seen with others that are the same."""
        due = [number for number in sorted(set(owners)) if self._objects[number].looks % _MERGE_EVERY == 0]
        for number, other in self._same_places(due):
            first, second = self._objects.get(number), self._objects.get(other)
            if first is None or second is None:
                continue  # it was joined with one of the pairs before
            pair = (min(number, other), max(number, other))
            if other in owners:
                self._together[pair] += _MERGE_EVERY  # it is looked at in every so many-th look only
            if self._together[pair] > _SEEN_TOGETHER * min(first.looks, second.looks):
                continue
            first, second = sorted((first, second), key=lambda known: (known.first_look, known.id))
            events.joined[second.id] = first.id
            self.remove(second.id)
            self.put(joined(first, second))

    def _same_places(self, numbers: Sequence[int]) -> list[tuple[int, int]]:
        """Pairs of one of these objects and another one that may be the same."""
        pairs = [
            (number, other)
            for number in numbers
            for other in sorted(self._grid.near(self._objects[number].low, self._objects[number].high) - {number})
        ]
        if not pairs:
            return []
        first, others = ([pair[side] for pair in pairs] for side in (0, 1))
        cosines = (self.table.embeddings(first) * self.table.embeddings(others)).sum(1)
        same = same_place(self.table.places(first), self.table.places(others), cosines, self.settings)
        return [pair for pair, is_same in zip(pairs, same, strict=True) if is_same]

    def _known_as(self, item: RememberedObject, here: set[int]) -> RememberedObject | None:
        """The one of these objects that an object of another memory is; None if it is new."""
        near = sorted(self._grid.near(item.low, item.high) & here)
        if not near:
            return None
        cosines = self.table.embeddings(near) @ item.embedding
        same = same_place(Places.of([item]), self.table.places(near), cosines, self.settings)
        return self._objects[near[int(np.where(same, cosines, -np.inf).argmax())]] if same.any() else None

    def _find_moved(self, events: Events) -> None:
        """Objects that are missing, and new ones that look like them: if there is one of each, they are one object."""
        missing = self._missing.intersection(events.doubted)
        for number in events.confirmed if self._missing else ():
            item = self._objects.get(number)
            if item is not None:
                missing |= {other.id for other in self._alike(item, self._missing)}
        for number in sorted(missing):
            lost = self._objects.get(number)
            if lost is None:
                continue  # it was found itself, as another one
            found = [item for item in self._alike(lost) if _came_after(item, lost)]
            if len(found) != 1 or found[0].state is not State.CONFIRMED:
                continue
            rivals = [item for item in self._alike(found[0], self._missing) if _came_after(found[0], item)]
            if len(rivals) == 1:
                self.remove(found[0].id)
                self.put(moved_to(lost, found[0]))
                events.joined[found[0].id] = lost.id
                events.moved.append(lost.id)

    def _is_missing(self, item: RememberedObject) -> bool:
        """Whether an object that was confirmed once is no longer sure to be where it was."""
        doubted = item.state is State.CONFIRMED and item.log_odds < self.settings.doubt_log_odds
        return item.state is State.GONE or doubted

    def _alike(self, item: RememberedObject, among: set[int] | None = None) -> list[RememberedObject]:
        """Other objects, or those of `among`, that are within reach and look the same."""
        reach = self.settings.moved_within
        if not reach:
            return []
        near = self._grid.near(item.position - reach, item.position + reach) - {item.id}
        others = sorted(near if among is None else near & among)
        places = self.table.places(others)
        alike = np.flatnonzero((places.distances(item.position) <= reach) & (places.are_things == item.is_thing))
        others = [others[row] for row in alike]
        if not others:
            return []
        similar = self.table.embeddings(others) @ item.embedding >= self.settings.moved_cosine
        return [self._objects[number] for number, is_similar in zip(others, similar, strict=True) if is_similar]

    def _drop_beyond_limit(self, events: Events) -> None:
        """Drops what is worth least if there are too many objects."""
        if len(self._objects) <= self.settings.max_objects:
            return
        count = len(self._objects) - self.settings.max_objects
        count = max(count, self.settings.max_objects // _DROPPED_AT_ONCE, 1)
        for item in sorted(self._objects.values(), key=_worth)[:count]:
            events.dropped.append(item.id)
            self.remove(item.id)

    def _new_id(self) -> int:
        self.next_id += 1
        return self.next_id - 1

    def _unname(self, name: str, number: int) -> None:
        self._by_name[name].discard(number)
        if not self._by_name[name]:
            del self._by_name[name]

    def _require_dimension(self, dimension: int) -> None:
        self._dimension = self._dimension or dimension
        if dimension != self._dimension:
            raise ObservationError(
                f"an embedding has {dimension} numbers, those in the memory have {self._dimension}: another checkpoint "
                "made it; use another memory file"
            )


def _names_of(item: RememberedObject | None) -> set[str]:
    if item is None:
        return set()
    return {*item.names, *([item.own_name] if item.own_name else [])}


def _came_after(item: RememberedObject, lost: RememberedObject) -> bool:
    return item.state is not State.GONE and item.first_look > lost.last_look


def _as_of(item: RememberedObject, look: int) -> RememberedObject:
    """An object of another memory: observations are counted anew, it was there before the next one."""
    return replace(item, first_look=look, last_look=look)


def _worth(item: RememberedObject) -> tuple[bool, int, int]:
    """Sorts what is dropped first to the front: unconfirmed, gone, confirmed, named; of each the oldest."""
    order = {State.TENTATIVE: 0, State.GONE: 1, State.CONFIRMED: 2}
    return bool(item.own_name), order[item.state], item.last_look


def _footprint(observation: Observation, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Corners `(3,)` of a box around all that the camera sees within a distance."""
    camera, pose = observation.camera, observation.map_from_camera
    x = np.array([-camera.cx, camera.width - camera.cx]) / camera.fx
    y = np.array([-camera.cy, camera.height - camera.cy]) / camera.fy
    corners = np.array([[across, down, 1.0] for across in x for down in y])
    points = np.concatenate([corners * reach, np.zeros((1, 3))]) @ pose[:3, :3].T + pose[:3, 3]
    return points.min(0), points.max(0)
