"""Camera messages in, labelled frames out: the threads between the executor and the segmenter."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from fcclip_core.errors import ImageError, VocabularyError
from fcclip_core.results import PanopticResult
from fcclip_core.segmenter import EncodedImage, Segmenter, TextEmbeddings, VocabularySnapshot
from fcclip_core.settings import InferenceSettings
from fcclip_core.vocabulary import Vocabulary
from fcclip_ros.frame_statistics import Statistics
from fcclip_ros.images import to_rgb
from fcclip_ros.worker import Worker

Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class LabelledFrame:
    """One frame, its result, and the vocabulary that it was labelled with.

    Attributes:
        header: The image message's own header.
        image: uint8 RGB `(H, W, 3)`.
        result: The segmentation.
        snapshot: The vocabulary; version 0 if it was for this frame alone.
        encoded: The network's answer, which other words can be held against.
        arrival_time: When the message came, monotonic seconds.
    """

    header: Any
    image: np.ndarray
    result: PanopticResult
    snapshot: VocabularySnapshot
    encoded: EncodedImage
    arrival_time: float


@dataclass(frozen=True)
class _Arrival:
    message: Any
    time: float


class Pipeline:
    """Runs a segmenter beside the executor, on two threads: one for frames, one for words.

    A vocabulary is encoded on the second and comes into force on the first, between two frames, which also is where it
    is announced: no frame labelled with an older vocabulary is published after that.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        statistics: Statistics,
        *,
        publish: Callable[[LabelledFrame], None],
        announce: Callable[[VocabularySnapshot], None],
        warn: Callable[[str], None],
    ) -> None:
        """Starts the threads.

        Args:
            segmenter: Belongs to the pipeline from now on.
            statistics: Where frames are counted.
            publish: Called on the inference thread with each frame of the stream.
            announce: Called on the inference thread with each vocabulary that came into force, before its first frame.
            warn: Told about frames that cannot be labelled.
        """
        self._segmenter = segmenter
        self._statistics = statistics
        self._publish = publish
        self._announce = announce
        self._warn = warn
        self.encoding_classes = 0
        """Number of classes of the vocabulary that is being made ready; 0 for none."""
        self._frames: Worker[_Arrival] = Worker("inference", self._label_and_publish)
        self._words: Worker[None] = Worker("vocabulary")

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

    def put(self, message: Any) -> None:
        """Takes a frame of the stream (Image or CompressedImage); a frame still waiting is dropped for it."""
        self._statistics.received()
        if self._frames.put(_Arrival(message, time.monotonic())) is not None:
            self._statistics.dropped()

    def discard_frame(self) -> None:
        """Drops the frame that waits, if one does."""
        if self._frames.discard_frame() is not None:
            self._statistics.dropped()

    def set_vocabulary(self, vocabulary: Vocabulary) -> Future[VocabularySnapshot]:
        """Encodes a vocabulary and puts it into force; frames go on with the old one until it is ready.

        Returns:
            The vocabulary in force, or VocabularyError, in which case the old one stays.
        """
        return self._words.submit(self._change_vocabulary, vocabulary)

    def segment(
        self, message: Any, vocabulary: Vocabulary | None, then: Callable[[LabelledFrame], Outcome]
    ) -> Future[Outcome]:
        """Segments one image before the stream's next frame.

        Args:
            message: Image or CompressedImage.
            vocabulary: For this image alone; None takes the stream's.
            then: Called on the inference thread with the labelled image.

        Returns:
            What `then` returned, or the error that came before.
        """
        if vocabulary is None:
            return self._frames.submit(self._label_for, message, None, then)
        return self._words.submit(self._segment_with, message, vocabulary, then)

    def embed_text(self, names: Sequence[str]) -> Future[TextEmbeddings]:
        """Embeds names beside the stream; VocabularyError if one cannot be used."""
        return self._words.submit(self._segmenter.embed_text, names)

    def with_text(self, names: Sequence[str], then: Callable[[], Outcome]) -> Future[Outcome]:
        """Embeds names beside the stream, and then does what needs them, which waits for no text any more.

        Args:
            names: Whatever `then` will embed.
            then: Called on the inference thread, before its next frame.

        Returns:
            What `then` returned, or the error that came before.
        """
        return self._words.submit(self._with_text, names, then)

    def close(self, timeout: float) -> bool:
        """Ends both threads; what they have not begun is cancelled.

        Args:
            timeout: Seconds to wait for what they are doing now.

        Returns:
            False if a thread still works.
        """
        deadline = time.monotonic() + timeout
        # Frames first: a vocabulary that waits for its turn there is cancelled, which frees the other thread.
        stopped = self._frames.stop(timeout)
        return self._words.stop(max(deadline - time.monotonic(), 0.0)) and stopped

    def _change_vocabulary(self, vocabulary: Vocabulary) -> VocabularySnapshot:
        # The rows are cached from here on: what is left for the inference thread takes no time.
        self._prepare(vocabulary)
        return self._frames.submit(self._put_into_force, vocabulary).result()

    def _put_into_force(self, vocabulary: Vocabulary) -> VocabularySnapshot:
        snapshot = self._segmenter.set_vocabulary(vocabulary)
        self._announce(snapshot)
        return snapshot

    def _segment_with(self, message: Any, vocabulary: Vocabulary, then: Callable[[LabelledFrame], Outcome]) -> Outcome:
        snapshot = self._prepare(vocabulary)
        return self._frames.submit(self._label_for, message, snapshot, then).result()

    def _with_text(self, names: Sequence[str], then: Callable[[], Outcome]) -> Outcome:
        self._segmenter.embed_text(names)
        return self._frames.submit(then).result()

    def _prepare(self, vocabulary: Vocabulary) -> VocabularySnapshot:
        self.encoding_classes = len(vocabulary)
        try:
            return self._segmenter.prepare_vocabulary(vocabulary)
        finally:
            self.encoding_classes = 0

    def _label_for(
        self, message: Any, snapshot: VocabularySnapshot | None, then: Callable[[LabelledFrame], Outcome]
    ) -> Outcome:
        return then(self._label(message, snapshot, time.monotonic()))

    def _label(self, message: Any, snapshot: VocabularySnapshot | None, arrival_time: float) -> LabelledFrame:
        image, settings = to_rgb(message), self._segmenter.settings
        # Only this thread changes the vocabulary, so it cannot change before the image is labelled.
        used = snapshot or self._segmenter.vocabulary
        if used is None:
            raise VocabularyError("no vocabulary is in force yet; set one with ~/set_vocabulary")
        encoded = self._segmenter.encode(image, settings)
        result = self._segmenter.label(encoded, used, settings)
        return LabelledFrame(message.header, image, result, used, encoded, arrival_time)

    def _label_and_publish(self, arrival: _Arrival) -> None:
        began = time.monotonic()
        try:
            frame = self._label(arrival.message, None, arrival.time)
            labelled = time.monotonic()
            self._publish(frame)
        except ImageError as error:
            self._statistics.bad(str(error))
            self._warn(f"frame not labelled: {error}")
        except Exception as error:  # Out of memory, a driver's fault: the next frame may be fine.
            self._statistics.failed(f"{type(error).__name__}: {error}")
            self._warn(f"frame not labelled, the model failed: {type(error).__name__}: {error}")
        else:
            done = time.monotonic()
            timings = frame.result.timings
            self._statistics.labelled(
                {
                    "wait": began - arrival.time,
                    "convert": max(labelled - began - sum(timings.values()), 0.0),
                    **timings,
                    "publish": done - labelled,
                    "total": done - arrival.time,
                }
            )
