"""The threads between executor and segmenter, without ROS around them."""

from __future__ import annotations

import contextlib
import random
import sys
import threading
import time
from array import array
from collections.abc import Iterator
from concurrent.futures import CancelledError
from typing import Any

import numpy as np
import pytest
from fake_segmenter import FATAL, POISON, FakeSegmenter
from ros_harness import wait_until
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from fcclip_core.errors import DeviceLostError, ImageError, VocabularyError
from fcclip_core.settings import InferenceSettings
from fcclip_core.vocabulary.classes import Vocabulary
from fcclip_core.vocabulary.snapshot import VocabularySnapshot
from fcclip_ros.conversions.frame import LabeledFrame
from fcclip_ros.node import pipeline
from fcclip_ros.node.frame_statistics import Counts, Statistics
from fcclip_ros.node.pipeline import Pipeline, VocabularyOptions
from fcclip_ros.node.word_queue import Superseded


def image(label: str = "camera", value: tuple[int, int, int] = (9, 9, 9), width: int = 8) -> Image:
    pixels = np.full((4, width, 3), value, np.uint8)
    return Image(
        header=Header(frame_id=label),
        height=4,
        width=width,
        step=3 * width,
        encoding="rgb8",
        data=array("B", pixels.tobytes()),
    )


class Eye:
    """One camera of a bench, and what the pipeline told it, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []
        self.warnings: list[str] = []
        self.expected: list[Header] = []
        self.statistics = Statistics()

    def prefetch_depth(self, header: Header) -> None:
        self.expected.append(header)

    def deliver(self, frame: LabeledFrame) -> None:
        self.events.append(("frame", frame))

    def set_vocabulary(self, snapshot: VocabularySnapshot) -> None:
        self.events.append(("vocabulary", snapshot))

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    @property
    def frames(self) -> list[LabeledFrame]:
        return [what for kind, what in self.events if kind == "frame"]

    @property
    def counts(self) -> Counts:
        return self.statistics.report().counts


class Bench:
    """A pipeline with a fake model; `events` and so on are those of its first camera."""

    def __init__(
        self, seconds: float = 0.0, encoding_seconds: float = 0.0, cameras: int = 1, max_batch: int = 8
    ) -> None:
        self.cameras = [Eye() for _ in range(cameras)]
        self.common: list[VocabularySnapshot] = []
        self.lost: list[DeviceLostError] = []
        self.segmenter = FakeSegmenter(InferenceSettings(), seconds, encoding_seconds)
        self.pipeline = Pipeline(
            self.segmenter,  # type: ignore[arg-type]
            self.cameras,
            announce=self.common.append,
            lost=self.lost.append,
            max_batch=max_batch,
        )
        eye = self.cameras[0]
        self.events, self.warnings, self.statistics = eye.events, eye.warnings, eye.statistics

    @property
    def frames(self) -> list[LabeledFrame]:
        return self.cameras[0].frames

    def put(self, message: Image, camera: int = 0) -> None:
        self.pipeline.enqueue_frame(self.cameras[camera], message)


@pytest.fixture
def bench() -> Any:
    benches: list[Bench] = []

    def make(**options: Any) -> Bench:
        benches.append(Bench(**options))
        return benches[-1]

    yield make
    for item in benches:
        item.pipeline.close(5.0)


def test_every_frame_is_accounted_for(bench: Any) -> None:
    b = bench()
    b.pipeline.set_vocabulary(Vocabulary.from_names(["cup"])).result(5)
    counts = lambda: b.statistics.report().counts  # noqa: E731
    accounted = lambda: counts().labeled + counts().dropped + counts().bad  # noqa: E731
    for round_ in range(1, 6):
        with busy(b):
            b.put(Image(encoding="nonsense"))
            b.put(image("too late"))
            b.put(image(str(round_)))
        wait_until(lambda: counts().received == accounted())
    assert (counts().received, counts().labeled, counts().dropped) == (20, 10, 10)
    assert [frame.header.frame_id for frame in b.frames] == ["first", "1", "first", "2", "first", "3", "first", "4"] + [
        "first",
        "5",
    ]


def test_bad_frames_and_a_failing_model_never_stop_the_stream(bench: Any) -> None:
    b = bench()
    b.pipeline.set_vocabulary(Vocabulary.from_names(["cup"])).result(5)
    for number, message in enumerate([Image(), image("poison", POISON), image("good")], 1):
        b.put(message)
        wait_until(lambda n=number: sum(vars(b.statistics.report().counts).values()) == 2 * n)
    counts = b.statistics.report().counts
    assert (counts.bad, counts.failed, counts.labeled) == (1, 1, 1)
    assert "encoding '' is not supported" in b.warnings[0]
    assert "the model failed: RuntimeError: CUDA out of memory" in b.warnings[1]
    assert b.statistics.report().last_error.text == "RuntimeError: CUDA out of memory"


def test_frames_go_on_with_the_old_vocabulary_while_the_new_one_is_encoded(bench: Any) -> None:
    b = bench()
    b.pipeline.set_vocabulary(Vocabulary.from_names(["cup"])).result(5)
    b.segmenter.words_gate.close()
    change = b.pipeline.set_vocabulary(Vocabulary.from_names([f"name {n}" for n in range(5)]))
    wait_until(lambda: b.pipeline.encoding_classes == 5)
    for number in range(1, 21):
        b.put(image())
        wait_until(lambda n=number: len(b.frames) == n)
    b.segmenter.words_gate.open()
    assert change.result(5).version == 2
    b.put(image("last"))
    wait_until(lambda: b.frames[-1].header.frame_id == "last")
    assert [frame.result.vocabulary_version for frame in b.frames] == [1] * 20 + [2]
    assert b.pipeline.encoding_classes == 0


def test_options_that_change_while_a_vocabulary_is_encoded_do_not_prepare_it_twice(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    b = bench()
    prepared: list[Vocabulary] = []
    prepare = b.segmenter.prepare_vocabulary
    monkeypatch.setattr(b.segmenter, "prepare_vocabulary", lambda words: (prepared.append(words), prepare(words))[1])
    b.segmenter.words_gate.close()
    change = b.pipeline.set_vocabulary(Vocabulary.from_names(["cup", "floor"]))
    assert b.pipeline.change_options(VocabularyOptions(stuff=("floor",))).result(5) == []
    b.segmenter.words_gate.open()
    assert change.result(5).vocabulary.things == (True, False)
    assert len(prepared) == 1


def test_two_hundred_changes_at_random_moments_leave_no_frame_that_disagrees_with_its_version(bench: Any) -> None:
    b = bench()
    dice = random.Random(7)
    announced: dict[int, Any] = {}
    stop = threading.Event()
    b.pipeline.set_vocabulary(Vocabulary.from_names(["start"])).result(5)

    def stream() -> None:
        while not stop.is_set():
            b.put(image(width=32))
            time.sleep(dice.random() * 0.002)

    camera = threading.Thread(target=stream)
    camera.start()
    changes = []
    for _ in range(200):
        names = dice.sample([f"name {n}" for n in range(60)], dice.randint(1, 12))
        changes.append((b.pipeline.set_vocabulary(Vocabulary.from_names(names)), names))
        time.sleep(dice.random() * 0.01)
    for change, _ in changes:
        change.exception(20)
    # One that came while its words were being read was superseded by the next.
    results = [(change.result(), names) for change, names in changes if change.exception() is None]
    stop.set()
    camera.join()
    b.pipeline.close(5.0)

    assert [snapshot.version for snapshot, _ in results] == list(range(2, 2 + len(results)))
    assert changes[-1][0].exception() is None
    assert all(isinstance(change.exception(), (Superseded, type(None))) for change, _ in changes)
    assert all(snapshot.vocabulary.names == tuple(names) for snapshot, names in results)
    seen_versions = set()
    for kind, what in b.events:
        if kind == "vocabulary":
            announced[what.version] = dict(zip(what.class_ids, what.vocabulary.names, strict=True))
            continue
        version = what.result.vocabulary_version
        seen_versions.add(version)
        # The newest that was announced, and its ids alone, each under its own name.
        assert version == max(announced)
        assert {segment.class_id: segment.name for segment in what.result.segments} == announced[version]
        assert set(np.unique(what.result.class_map())) <= announced[version].keys()
    assert len(seen_versions) > 50
    names_by_id: dict[int, set[str]] = {}
    for names in announced.values():
        for class_id, name in names.items():
            names_by_id.setdefault(class_id, set()).add(name)
    assert all(len(names) == 1 for names in names_by_id.values())


def test_a_refused_vocabulary_leaves_the_old_one(bench: Any) -> None:
    b = bench()
    b.pipeline.set_vocabulary(Vocabulary.from_names(["cup"], ids={"cup": 4})).result(5)
    with pytest.raises(VocabularyError, match="asks for id 4"):
        b.pipeline.set_vocabulary(Vocabulary.from_names(["plate"], ids={"plate": 4})).result(5)
    assert b.segmenter.vocabulary.version == 1
    assert [kind for kind, _ in b.events] == ["vocabulary"]


def test_one_image_with_its_own_words_does_not_touch_the_stream(bench: Any) -> None:
    b = bench()
    b.pipeline.set_vocabulary(Vocabulary.from_names(["cup", "plate"])).result(5)
    own = b.pipeline.segment(image("own"), Vocabulary.from_names(["plate", "fork"]), lambda frame: frame).result(5)
    plain = b.pipeline.segment(image("plain"), None, lambda frame: frame).result(5)
    assert [segment.class_id for segment in own.result.segments] == [2, 3]
    assert (own.snapshot.version, plain.snapshot.version) == (0, 1)
    assert [segment.name for segment in plain.result.segments] == ["cup", "plate"]
    assert b.statistics.report().counts.received == 0
    assert not b.frames


def test_a_requested_image_goes_before_the_waiting_frame_and_its_error_comes_back(bench: Any) -> None:
    b = bench()
    b.pipeline.set_vocabulary(Vocabulary.from_names(["cup"])).result(5)
    order: list[str] = []
    with busy(b):
        b.put(image("waiting"))
        request = b.pipeline.segment(image("asked for"), None, lambda frame: order.append(f"{len(b.frames)} before"))
        broken = b.pipeline.segment(Image(), None, lambda frame: frame)
    request.result(5)
    assert order == ["1 before"]
    with pytest.raises(ImageError, match="encoding"):
        broken.result(5)


def test_closing_ends_both_threads_even_with_a_vocabulary_in_line(bench: Any) -> None:
    b = bench(seconds=0.2)
    b.pipeline.set_vocabulary(Vocabulary.from_names(["cup"])).result(5)
    b.put(image())
    wait_until(lambda: b.segmenter.begun)
    change = b.pipeline.set_vocabulary(Vocabulary.from_names(["plate"]))
    asked = b.pipeline.segment(image(), None, lambda frame: frame)
    assert b.pipeline.close(5.0)
    for future in (change, asked):
        with pytest.raises(CancelledError):
            future.result(1)


def test_closing_says_so_when_the_model_does_not_come_back(bench: Any) -> None:
    b = bench()
    b.pipeline.set_vocabulary(Vocabulary.from_names(["cup"])).result(5)
    with busy(b):
        assert not b.pipeline.close(0.1)
    assert b.pipeline.close(5.0)


# --- several cameras ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def busy(b: Bench) -> Iterator[None]:
    """Gives the model a frame of the first camera, which it works on until the end of the block."""
    begun = b.segmenter.begun
    b.segmenter.gate.clear()
    b.put(image("first"))
    wait_until(lambda: b.segmenter.begun > begun)
    yield
    b.segmenter.gate.set()


def labeled(b: Bench) -> list[int]:
    return [camera.counts.labeled for camera in b.cameras]


def test_frames_that_wait_together_go_through_the_network_together(bench: Any) -> None:
    b = bench(cameras=3)
    b.pipeline.set_vocabulary(Vocabulary.from_names(["cup"])).result(5)
    with busy(b):
        for camera in (1, 2, 0):
            b.put(image(f"of {camera}", (camera + 1, 0, 0)), camera)
    wait_until(lambda: labeled(b) == [2, 1, 1])
    assert b.segmenter.batches == [1, 3]
    for number, camera in enumerate(b.cameras):
        frame = camera.frames[-1]
        assert (frame.header.frame_id, tuple(frame.image[0, 0])) == (f"of {number}", (number + 1, 0, 0))
    assert [camera.counts.batched for camera in b.cameras] == [1, 1, 1]


def test_no_more_frames_than_max_batch_go_together(bench: Any) -> None:
    b = bench(cameras=5, max_batch=2)
    b.pipeline.set_vocabulary(Vocabulary.from_names(["cup"])).result(5)
    with busy(b):
        for camera in range(1, 5):
            b.put(image(), camera)
    wait_until(lambda: sum(labeled(b)) == 5)
    assert b.segmenter.batches == [1, 2, 2]


def test_the_batches_that_can_come_are_made_ready_once_for_each_size(bench: Any) -> None:
    b = bench(cameras=3, max_batch=2)
    b.pipeline.set_vocabulary(Vocabulary.from_names(["cup"])).result(5)
    for camera, width in ((0, 8), (1, 8), (2, 16), (0, 8)):
        before = sum(labeled(b))
        b.put(image(width=width), camera)
        wait_until(lambda n=before: sum(labeled(b)) == n + 1)
    assert b.segmenter.prepared == [(4, 8, 2, False), (4, 16, 2, False)]


def test_frames_of_other_sizes_go_after_one_another(bench: Any) -> None:
    b = bench(cameras=3)
    b.pipeline.set_vocabulary(Vocabulary.from_names(["cup"])).result(5)
    with busy(b):
        b.put(image("plain"), 2)
        b.put(image("wide", width=16), 1)
        b.put(image("plain"), 0)
    wait_until(lambda: labeled(b) == [2, 1, 1])
    assert b.segmenter.batches == [1, 2, 1]
    assert [camera.counts.batched for camera in b.cameras] == [1, 0, 1]


def test_a_camera_with_bad_frames_does_not_disturb_the_others(bench: Any) -> None:
    b = bench(cameras=3)
    b.pipeline.set_vocabulary(Vocabulary.from_names(["cup"])).result(5)
    with busy(b):
        b.put(Image(encoding="nonsense", height=4, width=8), 1)
        b.put(image("good"), 2)
        b.put(image("good"), 0)
    wait_until(lambda: labeled(b) == [2, 0, 1])
    assert b.segmenter.batches == [1, 2]
    assert b.cameras[1].counts.bad == 1
    assert "encoding 'nonsense' is not supported" in b.cameras[1].warnings[0]
    assert not b.warnings and not b.cameras[2].warnings
    assert b.statistics.report().last_error is None


def test_a_lost_device_is_told_and_nothing_is_tried_again(bench: Any) -> None:
    b = bench(cameras=2)
    b.pipeline.set_vocabulary(Vocabulary.from_names(["cup"])).result(5)
    with busy(b):
        b.put(image(value=FATAL), 0)
        b.put(image(), 1)
    wait_until(lambda: b.lost and b.cameras[1].counts.failed == 1)
    assert [camera.counts.failed for camera in b.cameras] == [1, 1]
    assert b.segmenter.batches == [1], "what had been begun before"


def test_an_image_that_fails_the_model_fails_alone(bench: Any) -> None:
    b = bench(cameras=3)
    b.pipeline.set_vocabulary(Vocabulary.from_names(["cup"])).result(5)
    with busy(b):
        b.put(image("poison", POISON), 1)
        b.put(image("good"), 2)
        b.put(image("good"), 0)
    wait_until(lambda: labeled(b) == [2, 0, 1])
    assert [camera.counts.failed for camera in b.cameras] == [0, 1, 0]
    assert b.segmenter.batches == [1, 1, 1]
    with busy(b):
        for camera in (1, 2):
            b.put(image("good"), camera)
    wait_until(lambda: labeled(b) == [3, 1, 2])
    assert b.segmenter.batches[-1] == 2, "one image was at fault, not the batch"


def test_batches_that_are_too_large_for_the_memory_become_smaller(bench: Any) -> None:
    b = bench(cameras=3)
    b.pipeline.set_vocabulary(Vocabulary.from_names(["cup"])).result(5)
    b.segmenter.most_at_once = 2
    for round_ in (1, 2):
        with busy(b):
            for camera in (0, 1, 2):
                b.put(image(), camera)
        wait_until(lambda n=round_: sum(labeled(b)) == 4 * n)
    assert b.segmenter.batches == [1, 1, 1, 1, 1, 2, 1]
    assert sum(camera.counts.failed for camera in b.cameras) == 0
    assert "a batch of 3 frames failed, but each frame alone succeeded; batches are limited to 2" in b.warnings[0]
    assert "out of memory" in b.statistics.report().last_error.text


@pytest.mark.parametrize("max_batch", [1, 2])
def test_no_camera_starves_whatever_the_rates_are(bench: Any, max_batch: int) -> None:
    """The model is slower than any of them; one comes at 500 Hz, one at 60, one at 40, with another size."""
    b = bench(seconds=0.02, cameras=3, max_batch=max_batch)
    b.pipeline.set_vocabulary(Vocabulary.from_names(["cup"])).result(5)
    stop = threading.Event()

    def stream(camera: int, rate: float, width: int) -> None:
        while not stop.wait(1 / rate):
            b.put(image(width=width), camera)

    settings = ((0, 500.0, 8), (1, 60.0, 8), (2, 40.0, 16))
    threads = [threading.Thread(target=stream, args=arguments) for arguments in settings]
    for thread in threads:
        thread.start()
    wait_until(lambda: min(labeled(b)) > 20, 60.0)
    stop.set()
    for thread in threads:
        thread.join()
    b.pipeline.close(5.0)
    assert min(labeled(b)) >= 0.8 * max(labeled(b)), labeled(b)


def test_words_for_all_cameras_and_for_one(bench: Any) -> None:
    b = bench(cameras=2)
    front, left = b.cameras
    b.pipeline.set_vocabulary(Vocabulary.from_names(["cup"])).result(5)
    own = b.pipeline.set_vocabulary(Vocabulary.from_names(["door", "cup"]), left).result(5)
    assert (own.version, own.class_ids) == (2, (2, 1)), "one count of versions, one id a name, for all cameras"
    b.put(image("front"), 0)
    b.put(image("left"), 1)
    wait_until(lambda: front.frames and left.frames)
    assert [segment.name for segment in front.frames[0].result.segments] == ["cup"]
    assert [segment.name for segment in left.frames[0].result.segments] == ["door", "cup"]
    assert [frame.result.vocabulary_version for frame in (front.frames[0], left.frames[0])] == [1, 2]
    assert [what.version for kind, what in front.events if kind == "vocabulary"] == [1]
    assert [what.version for kind, what in left.events if kind == "vocabulary"] == [1, 2]
    assert [snapshot.version for snapshot in b.common] == [1]
    alone = b.pipeline.segment(image(), None, lambda frame: frame).result(5)
    assert alone.result.vocabulary_version == 1, "what one camera looks for is not what all look for"
    b.pipeline.set_vocabulary(Vocabulary.from_names(["floor"])).result(5)
    b.put(image("left"), 1)
    wait_until(lambda: len(left.frames) == 2)
    assert [segment.name for segment in left.frames[1].result.segments] == ["floor"]


def test_frames_of_one_batch_are_labeled_with_the_words_of_their_cameras(bench: Any) -> None:
    b = bench(cameras=2)
    b.pipeline.set_vocabulary(Vocabulary.from_names(["cup"])).result(5)
    b.pipeline.set_vocabulary(Vocabulary.from_names(["door"]), b.cameras[1]).result(5)
    with busy(b):
        b.put(image(), 0)
        b.put(image(), 1)
    wait_until(lambda: labeled(b) == [2, 1])
    assert b.segmenter.batches == [1, 2]
    assert [camera.frames[-1].result.segments[0].name for camera in b.cameras] == ["cup", "door"]


def test_only_the_frame_of_one_camera_is_discarded(bench: Any) -> None:
    b = bench(cameras=2)
    b.pipeline.set_vocabulary(Vocabulary.from_names(["cup"])).result(5)
    with busy(b):
        b.put(image(), 0)
        b.put(image(), 1)
        b.pipeline.discard_frame(b.cameras[0])
    wait_until(lambda: b.cameras[1].frames)
    assert [camera.counts.dropped for camera in b.cameras] == [1, 0]
    assert b.segmenter.batches == [1, 1]


# --- a GPU, which computes a frame while the thread does more -------------------------------------------------------


class Computing(FakeSegmenter):
    """Launches frames as a GPU does: they are computed when `done` is set.

    Attributes:
        log: What was launched, by the first pixel of the image.
        done: While it is cleared, nobody gets an answer.
    """

    computes_in_background = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.log: list[str] = []
        self.done = threading.Event()

    def start_decoding(self, encoded: Any, vocabulary: Any = None, settings: Any = None) -> Any:
        self.log.append(f"start {encoded.image[0, 0, 0]}")

        def answer() -> Any:
            assert self.done.wait(20)
            if tuple(encoded.image[0, 0]) == LATE_POISON:
                raise RuntimeError("CUDA error: an illegal instruction was encountered")
            return self.decode(encoded, vocabulary, settings)

        return answer


LATE_POISON = (13, 13, 13)


@pytest.fixture
def gpu(bench: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A bench whose segmenter computes beside the thread, with words."""
    monkeypatch.setattr(sys.modules[__name__], "FakeSegmenter", Computing)
    made = bench()
    made.pipeline.set_vocabulary(Vocabulary.from_names(["one", "two"])).result(20)
    deliver = made.cameras[0].deliver

    def logged(frame: LabeledFrame) -> None:
        made.segmenter.log.append(f"publish {frame.image[0, 0, 0]}")
        deliver(frame)

    made.cameras[0].deliver = logged  # type: ignore[method-assign]
    yield made
    made.segmenter.done.set()


