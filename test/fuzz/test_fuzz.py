"""What fuzzing found once does not come back, and fuzzing itself notices what it should."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from pathlib import Path

import explore
import pytest
import targets
from bounds import OutOfBounds, read_within_bounds

from fcclip_core.errors import VocabularyError

_SEEDS = sorted(explore.SEEDS.rglob("*.bin"))


@pytest.mark.parametrize("path", _SEEDS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_an_input_that_failed_once_is_answered(path: Path) -> None:
    explore.reader(path.parent.name)(path.read_bytes())


@pytest.mark.parametrize("name", targets.NAMES)
def test_a_first_round_of_each_kind_finds_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explore, "SEEDS", tmp_path)
    assert explore.explore(name, 0.01, first_seed=1, examples=40) >= 20


def test_a_finding_is_kept_and_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explore, "SEEDS", tmp_path)
    monkeypatch.setattr(targets.load("built_files"), "read", lambda data, folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        explore.explore("built_files", 0.01, first_seed=1, examples=10)
    assert len(list(tmp_path.rglob("*.bin"))) == 1


def _family(data: bytes) -> None:
    raise VocabularyError("no such word")


def _stranger(data: bytes) -> None:
    raise KeyError("")


def _greedy(data: bytes) -> None:
    bytearray(b"x" * (16 << 20))


@pytest.fixture
def freed_blocks() -> Iterator[None]:
    """Leaves 100 MB of freed blocks in this process's heap, below one that is kept."""
    gc.collect()
    blocks = [bytearray(b"y" * 100_000) for _ in range(1_000)]
    del blocks[:-1]
    yield
    blocks.clear()


def _endless(data: bytes) -> None:
    while True:
        time.sleep(0.01)


def test_bounds_tell_an_answer_from_a_fault(freed_blocks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    read_within_bounds(_family, b"")
    with pytest.raises(KeyError):
        read_within_bounds(_stranger, b"")
    with pytest.raises(OutOfBounds, match="of memory"):
        read_within_bounds(_greedy, b"", memory=8 << 20)
    monkeypatch.setattr("bounds.SECONDS", 0.2)
    with pytest.raises(OutOfBounds, match="longer than"):
        read_within_bounds(_endless, b"")
