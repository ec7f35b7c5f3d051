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
from fcclip_core.errors import SettingsError, VocabularyError
from fcclip_core.settings import InferenceSettings
from fcclip_core.weights.checkpoints import Checkpoint, load_checkpoint

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


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"shorter_side": "800"}, "shorter_side is '800'; it must be a whole number"),
        ({"shorter_side": 800.0}, "shorter_side is 800.0; it must be a whole number"),
        ({"shorter_side": True}, "shorter_side is True; it must be a whole number"),
        ({"max_size": None}, "max_size is None"),
        ({"alpha": "0.4"}, "alpha is '0.4'; it must be a number"),
        ({"beta": float("nan")}, "beta is nan"),
        ({"overlap_threshold": []}, r"overlap_threshold is \[\]"),
        ({"ensemble": 3}, "ensemble is 3; it must be text"),
        ({"ensemble": ["geometric"]}, "ensemble is .*it must be text"),
        ({"valid_mask_only": "false"}, "valid_mask_only is 'false'; it must be true, false or None"),
        ({"top_k_instances": "x" * 10_000}, "top_k_instances is 'x"),
        ({"num_threads": 10**5000}, "num_threads is a number of"),
    ],
)
def test_settings_of_the_wrong_type_get_a_sentence(setting: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        InferenceSettings(**setting)
    assert len(str(caught.value)) < 200


def test_numbers_of_other_libraries_are_numbers() -> None:
    settings = InferenceSettings(shorter_side=np.int64(640), alpha=np.float32(0.5), beta=1)
    assert settings == InferenceSettings(shorter_side=640, alpha=0.5, beta=1.0)
    assert type(settings.shorter_side) is int and type(settings.alpha) is float and type(settings.beta) is float


def test_a_segmenter_says_what_is_no_settings_and_no_vocabulary(checkpoint: Checkpoint, tmp_path: Path) -> None:
    segmenter = Segmenter(checkpoint, cache_dir=tmp_path)
    for wrong in ({}, None, "fast"):
        with pytest.raises(SettingsError, match="settings is .*expected an InferenceSettings"):
            segmenter.settings = wrong
    with pytest.raises(SettingsError, match="settings is {}"):
        Segmenter(checkpoint, settings={}, cache_dir=tmp_path)
    with pytest.raises(SettingsError, match="settings is {}"):
        segmenter.encode(FRAME, {})
    for wrong in (["mug"], "mug", None, 3, {"mug": 1}):
        with pytest.raises(VocabularyError, match="vocabulary is .*from_names"):
            segmenter.set_vocabulary(wrong)
    for wrong in (["mug"], "", Vocabulary.from_names(["mug"])):
        with pytest.raises(VocabularyError, match="expected what prepare_vocabulary"):
            segmenter(FRAME, wrong)
    with pytest.raises(VocabularyError, match="train_vocabulary is 'coco_panoptic'"):
        Segmenter.from_checkpoint("recipe:tiny", train_vocabulary="coco_panoptic")


def test_embed_text_takes_a_list_and_says_so(checkpoint: Checkpoint, tmp_path: Path) -> None:
    segmenter = Segmenter(checkpoint, cache_dir=tmp_path)
    for wrong in ("mug", b"mug", None, 3, {"mug": 1}):
        with pytest.raises(VocabularyError, match="names is .*expected a list of names"):
            segmenter.embed_text(wrong)
    with pytest.raises(VocabularyError, match="no name to embed"):
        segmenter.embed_text([])
    rows = segmenter.embed_text(name for name in ("caf\u00e9", "cafe\u0301", "mug, cup")).rows
    assert len(rows) == 3 and np.array_equal(rows[0], rows[1])
