"""Camera messages in, labeled frames out: the threads between the executor and the segmenter."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from fcclip_core.errors import DeviceLostError, FcclipError, ImageError, VocabularyError
from fcclip_core.images.image_limits import MAX_PIXELS
from fcclip_core.results import PanopticResult
from fcclip_core.segmenter import EncodedImage, Segmenter
from fcclip_core.settings import InferenceSettings
from fcclip_core.vocabulary.classes import Vocabulary
from fcclip_core.vocabulary.snapshot import TextEmbeddings, VocabularySnapshot
from fcclip_ros.conversions.frame import LabeledFrame
from fcclip_ros.conversions.images import size_of, to_rgb
from fcclip_ros.node.frame_statistics import Statistics
from fcclip_ros.node.word_queue import Request, WordQueue
from fcclip_ros.node.worker import Worker

Outcome = TypeVar("Outcome")

MAX_TASKS = 64
"""Requests that may wait for the inference thread: each may hold an image."""


class Stream(Protocol):
    """One camera, as the pipeline knows it; all but `statistics` is called on the inference thread.

    Attributes:
        statistics: Where its frames are counted.
    """

    statistics: Statistics

    def prefetch_depth(self, header: Any) -> None:
        """Is told of each frame that the network is about to take, so that its depth can be looked for meanwhile."""

    def deliver(self, frame: LabeledFrame) -> None:
        """Takes each labeled frame, as it left the network: depth and lasting ids are the camera's to add."""

    def set_vocabulary(self, snapshot: VocabularySnapshot) -> None:
        """Takes each vocabulary that came into force for this camera, before its first frame."""

    def warn(self, text: str) -> None:
        """Is told about frames that cannot be labeled."""


@dataclass(frozen=True)
class _PendingFrame:
    """A camera's message.

    Attributes:
        stream: The camera.
        message: Image or CompressedImage.
        time: When it came, monotonic seconds.
        size: (height, width) of what the network will see; None if the message is broken.
        max_pixels: Pixels that it may have.
    """

    stream: Stream
    message: Any
    time: float
    size: tuple[int, int] | None
    max_pixels: int

    @functools.cached_property
    def frame(self) -> _Frame | Exception:
        """The message as an image, or why it is none; read when first asked for."""
        began = time.monotonic()
        try:
            image = to_rgb(self.message, self.max_pixels)
        except Exception as error:  # a converter's own fault must not end the thread either
            return error.with_traceback(None)
        latencies = {"wait": began - self.time, "convert": time.monotonic() - began}
        return _Frame(self.stream, self.time, self.message.header, image, latencies)


@dataclass(frozen=True)
class _Frame:
    """A message that was read; `latencies` are seconds per stage until then."""

    stream: Stream
    arrival_time: float
    header: Any
    image: np.ndarray
    latencies: dict[str, float]


@dataclass(frozen=True)
class _InFlight:
    """A frame that the network and the merging were launched for.

    Attributes:
        frame: What was read.
        snapshot: The vocabulary that it is labeled with.
        encoded: The network's answer.
        answer: Waits for the result; raises what failed.
        together: Whether other frames went through the network at the same time.
    """

    frame: _Frame
    snapshot: VocabularySnapshot
    encoded: EncodedImage
    answer: Callable[[], PanopticResult]
    together: bool


@dataclass(frozen=True)
class WordOptions:
    """What the node's parameters do to all words that are given to it.

    Attributes:
        stuff: Names of classes that are stuff besides.
        publish_only: Names of the only classes that are published; empty for all.
        background: What competes with the classes, as far as it does not overlap with them.
    """

    stuff: tuple[str, ...] = ()
    publish_only: tuple[str, ...] = ()
    background: Vocabulary | None = None

    def apply(self, given: Vocabulary) -> Vocabulary:
        """The classes that label frames.

        Raises:
            VocabularyError: None of them would be published.
        """
        words = given.with_stuff(self.stuff)
        if self.publish_only:
            words = words.publishing(self.publish_only)
        return words.with_background(self.background)


