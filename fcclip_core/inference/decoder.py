"""From the network's output to segments: classification, merging and the one download per frame.

On a GPU, classification and merging are one CUDA graph each per kind of frame. The vocabulary is an input of the
graphs, padded to a larger size: changing it copies a few rows and needs no new capture.
"""

from __future__ import annotations

import functools
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from fcclip_core.inference.classification import Words, classify
from fcclip_core.inference.kmax_merging import kmax_segments
from fcclip_core.inference.mask_resize import KEPT_SIZES
from fcclip_core.inference.mergers import create_merger
from fcclip_core.inference.postprocess import ClassifiedMasks, HostMerger, MergedFrame, Merger
from fcclip_core.inference.postprocess_gpu import DeviceMerger
from fcclip_core.inference.preprocess import FrameGeometry
from fcclip_core.inference.stage_clock import StageClock
from fcclip_core.kernels.cuda_graph import ATTEMPTS, CapturedWork
from fcclip_core.model.fcclip import ModelOutput
from fcclip_core.quoting import first_line
from fcclip_core.settings import KMAX_MERGING, InferenceSettings

_logger = logging.getLogger(__name__)

_MIN_CAPACITY = 64
"""Smallest number of rows and classes that a graph is padded to; each doubling needs another graph."""


@dataclass(frozen=True)
class UndecodedFrame:
    """What is decoded into the segments of one frame.

    Attributes:
        output: The network's output for one image.
        words: The vocabulary.
        geometry: Sizes of the image.
        settings: Ensemble and thresholds.
    """

    output: ModelOutput
    words: Words
    geometry: FrameGeometry
    settings: InferenceSettings


@dataclass(frozen=True)
class DecodedFrame:
    """Segments and class probabilities of one frame.

    Attributes:
        merged: The segments, on the host.
        class_probs: float32 `(Q, C+1)`, void last, on the device.
    """

    merged: MergedFrame
    class_probs: Tensor


Decoder = Callable[[UndecodedFrame, StageClock], Callable[[], DecodedFrame]]
"""Starts decoding a frame and records the stages classify and merge; not thread-safe.

Returns a function that waits for the result, to be called once, before or after later frames are started."""


def create_decoder(device: torch.device, kernels: Path | None = None) -> Decoder:
    """Creates the fastest decoder that works on `device`; `kernels` as for `create_merger`."""
    merger = create_merger(device, kernels)
    eager = EagerDecoder(merger)
    return CapturedDecoder(eager, merger) if isinstance(merger, DeviceMerger) else eager


class EagerDecoder:
    """Launches one operation after the other."""

    def __init__(self, merger: Merger) -> None:
        """Merges with `merger`; what is merged as kMaX does is so in plain operations, on any device."""
        self._merge = merger
        self._kmax_merger = functools.lru_cache(1)(lambda device: HostMerger(device, kmax_segments))

    @torch.inference_mode()
    def __call__(self, frame: UndecodedFrame, clock: StageClock) -> Callable[[], DecodedFrame]:
        """See `Decoder`; the work is done when this returns."""
        probs = classify(frame.output, frame.words.classifier, frame.settings).ensemble[0]
        clock.stage("classify")
        by_shares = frame.settings.merging == KMAX_MERGING
        merge = self._kmax_merger(probs.device) if by_shares else self._merge
        decoded = DecodedFrame(merge(_classified(frame, probs)), probs)
        clock.stage("merge")
        return lambda: decoded


class CapturedDecoder:
    """Replays a CUDA graph for kinds of frames that recur; other frames are decoded by `eager`."""

    def __init__(self, eager: EagerDecoder, merger: DeviceMerger) -> None:
        """Merges with `merger`, on its GPU."""
        self._eager = eager
        self._merger = merger
        self._graphs: OrderedDict[_Kind, _DecoderGraph | None] = OrderedDict()
        self._failures = 0

    @torch.inference_mode()
    def __call__(self, frame: UndecodedFrame, clock: StageClock) -> Callable[[], DecodedFrame]:
        """See `Decoder`; returns when all work is launched."""
        kind = _Kind.of(frame)
        # kMaX's merging decides mask after mask on the host, which no graph can hold.
        by_shares = frame.settings.merging == KMAX_MERGING
        if by_shares or not self._merger.is_capturable((kind.shapes[0][2], kind.shapes[0][3]), frame.geometry):
            return self._eager(frame, clock)
        if kind not in self._graphs:
            # Capturing does not pay off for a single image: the second of its kind is captured.
            self._graphs[kind] = None
            if len(self._graphs) > KEPT_SIZES:
                self._graphs.popitem(last=False)
            return self._eager(frame, clock)
        graph = self._graphs[kind]
        self._graphs.move_to_end(kind)
        if graph is None and self._failures < ATTEMPTS:
            try:
                graph = self._graphs[kind] = _DecoderGraph(self._merger, kind, frame)
            except Exception as error:  # CUDA raises various types; the same work runs without a graph
                self._failures += 1
                if self._failures == ATTEMPTS:
                    _logger.warning("decoding frames without a CUDA graph, which is slower: %s", first_line(error))
        if graph is None:
            return self._eager(frame, clock)
        return graph.start(frame, clock)