def test_the_newest_frame_is_started_before_the_last_one_is_published(gpu: Bench) -> None:
    # Never an older frame than the newest: what waits while a frame is computed may still be replaced.
    gpu.put(image(value=(1, 1, 1)))
    wait_until(lambda: gpu.segmenter.log == ["start 1"])
    gpu.put(image(value=(2, 2, 2)))
    gpu.put(image(value=(3, 3, 3)))
    gpu.segmenter.done.set()
    wait_until(lambda: len(gpu.frames) == 2)
    assert gpu.segmenter.log == ["start 1", "start 3", "publish 1", "publish 3"]
    assert gpu.cameras[0].counts.dropped == 1


def test_a_frame_is_published_at_once_where_no_other_waits(gpu: Bench) -> None:
    gpu.segmenter.done.set()
    gpu.put(image(value=(1, 1, 1)))
    wait_until(lambda: len(gpu.frames) == 1)


def test_the_next_image_is_decoded_while_a_frame_is_computed(gpu: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[Any] = []
    itself = pipeline.to_rgb

    def to_rgb(message: Any, *limits: Any) -> np.ndarray:
        decoded.append(message)
        return itself(message, *limits)

    monkeypatch.setattr(pipeline, "to_rgb", to_rgb)
    gpu.put(image(value=(1, 1, 1)))
    wait_until(lambda: gpu.segmenter.log == ["start 1"])
    for value in (2, 3):
        gpu.put(image(value=(value,) * 3))
        wait_until(lambda count=value: len(decoded) == count)
    gpu.segmenter.done.set()
    wait_until(lambda: len(gpu.frames) == 2)
    # Once each: what was looked at ahead is not read again.
    assert len(decoded) == 3


def test_a_frame_under_way_is_published_before_the_words_change(gpu: Bench) -> None:
    gpu.put(image(value=(1, 1, 1)))
    wait_until(lambda: gpu.segmenter.log == ["start 1"])
    change = gpu.pipeline.set_vocabulary(Vocabulary.from_names(["other"]))
    gpu.segmenter.done.set()
    change.result(20)
    kinds = [kind for kind, _ in gpu.events]
    assert kinds == ["vocabulary", "frame", "vocabulary"]


def test_what_fails_on_the_gpu_later_is_counted_and_the_stream_goes_on(gpu: Bench) -> None:
    gpu.segmenter.done.set()
    gpu.put(image(value=LATE_POISON))
    wait_until(lambda: gpu.cameras[0].counts.failed == 1)
    gpu.put(image(value=(2, 2, 2)))
    wait_until(lambda: len(gpu.frames) == 1)
    assert "illegal instruction" in gpu.cameras[0].warnings[0]


def test_closing_publishes_the_frame_under_way(gpu: Bench) -> None:
    gpu.put(image(value=(1, 1, 1)))
    wait_until(lambda: gpu.segmenter.log == ["start 1"])
    closing = threading.Thread(target=gpu.pipeline.close, args=(20,))
    closing.start()
    gpu.segmenter.done.set()
    closing.join(20)
    assert len(gpu.frames) == 1


def test_a_frame_that_nothing_can_be_prepared_for_does_not_end_the_stream(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bench()
    made.pipeline.set_vocabulary(Vocabulary.from_names(["one"])).result(20)

    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as broken:
        broken.setattr(made.segmenter, "prepare_in_background", refuse)
        made.put(image(width=8))
        wait_until(lambda: made.cameras[0].counts.failed == 1)
    made.put(image(width=16))
    wait_until(lambda: len(made.frames) == 1)
    assert "can't start new thread" in made.warnings[0]


def test_images_beyond_the_limit_are_bad_and_the_stream_goes_on(bench: Any) -> None:
    b = bench()
    b.pipeline.set_vocabulary(Vocabulary.from_names(["cup"])).result(5)
    b.pipeline.max_image_pixels = 100
    b.put(image(width=26))
    wait_until(lambda: b.statistics.report().counts.bad == 1)
    b.put(image("fits", width=25))
    wait_until(lambda: [frame.header.frame_id for frame in b.frames] == ["fits"])
    assert "26 x 4 pixels" in b.warnings[0] and "max_image_pixels" in b.warnings[0]
    # Services go by the same limit.
    with pytest.raises(ImageError, match="26 x 4 pixels"):
        b.pipeline.segment(image(width=26), None, lambda frame: frame).result(5)
    with pytest.raises(ImageError, match="26 x 4 pixels"):
        b.pipeline.segment(image(width=26), Vocabulary.from_names(["pan"]), lambda frame: frame).result(5)
    b.pipeline.max_image_pixels = 104
    b.put(image("now fits", width=26))
    wait_until(lambda: len(b.frames) == 2)
    assert b.statistics.report().counts.failed == 0


def test_whatever_a_decoder_raises_is_a_bad_frame(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    b = bench()
    b.pipeline.set_vocabulary(Vocabulary.from_names(["cup"])).result(5)
    for number, error in enumerate((MemoryError(), OverflowError("too large"), RuntimeError("decoder")), 1):

        def fail(*_: object, error: Exception = error) -> None:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr("fcclip_ros.conversions.images._as_rgb", fail)
            b.put(image())
            wait_until(lambda count=number: b.statistics.report().counts.bad == count)
            with pytest.raises(ImageError, match=type(error).__name__):
                b.pipeline.segment(image(), None, lambda frame: frame).result(5)
        b.put(image())
        wait_until(lambda count=number: len(b.frames) == count)
    assert b.statistics.report().counts.failed == 0
