"""Camera messages -> labeled frames: the threads between the executor and the segmenter."""

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
from fcclip_core.vocabulary.embedded_text import TextEmbeddings
from fcclip_core.vocabulary.snapshot import VocabularySnapshot
from fcclip_ros.conversions.frame import LabeledFrame
from fcclip_ros.conversions.gray_range import FULL_RANGE, GrayRange
from fcclip_ros.conversions.images import size_of, to_rgb
from fcclip_ros.node.frame_statistics import Statistics
from fcclip_ros.node.word_queue import Request, WordQueue
from fcclip_ros.node.worker import Worker

Outcome = TypeVar("Outcome")

MAX_TASKS = 64
"""Tasks that may be queued for the inference thread; each may hold an image."""


class Stream(Protocol):
    """A camera, as used by the pipeline; its methods are called on the inference thread.

    Attributes:
        statistics: Statistics of its frames.
    """

    statistics: Statistics

    def prefetch_depth(self, header: Any) -> None:
        """Starts looking for the depth of a frame that the model is about to process."""

    def deliver(self, frame: LabeledFrame) -> None:
        """Publishes a labeled frame; depth and track ids are added by the camera."""

    def set_vocabulary(self, snapshot: VocabularySnapshot) -> None:
        """Publishes a vocabulary that is being activated for this camera, before the first frame that uses it."""

    def warn(self, text: str) -> None:
        """Logs why a frame could not be labeled."""


@dataclass(frozen=True)
class _PendingFrame:
    """An image message that is queued for inference.

    Attributes:
        stream: The camera.
        message: Image or CompressedImage.
        time: Monotonic time of arrival, in seconds.
        size: (height, width) of the network's input; None if the message is invalid.
        max_pixels: Maximum number of pixels.
        gray_range: Range of 16-bit gray images.
    """

    stream: Stream
    message: Any
    time: float
    size: tuple[int, int] | None
    max_pixels: int
    gray_range: GrayRange

    @functools.cached_property
    def frame(self) -> _Frame | Exception:
        """The converted image, or the error; converted at the first access."""
        began = time.monotonic()
        try:
            image = to_rgb(self.message, self.max_pixels, self.gray_range)
        except Exception as error:  # an error in a converter must not end the thread either
            return error.with_traceback(None)
        latencies = {"wait": began - self.time, "convert": time.monotonic() - began}
        return _Frame(self.stream, self.time, self.message.header, image, latencies)


@dataclass(frozen=True)
class _Frame:
    """A converted image; `latencies` are seconds per stage so far."""

    stream: Stream
    arrival_time: float
    header: Any
    image: np.ndarray
    latencies: dict[str, float]


@dataclass(frozen=True)
class _InFlight:
    """A frame whose inference has been launched.

    Attributes:
        frame: The frame.
        snapshot: The vocabulary that labels it.
        encoded: The network's output.
        result: Blocks until the result is computed and returns it; raises if inference failed.
        batched: Whether it was processed in one batch with others.
    """

    frame: _Frame
    snapshot: VocabularySnapshot
    encoded: EncodedImage
    result: Callable[[], PanopticResult]
    batched: bool


@dataclass(frozen=True)
class VocabularyOptions:
    """Parameters that are applied to every vocabulary of the cameras.

    Attributes:
        stuff: Names of additional stuff classes.
        publish_only: Names of the only classes that are published; empty for all.
        background: Background classes that compete with the others, except those that overlap with them.
    """

    stuff: tuple[str, ...] = ()
    publish_only: tuple[str, ...] = ()
    background: Vocabulary | None = None

    def apply(self, requested: Vocabulary) -> Vocabulary:
        """The vocabulary that labels the frames.

        Raises:
            VocabularyError: None of its classes would be published.
        """
        vocabulary = requested.with_stuff(self.stuff)
        if self.publish_only:
            vocabulary = vocabulary.publishing(self.publish_only)
        return vocabulary.with_background(self.background)


