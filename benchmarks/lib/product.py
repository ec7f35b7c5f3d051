"""What a user gets: `Segmenter` with backend `auto`, words that change, frames by themselves and in pairs."""

from __future__ import annotations

import functools
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.lib.kernel_profile import profile
from fcclip_core import InferenceSettings, PanopticResult, Segmenter, Vocabulary

WORDS = Vocabulary.from_names(["cat", "chair", "cup, mug", "wall", "floor"], stuff=["wall", "floor"])
OTHER_WORDS = Vocabulary.from_names(["person", "table", "plant", "bottle", "door", "ceiling"], stuff=["ceiling"])
_ANIMALS = ("badger", "heron", "lynx", "otter", "raven", "stoat", "viper", "walrus", "yak", "zebra")
NEW_WORDS = (*_ANIMALS, *(f"wooden {animal}" for animal in _ANIMALS))
"""Twenty that no other part encodes."""


def use(checkpoint: str, image: np.ndarray, settings: InferenceSettings, *, device: str, repeat: int) -> dict[str, Any]:
    """Segments `image` with a checkpoint as a program would, and notes what it gets.

    Args:
        checkpoint: As for `Segmenter.from_checkpoint`.
        image: uint8 RGB `(H, W, 3)`.
        settings: Size and thresholds.
        device: Likewise.
        repeat: Frames to time.

    Returns:
        description, problem, ready_s; for each of two vocabularies the share of pixels whose class differs from eager
        float32's; timings and frame_ms, medians; pair_apart: the same share for two images at once against one by one;
        words_ms: 1 and 19 new words, cold and warm; calls: what a frame asks of CUDA; waits: what torch calls a
        synchronization in a frame.
    """
    with tempfile.TemporaryDirectory() as cache:  # words that an earlier run kept on disk would not be cold
        return _use(checkpoint, image, settings, device, repeat, Path(cache))


def _use(
    checkpoint: str, image: np.ndarray, settings: InferenceSettings, device: str, repeat: int, cache: Path
) -> dict[str, Any]:
    segmenter = Segmenter.from_checkpoint(checkpoint, device=device, settings=settings, cache_dir=cache)
    began = time.perf_counter()
    height, width = image.shape[:2]
    for batch in (1, 2):
        segmenter.prepare(height, width, batch)
    found: dict[str, Any] = {"ready_s": round(time.perf_counter() - began, 1)}
    reference = Segmenter.from_checkpoint(checkpoint, device=device, backend="eager", settings=settings)
    found["classes_apart"] = []
    for words in (WORDS, OTHER_WORDS, WORDS):
        segmenter.set_vocabulary(words)
        reference.set_vocabulary(words)
        # The second frame of a kind captures, the third replays.
        ours = [segmenter(image) for _ in range(3)]
        expected = reference(image).class_map()
        found["classes_apart"].append(max(_apart(result, expected) for result in ours))
    frames = [_timed(lambda: segmenter(image)) for _ in range(repeat)]
    found["frame_ms"] = 1e3 * median(seconds for seconds, _ in frames)
    stages = frames[-1][1].timings
    found["timings_ms"] = {stage: 1e3 * median(result.timings[stage] for _, result in frames) for stage in stages}

    pair = [image, np.ascontiguousarray(image[:, ::-1])]
    together = [segmenter.decode(encoded) for encoded in segmenter.encode_batch(pair)]
    found["pair_apart"] = max(
        _apart(result, segmenter(one).class_map()) for result, one in zip(together, pair, strict=True)
    )
    found["description"], found["problem"] = segmenter.backend_description, segmenter.backend_warning
    found["profile"] = profile(lambda: segmenter(image), segmenter.device)
    found["waits"] = _waits(lambda: segmenter(image), segmenter.device)
    found["words_ms"] = {}
    # The first of the twenty is cold alone, the others together.
    for count, names in (("1", NEW_WORDS[:1]), ("19", NEW_WORDS[1:])):
        for state in ("cold", "warm"):
            seconds, _ = _timed(functools.partial(segmenter.set_vocabulary, Vocabulary.from_names(names)))
            found["words_ms"][f"{count} {state}"] = 1e3 * seconds
    return found


def _apart(result: PanopticResult, class_map: np.ndarray) -> float:
    return float((result.class_map() != class_map).mean())


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    answer = work()
    return time.perf_counter() - began, answer


def _waits(work: Callable[[], Any], device: torch.device) -> list[str]:
    """Where torch says that the host waits for the device."""
    if device.type != "cuda":
        return []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return [f"{one.filename.rpartition('/')[2]}:{one.lineno}" for one in caught]
