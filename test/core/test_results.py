"""Results are data: what they say stays with them wherever they go."""

from __future__ import annotations

import contextlib
import copy
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fcclip_core import Segmenter, Vocabulary, results
from fcclip_core.errors import FcclipError
from fcclip_core.results import PanopticResult
from fcclip_core.settings import InferenceSettings

SETTINGS = InferenceSettings(shorter_side=96, overlap_threshold=0.3)


def _picture() -> np.ndarray:
    """A red ball on wooden floor, as the demo's model sees one: a disc on something brown."""
    y, x = np.mgrid[:96, :128]
    picture = np.full((96, 128, 3), (150, 111, 70), np.uint8)
    picture[:40] = (225, 225, 225)
    inside = (y - 60) ** 2 + (x - 64) ** 2 < 20**2
    picture[inside] = (200, 30, 30)
    return picture


IMAGE = _picture()
WORDS = Vocabulary.from_names(["red ball, ball", "wooden floor", "white wall"], stuff=["wooden floor", "white wall"])


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    cache: Path = tmp_path_factory.mktemp("cache")
    segmenter = Segmenter.from_checkpoint("demo", device="cpu", backend="eager", settings=SETTINGS, cache_dir=cache)
    segmenter.set_vocabulary(WORDS)
    return segmenter


def same(one: PanopticResult, other: PanopticResult) -> None:
    assert (one.segment_map == other.segment_map).all()
    assert one.segments == other.segments
    assert (one.semantic_map() == other.semantic_map()).all()
    assert (one.confidence_map() == other.confidence_map()).all()
    assert (one.probabilities() == other.probabilities()).all()
    assert one.instances().names == other.instances().names
    assert (one.instances().masks == other.instances().masks).all()
    assert (one.vocabulary_version, one.timings) == (other.vocabulary_version, other.timings)


def test_a_result_is_pickled_and_copied_with_all_its_maps(segmenter: Segmenter) -> None:
    result = segmenter(IMAGE)
    assert len(result.segments) > 0
    for other in (pickle.loads(pickle.dumps(result)), copy.deepcopy(result), copy.copy(result)):
        same(result, other)
    with torch.inference_mode():
        same(result, copy.deepcopy(result))


def test_a_renumbered_result_is_pickled(segmenter: Segmenter) -> None:
    result = segmenter(IMAGE)
    renumbered = result.with_ids([segment.id + 7 for segment in reversed(result.segments)])
    same(renumbered, pickle.loads(pickle.dumps(renumbered)))


def test_instances_are_pickled(segmenter: Segmenter) -> None:
    found = segmenter(IMAGE).instances()
    again = pickle.loads(pickle.dumps(found))
    assert [row.name for row in again] == [row.name for row in found]


def test_without_its_evidence_a_result_is_small_and_says_what_it_lacks(segmenter: Segmenter) -> None:
    result = replace(segmenter(IMAGE), evidence=None)
    assert len(pickle.dumps(result)) < 100_000
    assert result.confidence_map().shape == (96, 128)
    for lacking in (result.semantic_map, result.instances, result.probabilities):
        with pytest.raises(FcclipError, match="kept without its evidence"):
            lacking()


def test_probabilities_do_not_queue_behind_the_next_image(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU, which is played here: the next image is in the queue when a frame is published."""
    result, side, used = segmenter(IMAGE), object(), []

    @contextlib.contextmanager
    def stream(one: object) -> Iterator[None]:
        used.append(one)
        yield

    monkeypatch.setattr(results, "_side_stream", lambda device: side)
    monkeypatch.setattr(torch.cuda, "stream", stream)
    assert result.probabilities().shape == (len(result.segments), 3)
    assert used == [side]


# --- the caller's own modes -------------------------------------------------------------------------------------


def test_ambient_modes_change_no_label_and_put_no_backend_out_of_use(tmp_path: Path, segmenter: Segmenter) -> None:
    expected = segmenter(IMAGE)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        modes = torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16), torch.device("meta")
        with modes[0], modes[1], modes[2]:
            same_under_modes = Segmenter.from_checkpoint(
                "demo",
                device="cpu",
                backend="auto",
                precision="fp32",
                settings=SETTINGS,
                cache_dir=tmp_path,
            )
            same_under_modes.set_vocabulary(WORDS)
            found = same_under_modes(IMAGE)
            semantic = found.semantic_map()
        assert torch.get_default_dtype() is torch.float64
    finally:
        torch.set_default_dtype(usual)
    assert same_under_modes.backend_problem == ""
    assert (found.segment_map == expected.segment_map).mean() > 0.99
    assert (semantic == expected.semantic_map()).mean() > 0.99
    later = same_under_modes(IMAGE)  # what was made under the modes works without them
    assert (later.segment_map == found.segment_map).all()
    with torch.enable_grad():
        assert not segmenter.predict(IMAGE).class_probs.requires_grad
