"""The object memory: observations in, objects and answers out, kept in a file."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path as FilePath
from types import TracebackType
from typing import Any

import numpy as np

from fcclip_core.errors import MemoryFileError, ObservationError, VocabularyError
from fcclip_core.memory import database
from fcclip_core.memory.areas import Area
from fcclip_core.memory.asking import Competition, Question, Reply, answer
from fcclip_core.memory.contents import map_of, recordings_in, vocabularies_in
from fcclip_core.memory.objects import RememberedObject, State
from fcclip_core.memory.observation import Observation
from fcclip_core.memory.outcome import Outcome
from fcclip_core.memory.path_changes import Path, transformed
from fcclip_core.memory.settings import MemorySettings
from fcclip_core.memory.store import Store
from fcclip_core.memory.words import TextRows, Vocabularies, groups_against
from fcclip_core.vocabulary.classes import Vocabulary, checked_names
from fcclip_core.vocabulary.embedded_text import TextEmbeddings

Embed = Callable[[Sequence[str]], TextEmbeddings]
"""Embeds words, such as `Segmenter.embed_text`."""


@dataclass
class _Held:
    """Changes that the file gets at the end of a recording."""

    changes: dict[int, RememberedObject | None] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)


class ObjectMemory:
    """What the robot has seen, where, and how it is found again by words.

    Thread-safe: any thread may call anything. Calls that change objects take turns; `ask` and `objects` wait for the
    one in progress, then work on a state that later ones do not change. Objects are immutable records.

    The file is written behind the calls, once in `write_period`; `save` waits until all is on the disk. What cannot be
    written (`problem` says why) stays in memory and is tried again. Use it in a `with` block, or close it.
    """

    def __init__(
        self,
        settings: MemorySettings | None = None,
        path: FilePath | str | None = None,
        *,
        background: Vocabulary | None = None,
        read_only: bool = False,
    ) -> None:
        """Opens a memory.

        Args:
            settings: Limits and thresholds; None for the defaults.
            path: The file; created if it is not there, loaded if it is. A corrupt one is moved aside, which the log
                says. None: nothing is kept.
            background: Classes that compete with a question's words, as far as they do not overlap with them
                (`Segmenter.default_background()`); without them, little competes where frames had few words.
            read_only: Read the file and never write it; it may be in use by another process then.

        Raises:
            MemoryFileError: The file is of a newer version or another program's, is in use, or cannot be opened.
        """
        self._settings = settings or MemorySettings()
        self._background = background
        self._lock = threading.RLock()
        self._store: Store | None = None
        contents = database.Contents()
        if path is not None and read_only:
            contents = database.read(FilePath(path))
        elif path is not None:
            self._store = Store(FilePath(path), self._settings.write_period)
            contents = self._store.take_contents()
        self._map = map_of(contents, self._settings)
        self._vocabularies = Vocabularies(vocabularies_in(contents.meta))
        model = contents.meta.get("model")
        self._text = TextRows(model if isinstance(model, str) else "")
        self._path: Path | None = None
        self._recordings = recordings_in(contents.meta)
        self._held: _Held | None = None

    @property
    def settings(self) -> MemorySettings:
        """Limits and thresholds."""
        return self._settings

    @property
    def background(self) -> Vocabulary | None:
        """Classes that compete with a question's words; a new one counts from the next question on."""
        return self._background

    @background.setter
    def background(self, background: Vocabulary | None) -> None:
        self._background = background

    @property
    def model(self) -> str:
        """Identity of the text tower whose words compare with the embeddings; empty until words were learned."""
        return self._text.model

    @property
    def recordings(self) -> frozenset[str]:
        """Keys of the recordings that were taken in; see `recording`."""
        return self._recordings

    @property
    def problem(self) -> str:
        """Why the newest changes are not in the file, for people; empty if nothing is wrong, or there is no file."""
        return self._store.problem if self._store else ""

    def __len__(self) -> int:
        """Number of objects in any state."""
        return len(self._map)

    def __bool__(self) -> bool:
        """True, also while it is empty."""
        return True

    def observe(self, observation: Observation) -> Outcome:
        """Takes in a frame of one camera; a few milliseconds.

        Args:
            observation: Its segments, depth and pose; frames of several cameras may come in any order.

        Returns:
            The object of each segment, and what was created, confirmed, joined, moved, dropped, or is gone.

        Raises:
            ObservationError: Embeddings of another dimension than the memory's.
        """
        with self._lock:
            words, is_new = self._vocabularies.add(observation.words)
            outcome = self._map.observe(observation, words)
            self._keep({"vocabularies": self._vocabularies.by_key()} if is_new else {})
            return outcome

    @contextlib.contextmanager
    def recording(self, key: str) -> Iterator[None]:
        """Takes in the observations of a recording as a whole: the file gets all that they change, or nothing.

        If the block fails, objects are what they were before. What others change meanwhile belongs to the block.

        Args:
            key: Tells recordings apart, at most 64 characters; `recordings` has it afterwards.

        Raises:
            MemoryFileError: At the end, if the file cannot be written; it is tried again later, as always.
        """
        with self._lock:
            before = database.Contents(self._map.all(), {"next_id": self._map.next_id, "look": self._map.look})
            vocabularies, model = dict(self._vocabularies.by_key()), self._text.model
            self._held = _Held()
        try:
            yield
        except BaseException:
            with self._lock:
                self._held = None
                self._map = map_of(before, self._settings)
                self._vocabularies, self._text = Vocabularies(vocabularies), TextRows(model)
            raise
        with self._lock:
            held, self._held = self._held, None
            self._recordings |= {key}
            self._keep({**held.meta, "recordings": sorted(self._recordings)}, held.changes)
        if self._store is not None:
            self.save()

    def words_of(self, question: Question) -> tuple[str, ...]:
        """All words whose text embeddings answer a question: its own, and those that compete."""
        return self._competition(question).names

    def unknown_words(self, question: Question) -> tuple[str, ...]:
        """Those of `words_of` that have no text embedding yet, for `learn_words`; empty if `ask` can answer."""
        return self._text.unknown(self.words_of(question))

    def learn_words(self, names: Sequence[str], text: TextEmbeddings) -> None:
        """Takes text embeddings of words, as `Segmenter.embed_text` or the service `~/embed_text` gives them.

        Raises:
            VocabularyError: They do not fit the names, or another model made them than those before.
        """
        with self._lock:
            is_new = not self._text.model
            self._text.learn(names, text)
            if is_new:
                self._keep({"model": self._text.model})

    def ask(self, question: Question, embed: Embed | None = None, now: int | None = None) -> Reply:
        """Ranks the objects by the probability that a question's words name them.

        Args:
            question: The words, and filters by area, age, probability, names and state.
            embed: Embeds words that have no text embedding yet; not needed after `learn_words`.
            now: Nanoseconds, of the clock of the observations' stamps; None for the system's.

        Returns:
            The answers, and the best object where none is probable enough.

        Raises:
            VocabularyError: A word has no text embedding, or one of another model than the memory's.
        """
        competition = self._competition(question)
        unknown = self._text.unknown(competition.names)
        if unknown and embed is not None:
            self.learn_words(unknown, embed(unknown))
        with self._lock:
            columns = self._map.table.columns()
            called = {word: self._map.called(word) for word in (*competition.wanted, *question.called)}
        dimension = self._text.rows(competition.wanted).shape[1]
        if len(columns.ids) and columns.embeddings.shape[1] != dimension:
            raise VocabularyError(
                f"the memory's embeddings have {columns.embeddings.shape[1]} numbers, the words' {dimension}; ask with "
                "the checkpoint that the objects were seen with"
            )
        at = time.time_ns() if now is None else now
        return answer(question, competition, self._text, columns, self._map.get, called.__getitem__, at)

    def objects(self, states: Collection[State] = (State.CONFIRMED,)) -> list[RememberedObject]:
        """The objects of which this is believed, by id."""
        with self._lock:
            found = self._map.all()
        return sorted((item for item in found if item.state in states), key=lambda item: item.id)

    def counts(self) -> dict[State, int]:
        """How many objects are in each state, without looking at each."""
        with self._lock:
            return self._map.table.counts()

    def get(self, number: int) -> RememberedObject:
        """The object with an id.

        Raises:
            ObservationError: There is none.
        """
        item = self._map.get(number)
        if item is None:
            raise ObservationError(
                f"there is no object {number} in the memory; it was forgotten, or joined with another"
            )
        return item

    def forget(self, numbers: Iterable[int]) -> int:
        """Forgets objects by id, whatever their state; ids that do not exist are ignored.

        Returns:
            Number of objects that were forgotten.
        """
        with self._lock:
            before = len(self._map)
            for number in numbers:
                self._map.remove(number)
            self._keep()
            return before - len(self._map)

    def forget_where(
        self, area: Area | None = None, states: Collection[State] = tuple(State), older_than: int | None = None
    ) -> int:
        """Forgets objects by place, state and age; without arguments all of them.

        Args:
            area: Only those inside.
            states: Only those of which this is believed.
            older_than: Only those last seen before this time, nanoseconds.

        Returns:
            Number of objects that were forgotten.
        """
        with self._lock:
            return self.forget(
                item.id
                for item in self._map.all()
                if item.state in states
                and (area is None or area.contains(item.position[None])[0])
                and (older_than is None or item.last_seen < older_than)
            )

    def name(self, number: int, text: str) -> RememberedObject:
        """Gives an object a name of its own, by which questions find it from then on; an empty text takes it away.

        Raises:
            ObservationError: There is no such object.
            VocabularyError: The name is too long or has control characters.
        """
        if text:
            (text,) = checked_names("the name", [text])
        with self._lock:
            self._map.put(replace(self.get(number), own_name=text))
            self._keep()
            return self.get(number)

    def merge(self, other: ObjectMemory) -> dict[int, int]:
        """Takes in the objects of another memory of the same map; those that both know are joined.

        Returns:
            Id in the other memory -> id here.

        Raises:
            ObservationError: Its embeddings have another dimension, or are of another model.
        """
        states = (State.CONFIRMED, State.GONE, State.TENTATIVE)
        items, vocabularies = other.objects(states), list(other._vocabularies.by_key().values())
        with self._lock:
            if self.model and other.model and self.model != other.model:
                raise ObservationError(
                    f"the memories are of two models, {self.model[:12]!r} and {other.model[:12]!r}, whose embeddings "
                    "do not compare; fill both with one checkpoint"
                )
            self._text.model = self.model or other.model
            for words in vocabularies:
                self._vocabularies.add(words)
            ids = self._map.adopt(items)
            self._recordings |= other.recordings
            meta = {"model": self.model, "recordings": sorted(self._recordings)}
            self._keep({"vocabularies": self._vocabularies.by_key(), **meta})
            return ids

    def move_frame(self, transform: np.ndarray) -> None:
        """Moves all objects after a jump of the map's frame.

        Args:
            transform: float64 `(4, 4)`, rigid, from the old map to the new one.

        Raises:
            ObservationError: It is not rigid.
        """
        Path(np.zeros(1, np.int64), np.asarray(transform)[None])
        with self._lock:
            ids = [item.id for item in self._map.all()]
            self._map.transform(lambda item: transformed(item, transform), ids)
            self._keep()

    def reanchor(self, stamps: np.ndarray, poses: np.ndarray) -> int:
        """Moves each object as the path moved where the object's best view was taken.

        The first call only remembers the path; each later one moves the objects by the difference to the one before.
        The path is that of this session: it is not kept in the file.

        Args:
            stamps: int64 `(N,)`, nanoseconds, of the keyframes.
            poses: float64 `(N, 4, 4)`, of the keyframes to the map; any frame that is fixed to the robot.

        Returns:
            Number of objects that were moved.

        Raises:
            ObservationError: Shapes do not fit, or a pose is not rigid.
        """
        new = Path(stamps, poses)
        with self._lock:
            old, self._path = self._path, new
            items = self._map.all()
            # What was seen before the path began belongs to another session, whose path is not known.
            items = [item for item in items if old and item.best_view.stamp >= old.stamps[0]]
            if old is None or not items:
                return 0
            changes = old.change_to(new, np.array([item.best_view.stamp for item in items], np.int64))
            moves = {
                item.id: change
                for item, change in zip(items, changes, strict=True)
                if not np.allclose(change, np.eye(4), atol=1e-6)
            }
            self._map.transform(lambda item: transformed(item, moves[item.id]), moves)
            self._keep()
            return len(moves)

    def save(self, timeout: float = 30.0) -> None:
        """Waits until everything that happened before is on the disk: it survives whatever comes then.

        Args:
            timeout: Seconds.

        Raises:
            MemoryFileError: There is no file, or it cannot be written now.
        """
        if self._store is None:
            raise MemoryFileError("the memory has no file to save to; open it with a path, not for reading only")
        self._store.flush(timeout)

    def close(self, timeout: float = 30.0) -> None:
        """Saves and closes the file; may be called again.

        Raises:
            MemoryFileError: The newest changes could not be saved.
        """
        if self._store is not None:
            self._store.close(timeout)

    def __enter__(self) -> ObjectMemory:
        """The memory, which is closed after the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the memory."""
        self.close()

    def _keep(
        self, meta: Mapping[str, Any] | None = None, earlier: Mapping[int, RememberedObject | None] | None = None
    ) -> None:
        """Hands what has changed to the file, and what had changed before; or holds it back while a recording lasts."""
        changes = {**(earlier or {}), **self._map.take_changes()}
        if self._held is not None:
            self._held.changes.update(changes)
            self._held.meta.update(meta or {})
            return
        if self._store is not None and (changes or meta):
            counters = {"next_id": self._map.next_id, "look": self._map.look}
            self._store.put(changes, {**counters, **(meta or {})})

    def _competition(self, question: Question) -> Competition:
        words = question.query.words
        with self._lock:
            named_in, competitors = self._vocabularies.keys_with(words), self._vocabularies.competitors(words)
        return Competition(
            wanted=words,
            named_in=named_in,
            rivals=(*question.query.distractors, *((text,) for text in competitors)),
            background=groups_against(words, self._background),
        )
