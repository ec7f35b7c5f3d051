"""A recording is in the memory's file as a whole, once, or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from box_world import DIMENSION, SECOND, Thing, look

from fcclip_core.memory.object_memory import ObjectMemory
from fcclip_core.memory.objects import State
from fcclip_core.memory.settings import MemorySettings
from fcclip_core.vocabulary.embedded_text import TextEmbeddings

MUG = Thing("mug", (2.0, 0.0, 0.1), (0.12, 0.12, 0.2), look=0)
BOX = Thing("box", (2.0, 0.8, 0.15), (0.3, 0.3, 0.3), look=2)
QUICK = MemorySettings(write_period=0.01)
ANY = tuple(State)


def observe(memory: ObjectMemory, *things: Thing, start: int = 0) -> None:
    for number in range(4):
        memory.observe(
            look(things, (0.9, 0.2, 0.6), (2.0, 0.2, 0.1), stamp=(start + number) * SECOND, words=("mug", "box"))
        )


def learn(memory: ObjectMemory, model: str = "tower") -> None:
    memory.learn_words(["mug"], TextEmbeddings(np.eye(DIMENSION, dtype=np.float32)[:1], 10.0, model))


def in_file(path: Path) -> ObjectMemory:
    return ObjectMemory(path=path, read_only=True)


def test_the_file_gets_a_recording_at_its_end(tmp_path: Path) -> None:
    path = tmp_path / "lab.memory"
    with ObjectMemory(QUICK, path) as memory:
        with memory.recording("monday"):
            learn(memory)
            observe(memory, MUG)
            memory.save()  # of what came before the block
            assert len(memory) == 1 and len(in_file(path)) == 0
        found = in_file(path)
        assert (len(found), found.recordings, found.model) == (1, {"monday"}, "tower")
        with memory.recording("tuesday"):
            observe(memory, BOX, start=10)
    assert [item.name for item in in_file(path).objects()] == ["mug", "box"]
    assert ObjectMemory(path=path, read_only=True).recordings == {"monday", "tuesday"}


def test_of_a_recording_that_fails_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / "lab.memory"
    with ObjectMemory(QUICK, path) as memory:
        observe(memory, MUG)
        memory.save()
        before = memory.objects(ANY)
        with pytest.raises(KeyboardInterrupt), memory.recording("monday"):
            learn(memory)
            observe(memory, BOX, start=10)
            memory.forget([before[0].id])
            raise KeyboardInterrupt
        assert (memory.objects(ANY), memory.recordings, memory.model) == (before, frozenset(), "")
        # What comes next is kept as if nothing had been.
        observe(memory, BOX, start=20)
    found = in_file(path)
    assert [item.name for item in found.objects(ANY)] == ["mug", "box"]
    assert [item.id for item in found.objects(ANY)] == [1, 2]
    assert (found.recordings, found.model) == (frozenset(), "")


def test_a_merged_memory_has_the_recordings_of_all() -> None:
    memories = [ObjectMemory(), ObjectMemory()]
    for memory, key in zip(memories, ("monday", "tuesday"), strict=True):
        with memory.recording(key):
            observe(memory, MUG)
    memories[0].merge(memories[1])
    assert memories[0].recordings == {"monday", "tuesday"}
