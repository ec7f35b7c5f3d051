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

from fcclip_core import Segmenter, Vocabulary, evidence
from fcclip_core.errors import FcclipError
from fcclip_core.results import PanopticResult, Segment
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


# --- ignored pixels -----------------------------------------------------------------------------------------------


def by_hand() -> PanopticResult:
    """Three segments: columns 0-3, 4-7 and 8-9 of a map of 6 x 10 pixels, with the ids 2, 5 and 9."""
    ids = np.repeat(np.repeat([[2, 5, 9]], [4, 4, 2], axis=1), 6, axis=0).astype(np.int32)
    boxes = {2: (0, 0, 4, 6), 5: (4, 0, 8, 6), 9: (8, 0, 10, 6)}
    segments = [
        Segment(number, 1, "cup", 0.5, True, int((ids == number).sum()), box, np.zeros(4, np.float32))
        for number, box in boxes.items()
    ]
    return PanopticResult(ids, segments, 1, {})


def test_ignored_pixels_are_in_no_area_and_no_box_and_the_other_segments_keep_their_ids() -> None:
    ignored = np.zeros((6, 10), bool)
    ignored[:, :4] = True  # all of the first
    ignored[4:, 4:8] = ignored[0, 4:8] = ignored[:, 4] = True  # most of the second
    result = by_hand()
    left = result.without_pixels(ignored)
    assert [(item.id, item.area, item.box) for item in left.segments] == [(5, 9, (5, 1, 8, 4)), (9, 12, (8, 0, 10, 6))]
    np.testing.assert_array_equal(left.segment_map, np.where(ignored, 0, result.segment_map))
    assert left.segment_map.dtype == np.int32
    assert not left.class_map()[ignored].any() and not left.confidence_map()[ignored].any()
    assert (result.segment_map > 0).all(), "the result itself stays as it is"
    with pytest.raises(FcclipError, match="differ in size .4 x 3 and 10 x 6"):
        result.without_pixels(np.zeros((3, 4), bool))


def test_ignored_pixels_are_in_no_map_that_is_made_later(segmenter: Segmenter) -> None:
    result = segmenter(IMAGE)
    largest = max(result.segments, key=lambda item: item.area)
    ignored = result.segment_map == largest.id
    left = result.without_pixels(ignored)
    assert largest.id not in {item.id for item in left.segments}
    assert not left.semantic_map()[ignored].any()
    np.testing.assert_array_equal(left.semantic_map()[~ignored], result.semantic_map()[~ignored])
    kept = [index for index, item in enumerate(result.segments) if item.id != largest.id]
    np.testing.assert_array_equal(left.probabilities(), result.probabilities()[kept])
    masks = left.instances().masks
    assert not masks[:, ignored].any() and masks.any(axis=(1, 2)).all()
    same(left, pickle.loads(pickle.dumps(left)))
    renumbered = left.with_ids([item.id + 1 for item in left.segments])
    assert not renumbered.semantic_map()[ignored].any(), "other ids make no pixel visible again"
    both = left.without_pixels(result.segment_map != largest.id)
    assert not both.segments and not both.semantic_map().any()


def test_probabilities_do_not_queue_behind_the_next_image(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU, which is played here: the next image is in the queue when a frame is published."""
    result, side, used = segmenter(IMAGE), object(), []

    @contextlib.contextmanager
    def stream(one: object) -> Iterator[None]:
        used.append(one)
        yield

    monkeypatch.setattr(evidence, "_side_stream", lambda device: side)
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
    assert same_under_modes.backend_warning == ""
    assert (found.segment_map == expected.segment_map).mean() > 0.99
    assert (semantic == expected.semantic_map()).mean() > 0.99
    later = same_under_modes(IMAGE)  # what was made under the modes works without them
    assert (later.segment_map == found.segment_map).all()
    with torch.enable_grad():
        assert not segmenter.predict(IMAGE).class_probs.requires_grad
