"""The public API as a program uses it: `Segmenter` with backend `auto`, changing vocabularies, frames and pairs."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.lib.kernel_profile import profile
from benchmarks.lib.rates import timed
from fcclip_core import InferenceSettings, PanopticResult, Segmenter, Vocabulary

WORDS = Vocabulary.from_names(["cat", "chair", "cup, mug", "wall", "floor"], stuff=["wall", "floor"])
OTHER_WORDS = Vocabulary.from_names(["person", "table", "plant", "bottle", "door", "ceiling"], stuff=["ceiling"])
_ANIMALS = ("badger", "heron", "lynx", "otter", "raven", "stoat", "viper", "walrus", "yak", "zebra")
NEW_WORDS = (*_ANIMALS, *(f"wooden {animal}" for animal in _ANIMALS))
"""Twenty that no other part encodes."""


def use(checkpoint: str, image: np.ndarray, settings: InferenceSettings, *, device: str, repeat: int) -> dict[str, Any]:
    """Segments `image` with a checkpoint as a program would.

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
        segmenter = Segmenter.from_checkpoint(checkpoint, device=device, settings=settings, cache_dir=Path(cache))
        reference = Segmenter.from_checkpoint(checkpoint, device=device, backend="eager", settings=settings)
        return _use(segmenter, reference, image, repeat)


def _use(segmenter: Segmenter, reference: Segmenter, image: np.ndarray, repeat: int) -> dict[str, Any]:
    ready = [timed(segmenter.prepare, *image.shape[:2], batch)[1] for batch in (1, 2)]
    found: dict[str, Any] = {"ready_s": round(sum(ready), 1)}
    found["classes_apart"] = []
    for words in (WORDS, OTHER_WORDS, WORDS):
        segmenter.set_vocabulary(words)
        reference.set_vocabulary(words)
        # The second frame of a kind captures, the third replays.
        ours = [segmenter(image) for _ in range(3)]
        expected = reference(image).class_map()
        found["classes_apart"].append(max(_apart(result, expected) for result in ours))
    frames = [timed(segmenter, image) for _ in range(repeat)]
    found["frame_ms"] = 1e3 * median(seconds for _, seconds in frames)
    stages = frames[-1][0].timings
    found["timings_ms"] = {stage: 1e3 * median(result.timings[stage] for result, _ in frames) for stage in stages}

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
            _, seconds = timed(segmenter.set_vocabulary, Vocabulary.from_names(names))
            found["words_ms"][f"{count} {state}"] = 1e3 * seconds
    return found


def _apart(result: PanopticResult, class_map: np.ndarray) -> float:
    return float((result.class_map() != class_map).mean())


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
