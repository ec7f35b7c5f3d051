"""Settings that the model's preset decides where nobody else does."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fcclip_core import Segmenter, Vocabulary
from fcclip_core.checkpoints import Checkpoint, load_checkpoint
from fcclip_core.settings import InferenceSettings

FRAME = np.zeros((48, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    tiny = load_checkpoint("recipe:tiny")
    return replace(tiny, config=replace(tiny.config, shorter_side=96))


def resized(segmenter: Segmenter) -> tuple[int, int]:
    return segmenter.encode(FRAME).geometry.resized


def test_preset_decides_the_size(checkpoint: Checkpoint, tmp_path: Path) -> None:
    segmenter = Segmenter(checkpoint, cache_dir=tmp_path)
    assert segmenter.settings.shorter_side == 96
    assert resized(segmenter) == (96, 128)
    segmenter.settings = InferenceSettings(shorter_side=0)
    assert segmenter.settings.shorter_side == 96
    assert resized(segmenter) == (96, 128)
    segmenter.settings = InferenceSettings(shorter_side=0, max_size=90)
    assert resized(segmenter) == (68, 90), "a limit alone limits the preset's size too"


def test_given_size_wins_over_the_presets(checkpoint: Checkpoint, tmp_path: Path) -> None:
    segmenter = Segmenter(checkpoint, settings=InferenceSettings(shorter_side=64), cache_dir=tmp_path)
    assert resized(segmenter) == (64, 85)


def test_every_thread_that_computes_keeps_to_the_number_of_threads(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Words, building and frames each have a thread of their own in the node; torch's number holds for one thread."""
    used: dict[str, int] = {}

    def on_its_own(name: str, work: Callable[[], object]) -> object:
        with ThreadPoolExecutor(1) as pool:
            result = pool.submit(work).result()
            used[name] = pool.submit(torch.get_num_threads).result()
        return result

    count = torch.get_num_threads() + 1
    settings = InferenceSettings(shorter_side=64, num_threads=count)
    words = Vocabulary.from_names(["cup", "floor"])
    segmenter = on_its_own("start", lambda: Segmenter(checkpoint, settings=settings, cache_dir=tmp_path))
    assert isinstance(segmenter, Segmenter)
    on_its_own("words", lambda: segmenter.set_vocabulary(words))
    on_its_own("names", lambda: segmenter.embed_text(["spoon"]))
    on_its_own("building", lambda: segmenter.prepare(*FRAME.shape[:2]))
    on_its_own("frame", lambda: segmenter(FRAME))
    assert set(used.values()) == {count}, used


def test_published_models_see_800_pixels() -> None:
    assert load_checkpoint("recipe:tiny").config.shorter_side == InferenceSettings().shorter_side == 800
