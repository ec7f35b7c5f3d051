"""Labels on a GPU without one: graphs are played by the work that they capture, run again in the same memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from fcclip_core import InferenceSettings
from fcclip_core.inference import decoder as device_labels
from fcclip_core.inference import postprocess_gpu as device_postprocess
from fcclip_core.inference.classification import TextClassifier, Words, classify
from fcclip_core.inference.decoder import CapturedDecoder, DecodedFrame, EagerDecoder, UndecodedFrame
from fcclip_core.inference.mask_resize import MaskResizer
from fcclip_core.inference.ownership import FrameTaps, OwnedPixels, owned_pixels
from fcclip_core.inference.postprocess import ClassifiedMasks
from fcclip_core.inference.postprocess_gpu import DeviceMerger, PackedFrame
from fcclip_core.inference.preprocess import FrameGeometry
from fcclip_core.inference.stage_clock import StageClock
from fcclip_core.kernels.cuda_graph import ATTEMPTS
from fcclip_core.model.fcclip import ModelOutput

CPU = torch.device("cpu")
QUERIES, WIDTH, MASK = 12, 16, (16, 24)
SETTINGS = InferenceSettings(shorter_side=64, valid_mask_only=True, overlap_threshold=0.2)
GEOMETRY = FrameGeometry((50, 75), (64, 96), (64, 96))


def words(classes: int, seed: int = 0) -> Words:
    """`classes` classes of one to three synonyms, every other one a thing, every third one seen."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.tensor([1 + index % 3 for index in range(classes)])
    rows = torch.randn(int(counts.sum()), WIDTH, generator=generator)
    index = torch.arange(classes)
    classifier = TextClassifier(
        rows=torch.nn.functional.normalize(rows, dim=-1),
        void=torch.nn.functional.normalize(torch.ones(1, WIDTH), dim=-1),
        class_of_row=index.repeat_interleave(counts),
        seen=index % 3 == 0,
        in_vocab_scale=14.0,
        out_vocab_scale=100.0,
    )
    return Words(classifier, index % 2 == 0)


def output(seed: int) -> ModelOutput:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, QUERIES, 4, 5, generator=generator) * 12 - 3
    masks = torch.nn.functional.interpolate(coarse, size=MASK, mode="bicubic")
    embeddings = torch.randn(2, 1, QUERIES, WIDTH, generator=generator)
    return ModelOutput(masks, embeddings[0], embeddings[1], torch.rand(1, QUERIES, generator=generator) > 0.2)


class PlayedGraph:
    """Runs the work again, and leaves the answer where the first one lies, as a CUDA graph does."""

    captured = 0

    def __init__(self, work: Callable[[], Any], device: torch.device) -> None:
        type(self).captured += 1
        self._work = work
        self.output = work()

    def replay(self) -> None:
        again = self._work()
        if isinstance(again, PackedFrame):
            self.output.data.copy_(again.data)
        else:
            self.output.copy_(again)


def by_taps(logits: torch.Tensor, scores: torch.Tensor, kept: torch.Tensor, taps: FrameTaps) -> OwnedPixels:
    """The plain form in the kernel's place."""
    return owned_pixels(logits, scores, kept, MaskResizer(GEOMETRY, MASK, CPU))


@pytest.fixture
def plain() -> EagerDecoder:
    return EagerDecoder(DeviceMerger(CPU))


@pytest.fixture
def captured(plain: EagerDecoder, monkeypatch: pytest.MonkeyPatch) -> Iterator[CapturedDecoder]:
    monkeypatch.setattr(device_labels, "CapturedWork", PlayedGraph)
    PlayedGraph.captured = 0
    merger = DeviceMerger(CPU)
    merger._kernel = by_taps
    yield CapturedDecoder(plain, merger)


def start(decoder: CapturedDecoder | EagerDecoder, frame: ModelOutput, named: Words) -> Callable[[], DecodedFrame]:
    return decoder(UndecodedFrame(frame, named, GEOMETRY, SETTINGS), StageClock(CPU))


def assert_same(found: DecodedFrame, expected: DecodedFrame) -> None:
    """Equal but for pixels at which rounding decides."""
    torch.testing.assert_close(found.class_probs, expected.class_probs, rtol=1e-5, atol=1e-6)
    assert (found.merged.segment_map != expected.merged.segment_map).mean() < 0.005
    np.testing.assert_array_equal(found.merged.class_indices, expected.merged.class_indices)
    np.testing.assert_array_equal(found.merged.queries, expected.merged.queries)
    np.testing.assert_allclose(found.merged.scores, expected.merged.scores, rtol=1e-5)
    assert len(found.merged.queries) > 1