@dataclass(frozen=True)
class _Kind:
    """Properties that all frames of one graph share.

    Attributes:
        shapes: Shapes of the fields of `ModelOutput`.
        types: Types of the fields of `ModelOutput`.
        rows: Capacity for text rows.
        classes: Capacity for classes.
        scales: Logit scales of the classifiers.
        geometry: Sizes of the frames.
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
    def of(cls, frame: UndecodedFrame) -> _Kind:
        tensors, classifier = tuple(vars(frame.output).values()), frame.words.classifier
        return cls(
            shapes=tuple(tensor.shape for tensor in tensors),
            types=tuple(tensor.dtype for tensor in tensors),
            rows=_capacity(len(classifier.rows)),
            classes=_capacity(len(classifier.seen)),
            scales=(float(classifier.in_vocab_scale), float(classifier.out_vocab_scale)),
            geometry=frame.geometry,
            settings=frame.settings,
        )


class _DecoderGraph:
    """Classification and merging of one kind of frame, in their own memory."""

    def __init__(self, merger: DeviceMerger, kind: _Kind, frame: UndecodedFrame) -> None:
        """Captures the work on copies of the first frame's inputs."""
        self._merger = merger
        output = frame.output.map(torch.clone)
        words = frame.words.padded(kind.rows, kind.classes)
        self._frame = UndecodedFrame(output, words, kind.geometry, kind.settings)
        self._last_words = frame.words
        device = output.mask_logits.device
        self._classify = CapturedWork(lambda: classify(output, words.classifier, kind.settings).ensemble[0], device)
        # Capturing computes nothing, and merging reads the class probabilities.
        self._classify.replay()
        masks = _classified(self._frame, self._classify.output)
        # The merger's cache may drop these taps, but the graph keeps reading them.
        self._taps = merger.taps_of(masks.mask_size, kind.geometry)
        self._merge = CapturedWork(lambda: merger.merge(masks), device)

    def start(self, frame: UndecodedFrame, clock: StageClock) -> Callable[[], DecodedFrame]:
        """See `Decoder`."""
        for target, source in zip(vars(self._frame.output).values(), vars(frame.output).values(), strict=True):
            target.copy_(source)
        if frame.words is not self._last_words:
            self._copy_words(frame.words)
        self._classify.replay()
        probs = self._classify.output
        # Copies the actual classes and void, the last column: later frames overwrite the graph's output.
        probs = torch.cat((probs[:, : len(frame.words.is_thing)], probs[:, -1:]), 1)
        clock.stage("classify")
        self._merge.replay()
        finish = self._merger.download(self._merge.output)
        clock.stage("merge")
        return lambda: DecodedFrame(finish(), probs)

    def _copy_words(self, words: Words) -> None:
        """Copies a vocabulary into the graph's input."""
        own = self._frame.words
        padded = words.padded(len(own.classifier.rows), len(own.is_thing))
        for target, source in ((own.classifier, padded.classifier), (own, padded)):
            for item in fields(source):
                if isinstance(tensor := getattr(target, item.name), Tensor):
                    tensor.copy_(getattr(source, item.name))
        self._last_words = words


def _classified(frame: UndecodedFrame, class_probs: Tensor) -> ClassifiedMasks:
    """The masks of `frame` with `class_probs` `(Q, C+1)`."""
    output, words = frame.output, frame.words
    masks, embeddings = output.mask_logits[0], output.out_vocab_embedding[0]
    return ClassifiedMasks(
        masks, class_probs, embeddings, words.is_thing, frame.geometry, frame.settings, words.minimum_scores
    )


def _capacity(count: int) -> int:
    """The next power of two, at least `_MIN_CAPACITY`."""
    return max(_MIN_CAPACITY, 1 << (count - 1).bit_length())
