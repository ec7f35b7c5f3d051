"""Merging by the C++ kernel against the plain form, to the pixel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from merged_frames import CASES, CPU, Case, assert_merged, draw

from fcclip_core.files.cache_folder import cache_folder
from fcclip_core.inference import mergers
from fcclip_core.inference.postprocess import HostMerger
from fcclip_core.inference.postprocess_native import LIBRARY, NativeMerger


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    LIBRARY.load(cache_folder())


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


LARGE = {
    "full HD from a small input": Case((1080, 1920), (180, 320), (192, 320), queries=40, threshold=0.3),
    "a strip": Case((20, 5000), (64, 1600), (64, 1600), queries=20),
    "far smaller than its masks": Case((9, 17), (480, 896), (480, 896), queries=20),
}


@pytest.mark.parametrize("case", [*CASES.values(), *LARGE.values()], ids=[*CASES, *LARGE])
@pytest.mark.parametrize("seed", range(3))
def test_merges_as_panoptic_segments(case: Case, seed: int) -> None:
    frame = draw(case, seed)
    assert_merged(NativeMerger()(frame), frame)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_logits_are_widened(dtype: torch.dtype) -> None:
    frame = draw(CASES["enlarged and padded"])
    short = replace(frame, mask_logits=frame.mask_logits.to(dtype))
    assert_merged(NativeMerger()(short), replace(short, mask_logits=short.mask_logits.float()))


def test_threads_share_the_rows(threads: int) -> None:
    frame = draw(CASES["enlarged and padded"])
    assert_merged(NativeMerger()(frame), frame)


def test_segments_below_their_class_s_minimum_are_removed() -> None:
    frame = draw(CASES["every overlap is enough"])
    frame = replace(frame, minimum_scores=torch.tensor([0.0, 0.9, 0.5, 0.0, 0.9]))
    merged = NativeMerger()(frame)
    assert_merged(merged, frame)
    assert len(merged.queries) < len(NativeMerger()(replace(frame, minimum_scores=None)).queries)


def test_the_first_of_equal_masks_wins() -> None:
    frame = draw(Case((40, 70), (64, 112), (64, 128), queries=4, overlap=0.0))
    same = frame.mask_logits[:1].expand(4, -1, -1)
    frame = replace(frame, mask_logits=same, class_probs=frame.class_probs[:1].expand(4, -1))
    assert NativeMerger()(frame).queries.tolist() == [0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_lose_nothing_else(value: float) -> None:
    """Half precision overflows; what lies outside of such a mask is labeled as ever, and memory is left alone."""
    frame = draw(CASES["shrunk, not padded"])
    logits = frame.mask_logits.clone()
    logits[3] = value
    merged = NativeMerger()(replace(frame, mask_logits=logits))
    assert merged.segment_map.max() <= len(merged.queries)
    if value < 0:
        rest = torch.arange(len(logits)) != 3
        others = replace(
            frame, mask_logits=logits[rest], class_probs=frame.class_probs[rest], embeddings=frame.embeddings[rest]
        )
        np.testing.assert_array_equal(merged.segment_map, NativeMerger()(others).segment_map)
    NativeMerger()(replace(frame, mask_logits=torch.full_like(logits, value)))


def test_a_processor_without_a_compiler_merges_uncompiled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(LIBRARY, "_loaded", None)
    monkeypatch.setenv("CXX", "/nowhere/c++")
    assert isinstance(mergers.create_merger(CPU, tmp_path), HostMerger)
    assert "merging runs uncompiled" in caplog.text
    monkeypatch.undo()
    assert isinstance(mergers.create_merger(CPU, tmp_path), NativeMerger)


def test_a_kernel_that_errs_is_not_used(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    real = NativeMerger.__call__
    monkeypatch.setattr(
        NativeMerger,
        "__call__",
        lambda self, masks: replace(real(self, masks), segment_map=real(self, masks).segment_map[::-1]),
    )
    assert isinstance(mergers.create_merger(CPU, None), HostMerger)
    assert "differ from the plain form's" in caplog.text