@pytest.mark.parametrize("ensemble", ["geometric", "arithmetic", "in_vocabulary", "out_of_vocabulary"])
@pytest.mark.parametrize(("rows", "classes"), [(64, 64), (10, 6), (9, 5)])
def test_room_for_more_words_changes_no_probability(ensemble: str, rows: int, classes: int) -> None:
    settings, named = replace(SETTINGS, ensemble=ensemble), words(5)
    assert len(named.classifier.rows) == 9
    expected = classify(output(0), named.classifier, settings).ensemble
    padded = classify(output(0), named.classifier.padded(rows, classes), settings).ensemble
    torch.testing.assert_close(torch.cat((padded[..., :5], padded[..., -1:]), -1), expected, rtol=1e-5, atol=1e-7)
    assert not padded[..., 5:-1].any()


def test_graphs_answer_as_single_operations(captured: CapturedDecoder, plain: EagerDecoder) -> None:
    # The first frame of a kind runs plainly, the second captures, the others replay.
    for seed in range(4):
        assert_same(start(captured, output(seed), words(5))(), start(plain, output(seed), words(5))())
    assert PlayedGraph.captured == 2


def test_new_words_capture_nothing(captured: CapturedDecoder, plain: EagerDecoder) -> None:
    for seed, classes in enumerate([5, 5, 3, 30, 4, 5]):
        named = words(classes, seed)
        assert_same(start(captured, output(seed), named)(), start(plain, output(seed), named)())
    assert PlayedGraph.captured == 2
    # Twice as many as there is room for need a graph with more.
    for seed in range(2):
        assert_same(start(captured, output(seed), words(70))(), start(plain, output(seed), words(70))())
    assert PlayedGraph.captured == 4


def test_a_frame_may_be_read_after_the_next_was_started(captured: CapturedDecoder, plain: EagerDecoder) -> None:
    for seed in range(2):
        start(captured, output(seed), words(5))()
    first, second = (start(captured, output(seed), words(5, seed)) for seed in (7, 8))
    found = [first(), second()]
    third = start(captured, output(9), words(4))()
    for seed, labels in zip((7, 8), found, strict=True):
        assert_same(labels, start(plain, output(seed), words(5, seed))())
    assert_same(third, start(plain, output(9), words(4))())


def test_what_cannot_be_captured_is_labeled_plainly(
    captured: CapturedDecoder, plain: EagerDecoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    attempts: list[object] = []

    def refuse(work: object, device: torch.device) -> None:
        attempts.append(work)
        raise RuntimeError("operation not permitted when stream is capturing\nCUDA kernel errors ...")

    monkeypatch.setattr(device_labels, "CapturedWork", refuse)
    for seed in range(6):
        assert_same(start(captured, output(seed), words(5))(), start(plain, output(seed), words(5))())
    # More than once, because another thread may have been in the way, and not for ever.
    assert len(attempts) == ATTEMPTS
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "decoding frames without a CUDA graph, which is slower: operation not permitted when stream is capturing"
    ]