@dataclass(eq=False)
class _RequestedVocabulary:
    """A requested vocabulary.

    Attributes:
        vocabulary: The vocabulary as requested, without the `VocabularyOptions`.
        stream: The camera that it is for; None for all.
    """

    vocabulary: Vocabulary
    stream: Stream | None


class _InFlightBatch:
    """Frames whose inference was launched together; see `worker.Started`."""

    def __init__(self, frames: list[_InFlight], pipeline: Pipeline) -> None:
        self._frames = frames
        self._pipeline = pipeline
        self._results: list[tuple[_InFlight, PanopticResult]] = []

    def wait(self) -> None:
        for frame in self._frames:
            try:
                self._results.append((frame, frame.result()))
            except Exception as error:  # Out of memory, for example: the next frame may succeed.
                self._pipeline._failed(frame.frame.stream, error)

    def finish(self) -> None:
        for result in self._results:
            self._pipeline._publish(*result)


class Pipeline:
    """Runs a segmenter on two threads, one for inference and one for text encoding, so that the executor never blocks.

    Cameras are served in round-robin order. Queued frames of different cameras form a batch if the network's input has
    the same size for them; each frame is published as soon as it is labeled, on a GPU while the next one is computed.

    A vocabulary is encoded on the second thread, and activated and announced on the inference thread, between two
    frames: no frame with an older vocabulary is published after the announcement.

    Attributes:
        segmenter: The segmenter; its settings take effect with the next frame.
        vocabulary_options: Parameters that are applied to every vocabulary; see `change_options`.
        max_image_pixels: Maximum number of pixels of images in topics and requests, from the next message on.
        gray_range: Range of 16-bit gray images, likewise.
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
            segmenter: The segmenter, which the pipeline owns from now on.
            streams: The cameras.
            announce: Called on the inference thread with each vocabulary that was activated for all cameras, after each
                camera's `set_vocabulary`.
            lost: Called on the inference thread when the device is lost.
            max_batch: Largest batch of frames.
        """
        self.segmenter = segmenter
        self.vocabulary_options = VocabularyOptions()
        self.max_image_pixels = MAX_PIXELS
        self.gray_range = FULL_RANGE
        self._streams = tuple(streams)
        self._announce = announce
        self._lost = lost
        self._max_batch = min(max_batch, len(self._streams))
        self._prepared_sizes: set[tuple[int, int]] = set()
        # By camera; None: the latest one for all cameras.
        self._snapshots: dict[Stream | None, VocabularySnapshot] = {}
        self._active: dict[Stream | None, _RequestedVocabulary] = {}
        self._orders: dict[Stream | None, int] = {}
        self._frames: Worker[_PendingFrame] = Worker(
            "inference",
            self._start,
            _can_batch,
            max_batch,
            look_ahead=lambda pending: pending.frame,
            failed=self._all_failed,
        )
        self._text_queue = WordQueue(segmenter)

    @property
    def encoding_classes(self) -> int:
        """Number of classes of the vocabulary that is being encoded; 0 for none."""
        return self._text_queue.classes

    @property
    def requested_vocabulary(self) -> Vocabulary | None:
        """The active vocabulary for all cameras as requested, without the options; None if there is none."""
        active = self._active.get(None)
        return active.vocabulary if active else None

    def enqueue_frame(self, stream: Stream, message: Any) -> None:
        """Enqueues an Image or CompressedImage of a camera; a frame of that camera that is still queued is dropped."""
        stream.statistics.received()
        limit = self.max_image_pixels
        try:
            size = size_of(message, limit)
            padded = None if size is None else self.segmenter.padded_size(*size)
        except Exception as error:  # Invalid settings, for example.
            self._failed(stream, error)
            return
        frame = _PendingFrame(stream, message, time.monotonic(), padded, limit, self.gray_range)
        if self._frames.replace(stream, frame) is not None:
            stream.statistics.dropped()

    def discard_frame(self, stream: Stream) -> None:
        """Drops the queued frame of a camera, if there is one."""
        if self._frames.discard(stream) is not None:
            stream.statistics.dropped()

    def set_vocabulary(self, vocabulary: Vocabulary, stream: Stream | None = None) -> Future[VocabularySnapshot]:
        """Encodes and activates a vocabulary; frames are labeled with the old one until then.

        Args:
            vocabulary: The classes.
            stream: The camera that it is for, until the next vocabulary for this camera or for all; None: all cameras.

        Returns:
            The active vocabulary. VocabularyError if it was rejected, and the old one stays active; `Superseded` if a
            newer one was requested before its words were encoded.

        Raises:
            VocabularyError: None of its classes would be published.
        """
        requested = _RequestedVocabulary(vocabulary, stream)
        synonyms = self.vocabulary_options.apply(vocabulary).synonyms
        request = self._text_queue.submit_vocabulary(
            synonyms, lambda request: self._prepare(requested, request), len(vocabulary), stream
        )
        return request.future

    def change_options(self, options: VocabularyOptions) -> Future[list[VocabularySnapshot]]:
        """Applies other options to all active and pending vocabularies.

        Args:
            options: The new options, with the same background: no new words have to be encoded.

        Returns:
            The vocabularies that were changed and activated; empty if no class changes. VocabularyError if nothing
            would be published of a vocabulary, which then stays as it is.
        """
        self.vocabulary_options = options
        return self._frames.submit(self._apply_options)

    def segment(
        self, message: Any, vocabulary: Vocabulary | None, then: Callable[[LabeledFrame], Outcome]
    ) -> Future[Outcome]:
        """Segments one image, before the next frames of the cameras.

        Args:
            message: Image or CompressedImage.
            vocabulary: For this image only; None: the active vocabulary for all cameras.
            then: Called on the inference thread with the labeled image.

        Returns:
            The result of `then`.
        """
        if vocabulary is None:
            return self._submit(self._segment, message, None, then)

        extended = vocabulary.with_background(self.vocabulary_options.background)

        def label(_: Request) -> Future[Outcome]:
            return self._submit(self._segment, message, self.segmenter.prepare_vocabulary(extended), then)

        return self._text_queue.submit(extended.synonyms, label)

    def embed_text(self, names: Sequence[str]) -> Future[TextEmbeddings]:
        """Embeds names in the background; VocabularyError if one is invalid."""
        return self._text_queue.submit(names, lambda _: self.segmenter.embed_text(names))

    def with_text(self, names: Sequence[str], then: Callable[[], Outcome]) -> Future[Outcome]:
        """Embeds names in the background, then calls a function that needs their embeddings.

        Args:
            names: Names that `then` needs.
            then: Called on the inference thread, before the next frame.

        Returns:
            The result of `then`. Canceling it stops the embedding.
        """
        return self._text_queue.submit(names, lambda _: self._submit(then))

    def after_text(self, names: Sequence[str], then: Callable[[], Outcome]) -> Future[Outcome]:
        """As `with_text`, but `then` is called in the background and must not block."""
        return self._text_queue.submit(names, lambda _: then())

    def close(self, timeout: float) -> bool:
        """Ends both threads and the segmenter's background preparation; queued work is canceled.

        Args:
            timeout: Seconds to wait for the work in progress.

        Returns:
            False if a thread is still running.
        """
        deadline = time.monotonic() + timeout
        self._text_queue.close()
        stopped = self._frames.stop(timeout)
        stopped = self._text_queue.join(max(deadline - time.monotonic(), 0.0)) and stopped
        return self.segmenter.close(max(deadline - time.monotonic(), 0.0)) and stopped

    # On the text thread

    def _prepare(self, requested: _RequestedVocabulary, request: Request) -> Future[VocabularySnapshot]:
        options = self.vocabulary_options
        prepared = self.segmenter.prepare_vocabulary(options.apply(requested.vocabulary))
        # Not counted against MAX_TASKS: older vocabularies have been superseded.
        return self._frames.submit(self._activate, prepared, options, requested, request.order)

    # On any thread

    def _submit(self, function: Callable[..., Outcome], *arguments: Any) -> Future[Outcome]:
        """Enqueues a task for the inference thread.

        Raises:
            FcclipError: Too many tasks are queued.
        """
        if self._frames.tasks >= MAX_TASKS:
            raise FcclipError(f"{MAX_TASKS} requests are already queued for the model; try again later")
        return self._frames.submit(function, *arguments)

    # On the inference thread

    def _activate(
        self, prepared: VocabularySnapshot, options: VocabularyOptions, requested: _RequestedVocabulary, order: int
    ) -> VocabularySnapshot:
        if options != self.vocabulary_options:  # Changed between preparation and activation.
            prepared = self.segmenter.prepare_vocabulary(self.vocabulary_options.apply(requested.vocabulary))
        # Versions are counted by the segmenter, so they are unique over all cameras.
        snapshot = self.segmenter.activate(prepared)
        candidates = (*self._streams, None) if requested.stream is None else (requested.stream,)
        # A vocabulary for all cameras may be ready later than a newer one for a single camera, which stays active.
        targets = [target for target in candidates if self._orders.get(target, 0) < order]
        self._orders.update(dict.fromkeys(targets, order))
        self._active.update(dict.fromkeys(targets, requested))
        self._announce_to(targets, snapshot)
        return snapshot

    def _apply_options(self) -> list[VocabularySnapshot]:
        changed = []
        for requested in list(dict.fromkeys(self._active.values())):
            targets = [target for target, own in self._active.items() if own is requested]
            vocabulary = self.vocabulary_options.apply(requested.vocabulary)
            if vocabulary != self._snapshots[targets[0]].vocabulary:
                # Fast: its words are encoded already.
                changed.append(self.segmenter.activate(self.segmenter.prepare_vocabulary(vocabulary)))
                self._announce_to(targets, changed[-1])
        return changed

    def _announce_to(self, targets: Iterable[Stream | None], snapshot: VocabularySnapshot) -> None:
        """Uses and announces a vocabulary for cameras from the next frame on; None: for all of them."""
        for target in targets:
            self._snapshots[target] = snapshot
            if target is None:
                self._announce(snapshot)
            else:
                target.set_vocabulary(snapshot)

    def _segment(
        self, message: Any, snapshot: VocabularySnapshot | None, then: Callable[[LabeledFrame], Outcome]
    ) -> Outcome:
        arrived, image = time.monotonic(), to_rgb(message, self.max_image_pixels, self.gray_range)
        used = _require_snapshot(snapshot or self._snapshots.get(None))
        settings = self.segmenter.settings
        encoded = self.segmenter.encode(image, settings)
        result = self.segmenter.decode(encoded, used, settings)
        return then(LabeledFrame(message.header, image, result, used, encoded, arrived))

    def _start(self, pending: list[_PendingFrame]) -> _InFlightBatch | None:
        """Launches inference; frames are published immediately if the segmenter computes synchronously."""
        # Read once, so that a frame is labeled with one set of settings.
        settings = self.segmenter.settings
        frames = [frame for item in pending if (frame := _converted(item)) is not None and self._prepare_frame(frame)]
        started = []
        for frame, encoded, batched in self._encode(frames, settings) if frames else ():
            try:
                # Vocabularies are only changed on this thread.
                snapshot = _require_snapshot(self._snapshots.get(frame.stream))
                result = self.segmenter.start_decoding(encoded, snapshot, settings)
            except Exception as error:
                self._failed(frame.stream, error)
                continue
            started.append(_InFlight(frame, snapshot, encoded, result, batched))
            if not self.segmenter.computes_in_background:
                batch = _InFlightBatch([started.pop()], self)
                batch.wait()
                batch.finish()
        return _InFlightBatch(started, self) if started else None

    def _prepare_frame(self, frame: _Frame) -> bool:
        """Prepares what a frame needs before inference; False if that failed, which is counted."""
        try:
            frame.stream.prefetch_depth(frame.header)
            self._prepare_size(*frame.image.shape[:2])
        except Exception as error:
            self._failed(frame.stream, error)
            return False
        return True

    def _prepare_size(self, height: int, width: int) -> None:
        """Prepares the backend for images of a new size in the background, single and in batches."""
        size = self.segmenter.padded_size(height, width)
        if size not in self._prepared_sizes:
            self._prepared_sizes.add(size)
            self.segmenter.prepare_in_background(height, width, self._max_batch, requested=False)

    def _encode(self, frames: list[_Frame], settings: InferenceSettings) -> Iterator[tuple[_Frame, EncodedImage, bool]]:
        """Runs the network; frames on which it fails are counted and left out.

        Yields:
            A frame, the network's output, and whether the frame was in a batch with others.
        """
        try:
            encoded = self.segmenter.encode_batch([frame.image for frame in frames], settings)
        except Exception as error:
            if len(frames) == 1 or isinstance(error, DeviceLostError):
                for frame in frames:
                    self._failed(frame.stream, error)
                return
            reason = _described(error)
        else:
            for frame, output in zip(frames, encoded, strict=True):
                yield frame, output, len(frames) > 1
            return
        # Outside the handler: the traceback keeps alive what filled the memory.
        yield from self._encode_one_by_one(frames, settings, reason)

    def _encode_one_by_one(
        self, frames: list[_Frame], settings: InferenceSettings, reason: str
    ) -> Iterator[tuple[_Frame, EncodedImage, bool]]:
        """Retries the frames of a batch that failed; if all succeed, the batch was too large."""
        labeled = 0
        for frame in frames:
            for output in self._encode([frame], settings):
                labeled += 1
                yield output
        if labeled == len(frames):
            count = len(frames)
            self._frames.limit = count - 1
            text = (
                f"a batch of {count} frames failed, but each frame alone succeeded; batches are limited to {count - 1}"
            )
            for frame in frames:
                frame.stream.statistics.error(f"{text}: {reason}")
                frame.stream.warn(f"{text}: {reason}")

    def _publish(self, started: _InFlight, result: PanopticResult) -> None:
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
        frame.stream.statistics.labeled(latencies, started.batched)

    def _all_failed(self, frames: list[_PendingFrame], error: Exception) -> None:
        for frame in frames:
            self._failed(frame.stream, error)

    def _failed(self, stream: Stream, error: Exception) -> None:
        _failed(stream, error)
        if isinstance(error, DeviceLostError):
            self._lost(error)


def _can_batch(one: _PendingFrame, other: _PendingFrame) -> bool:
    return one.size is not None and one.size == other.size


def _require_snapshot(snapshot: VocabularySnapshot | None) -> VocabularySnapshot:
    if snapshot is None:
        raise VocabularyError("no vocabulary is active; set one with ~/set_vocabulary")
    return snapshot


def _converted(pending: _PendingFrame) -> _Frame | None:
    """The converted image of a message; None if it is invalid, which is counted and logged."""
    frame = pending.frame
    if isinstance(frame, ImageError):
        pending.stream.statistics.bad(str(frame))
        pending.stream.warn(f"frame not labeled: {frame}")
        return None
    if isinstance(frame, Exception):
        _failed(pending.stream, frame)
        return None
    return frame


def _failed(stream: Stream, error: Exception) -> None:
    stream.statistics.failed(_described(error))
    stream.warn(f"frame not labeled, the model failed: {_described(error)}")


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