@dataclass(eq=False)
class _Words:
    """Words that were given to the cameras: what is in force for a camera, or will be.

    Attributes:
        given: The classes as they came.
        stream: The camera that they were given to; None for all.
    """

    given: Vocabulary
    stream: Stream | None


class _Flight:
    """Frames that were started together; see `worker.Started`."""

    def __init__(self, frames: list[_InFlight], pipeline: Pipeline) -> None:
        self._frames = frames
        self._pipeline = pipeline
        self._results: list[tuple[_InFlight, PanopticResult]] = []

    def wait(self) -> None:
        for frame in self._frames:
            try:
                self._results.append((frame, frame.answer()))
            except Exception as error:  # Out of memory, a driver's fault: the next frame may be fine.
                self._pipeline._failed(frame.frame.stream, error)

    def finish(self) -> None:
        for result in self._results:
            self._pipeline._publish(*result)


class Pipeline:
    """Runs a segmenter beside the executor, on two threads: one for frames, one for words.

    Cameras take turns. Frames of different cameras that wait together and have one size, as the network sees them, go
    through it together; each is published as soon as it is labeled, on a GPU while it computes the next frame.

    A vocabulary is encoded on the second thread and comes into force on the first, between two frames, which also is
    where it is announced: no frame labeled with an older vocabulary is published after that.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        streams: Sequence[Stream],
        *,
        announce: Callable[[VocabularySnapshot], None],
        lost: Callable[[DeviceLostError], None],
        max_batch: int,
    ) -> None:
        """Starts the threads.

        Args:
            segmenter: Belongs to the pipeline from now on.
            streams: The cameras.
            announce: Called on the inference thread with each vocabulary that came into force for all cameras, after it
                was announced to each.
            lost: Called on the inference thread when a frame met a device that answers no more.
            max_batch: Frames that go through the network together, at most.
        """
        self._segmenter = segmenter
        self._streams = tuple(streams)
        self._announce = announce
        self._lost = lost
        self._most_together = min(max_batch, len(self._streams))
        self._expected: set[tuple[int, int]] = set()
        # Of each camera, and under None of those that come without words of their own.
        self._snapshots: dict[Stream | None, VocabularySnapshot] = {}
        self._in_force: dict[Stream | None, _Words] = {}
        self._orders: dict[Stream | None, int] = {}
        self.word_options = WordOptions()
        """What the parameters do to all words; see `change_options`."""
        self.max_image_pixels = MAX_PIXELS
        """Pixels that an image may have, of cameras and of services; assigning takes effect with the next message."""
        self._frames: Worker[_PendingFrame] = Worker(
            "inference",
            self._start,
            _can_batch,
            max_batch,
            look_ahead=lambda arrival: arrival.frame,
            failed=self._all_failed,
        )
        self._words = WordQueue(segmenter)

    @property
    def settings(self) -> InferenceSettings:
        """Inference settings; assigning takes effect with the next frame."""
        return self._segmenter.settings

    @settings.setter
    def settings(self, settings: InferenceSettings) -> None:
        self._segmenter.settings = settings

    @property
    def segmenter(self) -> Segmenter:
        """For what is done on the inference thread besides."""
        return self._segmenter

    @property
    def device(self) -> str:
        """Where the network runs."""
        return str(self._segmenter.device)

    @property
    def backend(self) -> str:
        """What runs there."""
        return self._segmenter.backend_description

    @property
    def encoding_classes(self) -> int:
        """Number of classes of the vocabulary whose words are being read; 0 for none."""
        return self._words.classes

    @property
    def given_words(self) -> Vocabulary | None:
        """The words that were last given to all cameras, as they came; None before the first."""
        words = self._in_force.get(None)
        return words.given if words else None

    @property
    def backend_warning(self) -> str:
        """What should run there and does not any more, and why; empty while nothing is wrong."""
        return self._segmenter.backend_warning

    def enqueue_frame(self, stream: Stream, message: Any) -> None:
        """Takes a camera's frame (Image or CompressedImage); one of that camera still waiting is dropped for it."""
        stream.statistics.received()
        limit = self.max_image_pixels
        try:
            size = size_of(message, limit)
            padded = None if size is None else self._segmenter.padded_size(*size)
        except Exception as error:  # Settings under which no image has a size, for example.
            self._failed(stream, error)
            return
        if self._frames.replace(stream, _PendingFrame(stream, message, time.monotonic(), padded, limit)) is not None:
            stream.statistics.dropped()

    def discard_frame(self, stream: Stream) -> None:
        """Drops the camera's frame that waits, if one does."""
        if self._frames.discard(stream) is not None:
            stream.statistics.dropped()

    def set_vocabulary(self, vocabulary: Vocabulary, stream: Stream | None = None) -> Future[VocabularySnapshot]:
        """Encodes a vocabulary and puts it into force; frames go on with the old one until it is ready.

        Args:
            vocabulary: The classes.
            stream: The camera that gets it, until the next vocabulary for it or for all; None: all cameras.

        Returns:
            The vocabulary in force, or VocabularyError, in which case the old one stays; `Superseded` if a newer one
            came before its words were read.

        Raises:
            VocabularyError: None of its classes would be published.
        """
        words, options = _Words(vocabulary, stream), self.word_options
        classes = options.apply(vocabulary)
        request = self._words.submit_vocabulary(
            classes.synonyms,
            lambda request: self._change_vocabulary(classes, options, words, request),
            len(vocabulary),
            stream,
        )
        return request.future

    def change_options(self, options: WordOptions) -> Future[list[VocabularySnapshot]]:
        """Applies other options to the active words, whoever gave them, and to those that are on their way.

        Args:
            options: Instead of those until now, with the same background: words that were never read take time.

        Returns:
            The vocabularies in force that differ by it; none if no class does. Words of which nothing would be
            published stay as they are: VocabularyError.
        """
        self.word_options = options
        return self._frames.submit(self._apply_options)

    def segment(
        self, message: Any, vocabulary: Vocabulary | None, then: Callable[[LabeledFrame], Outcome]
    ) -> Future[Outcome]:
        """Segments one image before the cameras' next frames.

        Args:
            message: Image or CompressedImage.
            vocabulary: For this image alone; None takes the one that was last given to all cameras.
            then: Called on the inference thread with the labeled image.

        Returns:
            What `then` returned, or the error that came before.
        """
        if vocabulary is None:
            return self._submit(self._label_for, message, None, then)

        words = vocabulary.with_background(self.word_options.background)

        def label(_: Request) -> Future[Outcome]:
            return self._submit(self._label_for, message, self._segmenter.prepare_vocabulary(words), then)

        return self._words.submit(words.synonyms, label)

    def embed_text(self, names: Sequence[str]) -> Future[TextEmbeddings]:
        """Embeds names beside the stream; VocabularyError if one cannot be used."""
        return self._words.submit(names, lambda _: self._segmenter.embed_text(names))

    def with_text(self, names: Sequence[str], then: Callable[[], Outcome]) -> Future[Outcome]:
        """Embeds names beside the stream, and then does what needs them, which waits for no text any more.

        Args:
            names: Whatever `then` will embed.
            then: Called on the inference thread, before its next frame.

        Returns:
            What `then` returned, or the error that came before. Canceling it ends the embedding.
        """
        return self._words.submit(names, lambda _: self._submit(then))

    def after_text(self, names: Sequence[str], then: Callable[[], Outcome]) -> Future[Outcome]:
        """As `with_text`, but `then` is called beside the stream and must not take time."""
        return self._words.submit(names, lambda _: then())

    def close(self, timeout: float) -> bool:
        """Ends both threads, and what the segmenter makes ready beside them; what has not begun is cancelled.

        Args:
            timeout: Seconds to wait for what they are doing now.

        Returns:
            False if a thread still works.
        """
        deadline = time.monotonic() + timeout
        self._words.close()
        stopped = self._frames.stop(timeout)
        stopped = self._words.join(max(deadline - time.monotonic(), 0.0)) and stopped
        return self._segmenter.close(max(deadline - time.monotonic(), 0.0)) and stopped

    # On the thread for words

    def _change_vocabulary(
        self, classes: Vocabulary, options: WordOptions, words: _Words, request: Request
    ) -> Future[VocabularySnapshot]:
        prepared = self._segmenter.prepare_vocabulary(classes)
        # Not counted against MAX_TASKS: an older one is superseded before it comes so far.
        return self._frames.submit(self._put_into_force, prepared, options, words, request.order)

    # On any thread

    def _submit(self, function: Callable[..., Outcome], *arguments: Any) -> Future[Outcome]:
        """Leaves a request's work for the inference thread.

        Raises:
            FcclipError: Too much waits there.
        """
        if self._frames.tasks >= MAX_TASKS:
            raise FcclipError(f"{MAX_TASKS} requests wait for the model already; ask again later")
        return self._frames.submit(function, *arguments)

    # On the thread for frames

    def _put_into_force(
        self, prepared: VocabularySnapshot, options: WordOptions, words: _Words, order: int
    ) -> VocabularySnapshot:
        if options != self.word_options:  # They changed meanwhile.
            prepared = self._segmenter.prepare_vocabulary(self.word_options.apply(words.given))
        # The segmenter counts versions for all cameras, so that a version means one vocabulary.
        snapshot = self._segmenter.activate(prepared)
        everybody = (*self._streams, None)
        # One for all may have taken longer than a newer one for a single camera.
        targets = [
            target
            for target in (everybody if words.stream is None else (words.stream,))
            if self._orders.get(target, 0) < order
        ]
        self._orders.update(dict.fromkeys(targets, order))
        self._in_force.update(dict.fromkeys(targets, words))
        self._give(snapshot, targets)
        return snapshot

    def _apply_options(self) -> list[VocabularySnapshot]:
        changed = []
        for words in list(dict.fromkeys(self._in_force.values())):
            targets = [target for target, own in self._in_force.items() if own is words]
            vocabulary = self.word_options.apply(words.given)
            if vocabulary != self._snapshots[targets[0]].vocabulary:
                # Its words were read long ago: this takes no time.
                changed.append(self._segmenter.activate(self._segmenter.prepare_vocabulary(vocabulary)))
                self._give(changed[-1], targets)
        return changed

    def _give(self, snapshot: VocabularySnapshot, targets: Iterable[Stream | None]) -> None:
        """Labels with a vocabulary from the next frame on; for None, whoever has no words of its own."""
        for target in targets:
            self._snapshots[target] = snapshot
            if target is None:
                self._announce(snapshot)
            else:
                target.set_vocabulary(snapshot)

    def _label_for(
        self, message: Any, snapshot: VocabularySnapshot | None, then: Callable[[LabeledFrame], Outcome]
    ) -> Outcome:
        arrived, image = time.monotonic(), to_rgb(message, self.max_image_pixels)
        used = _require_snapshot(snapshot or self._snapshots.get(None))
        settings = self._segmenter.settings
        encoded = self._segmenter.encode(image, settings)
        result = self._segmenter.decode(encoded, used, settings)
        return then(LabeledFrame(message.header, image, result, used, encoded, arrived))

    def _start(self, arrivals: list[_PendingFrame]) -> _Flight | None:
        """Launches frames; where the segmenter has done all when it returns, they are published at once."""
        # Read once: a frame is labeled with one set of settings.
        settings = self._segmenter.settings
        frames = [frame for arrival in arrivals if (frame := _read(arrival)) is not None and self._expect(frame)]
        started = []
        for frame, encoded, together in self._encode(frames, settings) if frames else ():
            try:
                # Only this thread changes vocabularies.
                snapshot = _require_snapshot(self._snapshots.get(frame.stream))
                answer = self._segmenter.start_decoding(encoded, snapshot, settings)
            except Exception as error:
                self._failed(frame.stream, error)
                continue
            started.append(_InFlight(frame, snapshot, encoded, answer, together))
            if not self._segmenter.computes_beside:
                flight = _Flight([started.pop()], self)
                flight.wait()
                flight.finish()
        return _Flight(started, self) if started else None

    def _expect(self, frame: _Frame) -> bool:
        """Tells who has to know of a frame before the network takes it; whether it may be taken."""
        try:
            frame.stream.prefetch_depth(frame.header)
            self._prepare_for(frame.image)
        except Exception as error:
            self._failed(frame.stream, error)
            return False
        return True

    def _prepare_for(self, image: np.ndarray) -> None:
        """Has the forms made ready, beside the stream, in which images of a new size can come."""
        height, width = image.shape[:2]
        size = self._segmenter.padded_size(height, width)
        if size not in self._expected:
            self._expected.add(size)
            self._segmenter.prepare_beside(height, width, self._most_together, requested=False)

    def _encode(self, frames: list[_Frame], settings: InferenceSettings) -> Iterator[tuple[_Frame, EncodedImage, bool]]:
        """Runs the network; a frame on which it fails is counted and left out.

        Yields:
            A frame, the network's answer, and whether other frames went through it at the same time.
        """
        try:
            encoded = self._segmenter.encode_batch([frame.image for frame in frames], settings)
        except Exception as error:
            if len(frames) == 1 or isinstance(error, DeviceLostError):
                for frame in frames:
                    self._failed(frame.stream, error)
                return
            reason = _described(error)
        else:
            for frame, answer in zip(frames, encoded, strict=True):
                yield frame, answer, len(frames) > 1
            return
        # Outside the handler: the error keeps alive what filled the memory.
        yield from self._encode_one_by_one(frames, settings, reason)

    def _encode_one_by_one(
        self, frames: list[_Frame], settings: InferenceSettings, reason: str
    ) -> Iterator[tuple[_Frame, EncodedImage, bool]]:
        """After a batch failed: one of its frames is at fault, or they are too many at once."""
        labeled = 0
        for frame in frames:
            for answer in self._encode([frame], settings):
                labeled += 1
                yield answer
        if labeled == len(frames):
            self._frames.limit = len(frames) - 1
            text = f"{len(frames)} frames at once failed, but not one by one; at most {len(frames) - 1} from now on"
            for frame in frames:
                frame.stream.statistics.error(f"{text}: {reason}")
                frame.stream.warn(f"{text}: {reason}")

    def _publish(self, started: _InFlight, result: PanopticResult) -> None:
        """Publishes a frame."""
        frame = started.frame
        began = time.monotonic()
        try:
            frame.stream.deliver(
                LabeledFrame(frame.header, frame.image, result, started.snapshot, started.encoded, frame.arrival_time)
            )
        except Exception as error:
            self._failed(frame.stream, error)
            return
        done = time.monotonic()
        latencies = {
            **frame.latencies,
            **result.timings,
            "publish": done - began,
            "total": done - frame.arrival_time,
        }
        frame.stream.statistics.labeled(latencies, started.together)

    def _all_failed(self, arrivals: list[_PendingFrame], error: Exception) -> None:
        for arrival in arrivals:
            self._failed(arrival.stream, error)

    def _failed(self, stream: Stream, error: Exception) -> None:
        _failed(stream, error)
        if isinstance(error, DeviceLostError):
            self._lost(error)


def _can_batch(one: _PendingFrame, other: _PendingFrame) -> bool:
    return one.size is not None and one.size == other.size


def _require_snapshot(snapshot: VocabularySnapshot | None) -> VocabularySnapshot:
    if snapshot is None:
        raise VocabularyError("no vocabulary is in force yet; set one with ~/set_vocabulary")
    return snapshot


def _read(arrival: _PendingFrame) -> _Frame | None:
    """The image of a message; None if it is none, which is counted and said."""
    frame = arrival.frame
    if isinstance(frame, ImageError):
        arrival.stream.statistics.bad(str(frame))
        arrival.stream.warn(f"frame not labeled: {frame}")
        return None
    if isinstance(frame, Exception):
        _failed(arrival.stream, frame)
        return None
    return frame


def _failed(stream: Stream, error: Exception) -> None:
    stream.statistics.failed(_described(error))
    stream.warn(f"frame not labeled, the model failed: {_described(error)}")


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