def test_a_capture_that_another_thread_spoiled_is_tried_again(
    captured: CapturedDecoder, plain: EagerDecoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start(captured, output(0), words(5))()
    with monkeypatch.context() as spoiled:
        spoiled.setattr(device_labels, "CapturedWork", lambda *_: 1 / 0)
        assert_same(start(captured, output(1), words(5))(), start(plain, output(1), words(5))())
    assert PlayedGraph.captured == 0
    for seed in (2, 3):
        assert_same(start(captured, output(seed), words(5))(), start(plain, output(seed), words(5))())
    assert PlayedGraph.captured == 2
    assert not caplog.records


class Reads(TorchDispatchMode):
    """Counts operations that make the host wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, options = func.__name__.partition(".")[0], kwargs or {}
        from_host = any(isinstance(arg, torch.Tensor) and arg.device.type == "cpu" and arg.dim() for arg in args)
        to_host = options.get("device") is not None and torch.device(options["device"]).type == "cpu"
        by_data = name in ("_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique2", "item")
        if from_host or to_host or by_data:
            self.waits.append(name)
        return func(*args, **options)


def test_nothing_between_the_network_and_the_download_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    # On tensors of a GPU that is not there: what reads one of their values fails or is counted.
    monkeypatch.setattr(device_postprocess, "_gpu_kernel", lambda: None)
    gpu, named, shapes = torch.device("cuda:0"), words(5), vars(output(0)).values()
    with FakeTensorMode() as fake:
        frame = ModelOutput(*(torch.empty(value.shape, dtype=value.dtype, device=gpu) for value in shapes))
        classifier = replace(
            named.classifier,
            **{
                name: fake.from_tensor(getattr(named.classifier, name)).to(gpu)
                for name in ("rows", "void", "class_of_row", "seen")
            },
        )
        is_thing = torch.empty(5, dtype=torch.bool, device=gpu)
        merger = DeviceMerger(gpu)
        counts = torch.empty((3, QUERIES), dtype=torch.int32, device=gpu)
        owner = torch.empty(GEOMETRY.image, dtype=torch.int32, device=gpu)
        monkeypatch.setattr(merger, "_owned_pixels", lambda *_: OwnedPixels(owner, owner > 0, *counts))
        with Reads() as reads:
            padded = classifier.padded(64, 64)
            probs = classify(frame, padded, SETTINGS).ensemble[0]
            masks = ClassifiedMasks(
                frame.mask_logits[0], probs, frame.out_vocab_embedding[0], is_thing, GEOMETRY, SETTINGS
            )
            packed = merger.merge(masks)
    assert reads.waits == []
    assert packed.data.device == gpu
    # One block of bytes: unit embeddings, labels and scores, the table, the map.
    assert len(packed.data) == QUERIES * WIDTH * 4 + 2 * QUERIES * 4 + 6 * QUERIES * 4 + 50 * 75


def test_a_frame_is_downloaded_once_and_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    class Event:
        def record(self, stream: object) -> None:
            calls.append("record")

        def synchronize(self) -> None:
            calls.append("wait")

    class OnGpu:
        """The bytes of a frame, as if they lay on a GPU."""

        is_cuda, device = True, torch.device("cuda")

        def __init__(self, data: torch.Tensor) -> None:
            self.data = data

        def __len__(self) -> int:
            return len(self.data)

    class Landing(torch.Tensor):
        def copy_(self, source: Any, non_blocking: bool = False) -> Any:
            assert non_blocking
            calls.append("copy")
            return super().copy_(source.data)

    merger = DeviceMerger(CPU)
    named, frame = words(5), output(0)
    probs = classify(frame, named.classifier, SETTINGS).ensemble[0]
    embeddings = frame.out_vocab_embedding[0]
    masks = ClassifiedMasks(frame.mask_logits[0], probs, embeddings, named.is_thing, GEOMETRY, SETTINGS)
    packed, expected = merger.merge(masks), merger(masks)
    empty = torch.empty

    def landing(*shape: int, pin_memory: bool = False, **options: Any) -> torch.Tensor:
        return empty(*shape, **options).as_subclass(Landing)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(torch, "empty", landing)
    merger._landings.clear()
    on_gpu = PackedFrame(OnGpu(packed.data), packed.parts)  # type: ignore[arg-type]
    first, second = merger.download(on_gpu), merger.download(on_gpu)
    assert calls == ["copy", "record"] * 2
    for found in (first(), second()):
        np.testing.assert_array_equal(found.segment_map, expected.segment_map)
    assert calls == ["copy", "record"] * 2 + ["wait"] * 2


def test_a_graph_keeps_what_it_reads(captured: CapturedDecoder, no_collector: None) -> None:
    # Frames of other sizes make the merger forget the taps; the graph of the first size still reads their memory.
    for seed in range(2):
        start(captured, output(seed), words(5))()
    merger = captured._merger
    taps = weakref.ref(merger.taps_of(MASK, GEOMETRY))
    for height in range(40, 50):
        merger.taps_of(MASK, FrameGeometry((height, 75), (64, 96), (64, 96)))
    assert taps() is not None


def test_taught_words_replay_in_a_graph_that_was_captured_without(
    captured: CapturedDecoder, plain: EagerDecoder
) -> None:
    """Rows and shares of examples are inputs of the graph, and leave it again with the words that had them."""
    named = words(5)
    rows = torch.nn.functional.normalize(named.classifier.rows.flip(0), dim=-1) * 1.5
    taught = replace(named, classifier=named.classifier.with_examples(rows, torch.tensor([0, 1, 0, 0.3, 0])))
    for seed, given in enumerate([named, named, taught, named, taught.only([1, 2, 3])]):
        assert_same(start(captured, output(seed), given)(), start(plain, output(seed), given)())
    assert PlayedGraph.captured == 2
