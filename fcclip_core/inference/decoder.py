"""From the network's answer to segments: classification, merging and the one download of a frame.

On a GPU each of the first two is a CUDA graph for each kind of frame. The words are an input of theirs, in memory that
has room for more of them: a change of words copies a few rows and captures nothing.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Protocol

import torch
from torch import Tensor

from fcclip_core.inference.classification import Words, classify
from fcclip_core.inference.mask_resize import KEPT_SIZES
from fcclip_core.inference.postprocess import MergedFrame, Merger
from fcclip_core.inference.postprocess_gpu import DeviceMerger, create_merger
from fcclip_core.inference.preprocess import FrameGeometry
from fcclip_core.inference.stage_clock import StageClock
from fcclip_core.kernels.cuda_graph import ATTEMPTS, CapturedWork
from fcclip_core.model.fcclip import ModelOutput
from fcclip_core.quoting import first_line
from fcclip_core.settings import InferenceSettings

_logger = logging.getLogger(__name__)

_SMALLEST_ROOM = 64
"""Rows and classes that a graph has room for, at least; each doubling needs a graph of its own."""


@dataclass(frozen=True)
class Labels:
    """One frame's answer.

    Attributes:
        merged: The segments, on the host.
        class_probs: float32 `(Q, C+1)`, void last, on the device.
    """

    merged: MergedFrame
    class_probs: Tensor


class Decoder(Protocol):
    """Names and merges the masks of frames, one after the other; for one thread."""

    def __call__(
        self,
        output: ModelOutput,
        words: Words,
        geometry: FrameGeometry,
        settings: InferenceSettings,
        clock: StageClock,
    ) -> Callable[[], Labels]:
        """Starts on a frame.

        Args:
            output: Of one image.
            words: The vocabulary.
            geometry: Sizes that the image passed through.
            settings: Ensemble and thresholds.
            clock: Is told of the stages classify and merge.

        Returns:
            What waits for the answer; to be called once, before or after later frames were started.
        """
        ...


def create_decoder(device: torch.device) -> Decoder:
    """The fastest decoder for `device` that is right there."""
    merger = create_merger(device)
    plain = EagerDecoder(merger)
    return CapturedDecoder(plain, merger) if isinstance(merger, DeviceMerger) else plain


class EagerDecoder:
    """Calls one operation after the other."""

    def __init__(self, merger: Merger) -> None:
        """Merges with `merger`."""
        self._merge = merger

    @torch.inference_mode()
    def __call__(
        self,
        output: ModelOutput,
        words: Words,
        geometry: FrameGeometry,
        settings: InferenceSettings,
        clock: StageClock,
    ) -> Callable[[], Labels]:
        """See `Decoder`; the work is done when this returns."""
        probs = classify(output, words.classifier, settings).ensemble[0]
        clock.stage("classify")
        masks, embeddings = output.mask_logits[0], output.out_vocab_embedding[0]
        merged = self._merge(masks, probs, embeddings, words.is_thing, geometry, settings, words.minimum_scores)
        labels = Labels(merged, probs)
        clock.stage("merge")
        return lambda: labels


class CapturedDecoder:
    """Launches a CUDA graph for kinds of frames that come again, and lets `plain` label the others."""

    def __init__(self, plain: EagerDecoder, merger: DeviceMerger) -> None:
        """Merges with `merger`, on its GPU."""
        self._plain = plain
        self._merger = merger
        self._graphs: OrderedDict[_Kind, _LabelGraph | None] = OrderedDict()
        self._failures = 0

    @torch.inference_mode()
    def __call__(
        self,
        output: ModelOutput,
        words: Words,
        geometry: FrameGeometry,
        settings: InferenceSettings,
        clock: StageClock,
    ) -> Callable[[], Labels]:
        """See `Decoder`; returns when all is launched."""
        kind = _Kind.of(output, words, geometry, settings)
        if not self._merger.never_waits((kind.shapes[0][2], kind.shapes[0][3]), geometry):
            return self._plain(output, words, geometry, settings, clock)
        if kind not in self._graphs:
            # A single image is not worth a graph: the next of its kind is.
            self._graphs[kind] = None
            if len(self._graphs) > KEPT_SIZES:
                self._graphs.popitem(last=False)
            return self._plain(output, words, geometry, settings, clock)
        graph = self._graphs[kind]
        self._graphs.move_to_end(kind)
        if graph is None and self._failures < ATTEMPTS:
            try:
                graph = self._graphs[kind] = _LabelGraph(self._merger, kind, output, words)
            except Exception as error:  # whatever CUDA raises; the same work runs without a graph
                self._failures += 1
                if self._failures == ATTEMPTS:
                    _logger.warning("frames are labeled without a CUDA graph, more slowly: %s", first_line(error))
        if graph is None:
            return self._plain(output, words, geometry, settings, clock)
        return graph.start(output, words, clock)


@dataclass(frozen=True)
class _Kind:
    """What one graph serves.

    Attributes:
        shapes: Of the fields of `ModelOutput`.
        types: Likewise.
        rows: Text rows that there is room for.
        classes: Classes that there is room for.
        scales: Temperatures of the classifiers.
        geometry: Sizes that frames pass through.
        settings: Ensemble and thresholds.
    """

    shapes: tuple[torch.Size, ...]
    types: tuple[torch.dtype, ...]
    rows: int
    classes: int
    scales: tuple[float, float]
    geometry: FrameGeometry
    settings: InferenceSettings

    @classmethod
    def of(cls, output: ModelOutput, words: Words, geometry: FrameGeometry, settings: InferenceSettings) -> _Kind:
        tensors, classifier = tuple(vars(output).values()), words.classifier
        return cls(
            shapes=tuple(tensor.shape for tensor in tensors),
            types=tuple(tensor.dtype for tensor in tensors),
            rows=_room(len(classifier.rows)),
            classes=_room(len(classifier.seen)),
            scales=(float(classifier.in_vocab_scale), float(classifier.out_vocab_scale)),
            geometry=geometry,
            settings=settings,
        )


class _LabelGraph:
    """Classification and merging of one kind of frame, in memory of their own."""

    def __init__(self, merger: DeviceMerger, kind: _Kind, output: ModelOutput, words: Words) -> None:
        """Captures the work on copies of what the first frame brings."""
        self._merger = merger
        self._output = ModelOutput(*(tensor.clone() for tensor in vars(output).values()))
        self._words = words.padded(kind.rows, kind.classes)
        self._given = words
        device = output.mask_logits.device
        self._classify = CapturedWork(
            lambda: classify(self._output, self._words.classifier, kind.settings).ensemble[0], device
        )
        # Captured work has computed nothing yet, and merging reads its answer.
        self._classify.replay()
        masks, embeddings = self._output.mask_logits[0], self._output.out_vocab_embedding[0]
        # The merger forgets the taps of sizes that it did not meet for long, and the graph goes on reading them.
        self._taps = merger.taps_of((masks.shape[1], masks.shape[2]), kind.geometry)
        rest = (embeddings, self._words.is_thing, kind.geometry, kind.settings, self._words.minimum_scores)
        self._merge = CapturedWork(lambda: merger.merge(masks, self._classify.output, *rest), device)

    def start(self, output: ModelOutput, words: Words, clock: StageClock) -> Callable[[], Labels]:
        """See `Decoder`."""
        for mine, given in zip(vars(self._output).values(), vars(output).values(), strict=True):
            mine.copy_(given)
        if words is not self._given:
            self._take(words)
        self._classify.replay()
        probs = self._classify.output
        # The classes that there are, and void, which stands last; later frames overwrite the graph's own.
        probs = torch.cat((probs[:, : len(words.is_thing)], probs[:, -1:]), 1)
        clock.stage("classify")
        self._merge.replay()
        finish = self._merger.download(self._merge.output)
        clock.stage("merge")
        return lambda: Labels(finish(), probs)

    def _take(self, words: Words) -> None:
        """Copies a vocabulary in."""
        mine, given = self._words, words.padded(len(self._words.classifier.rows), len(self._words.is_thing))
        for target, source in ((mine.classifier, given.classifier), (mine, given)):
            for item in fields(source):
                if isinstance(tensor := getattr(target, item.name), Tensor):
                    tensor.copy_(getattr(source, item.name))
        self._given = words


def _room(count: int) -> int:
    """The next power of two."""
    return max(_SMALLEST_ROOM, 1 << (count - 1).bit_length())
