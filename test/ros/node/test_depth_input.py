"""Which depth image a frame gets, and what is said when it gets none: messages by hand, without topics."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from depth_camera import MATRIX, depth_message, stamp_of
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from fcclip_ros.conversions.camera_info import camera_info_message
from fcclip_ros.conversions.frame import FrameDepth
from fcclip_ros.conversions.stamps import nearest
from fcclip_ros.node import depth_input, info_input
from fcclip_ros.node.depth_input import DepthInput
from fcclip_ros.node.info_input import InfoInput

SIZE = (8, 6)
FAST = [10.0 + number / 30 for number in range(9)]


class Topic:
    """In the place of a subscription: tests call what gets its messages."""

    def __init__(self, node: object, callback: Callable[[Any], None], what: str) -> None:
        node.hear[what] = callback
        self._what = what

    def start(self, *_: object) -> None:
        pass

    def stop(self) -> None:
        pass

    def describe(self) -> str:
        return f"/{self._what}, reliable, 1 publisher"


class Bench:
    """A DepthInput, and a clock that tests set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in (depth_input, info_input):
            monkeypatch.setattr(module, "QosMatchingSubscription", Topic)
        self.now = 1000.0
        monkeypatch.setattr(depth_input, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.said: list[str] = []
        self.hear: dict[str, Callable[[Any], None]] = {}
        node = SimpleNamespace(resolve_topic_name=lambda name: f"/{name}", hear=self.hear)
        info = InfoInput(node, "camera_info")
        self.input = DepthInput(node, "depth", info, SimpleNamespace(warning=self.said.append))
        self.input.start("raw", "auto", rectified=True)

    def info(self, stamp: float = 0.0, focal: float = 50.0) -> None:
        matrix = MATRIX.copy()
        matrix[0, 0] = focal
        self.hear["camera_info"](camera_info_message(header(stamp), *SIZE, matrix))

    def depth(self, stamp: float, meters: float = 1.0, shape: tuple[int, int] = SIZE) -> Image:
        message = depth_message(np.full((shape[1], shape[0]), meters), header(stamp))
        self.hear["depth"](message)
        return message

    def frame(self, stamp: float) -> FrameDepth | None:
        """A frame that arrives and is labeled at once."""
        self.input.arrive(header(stamp))
        return self.labeled(stamp)

    def labeled(self, stamp: float) -> FrameDepth | None:
        self.input.prefetch_depth(header(stamp))
        return self.input.take(header(stamp), SIZE, self.now)

    @property
    def problem(self) -> str:
        state = self.input.state(30.0)
        assert state is not None
        return state.problem


def header(stamp: float) -> Header:
    return Header(stamp=stamp_of(stamp), frame_id="camera")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench(monkeypatch)
    made.info()
    return made


def test_of_equally_near_stamps_the_newest_wins(bench: Bench) -> None:
    for meters in (1.0, 2.0, 3.0):
        bench.depth(5.0, meters)
    depth = bench.frame(5.0)
    assert depth is not None and (depth.meters == 3.0).all()
    assert nearest(10, [(8, "a"), (12, "b"), (12, "c"), (13, "d")]) == "c"
    assert nearest(10, []) is None


def test_an_image_that_comes_400_ms_after_its_depth_finds_it(bench: Bench) -> None:
    stamps = [5.0 + number / 30 for number in range(40)]
    for number, stamp in enumerate(stamps):
        bench.now = 1000.0 + number / 30
        bench.depth(stamp, 1.0 + number)
        if number >= 12:  # 400 ms
            depth = bench.frame(stamps[number - 12])
            assert depth is not None and (depth.meters == 1.0 + number - 12).all()


def test_depth_that_comes_while_a_frame_waits_for_a_slow_model_is_not_lost(bench: Bench) -> None:
    """A model of 3 s: the newest frame waits all that time, and depth comes at 30 Hz meanwhile."""
    bench.input.arrive(header(5.0))
    bench.input.prefetch_depth(header(5.0))
    for number in range(90):
        bench.now += 1 / 30
        bench.input.arrive(header(5.0 + number / 30))
        bench.depth(5.0 + number / 30, 1.0 + number / 10)
    first = bench.input.take(header(5.0), SIZE, 0.0)
    assert first is not None and (first.meters == 1.0).all()
    last = 5.0 + 89 / 30
    bench.input.prefetch_depth(header(last))
    for number in range(90, 200):
        bench.now += 1 / 30
        bench.depth(5.0 + number / 30)
    depth = bench.input.take(header(last), SIZE, 0.0)
    assert depth is not None and np.allclose(depth.meters, 9.9)
    assert bench.problem == ""


def test_depth_that_does_not_come_is_waited_for_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first frame waits in vain, the next ones not at all, until depth comes in time again."""
    waits: list[float] = []
    monkeypatch.setattr(bench.input._changed, "wait_for", lambda settled, seconds: waits.append(seconds) or settled())
    bench.input.patience = 0.5
    bench.depth(4.96)
    for number in range(4):
        assert bench.frame(5.0 + number / 1000) is None
    assert waits == [0.5]
    bench.depth(6.0)
    assert bench.frame(6.0) is not None
    assert bench.frame(6.1) is None
    assert waits == [0.5, 0.5]


def test_what_is_kept_is_bounded_by_time_and_bytes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(300):
        bench.now += 1 / 30
        bench.depth(5.0 + number / 30)
    assert 59 <= len(bench.input._buffer.kept) <= 62  # two seconds
    monkeypatch.setattr(depth_input, "_KEPT_BYTES", 10 * 96)
    bench.depth(100.0)
    assert len(bench.input._buffer.kept) == 10
    assert bench.input._buffer.kept_bytes == sum(len(message.data) for _, message in bench.input._buffer.kept) == 960
    for number in range(100):  # frames that are never published
        bench.input.prefetch_depth(header(200.0 + number))
        bench.input.arrive(header(300.0 + number))
    assert len(bench.input._buffer.pending) <= 9


def test_standing_stamps_are_said_once(bench: Bench) -> None:
    for _ in range(20):
        bench.depth(0.0)
        assert bench.frame(0.0) is not None
    assert len(bench.said) == 2
    assert "the stamps of depth do not advance: the last 5 or more messages have the stamp 0 s" in bench.said[0]
    assert "the stamps of images do not advance" in bench.said[1]
    assert "do not advance" in bench.problem
    for number in range(6):
        bench.depth(1.0 + number)
        bench.frame(1.0 + number)
    assert bench.problem == ""


@pytest.mark.parametrize(
    ("depth_stamps", "stamp", "advice"),
    [
        (FAST, 9.0, "the image arrived after its depth was dropped from the buffer of"),
        (FAST, 11.0, "depth arrives after the labels are ready; raise depth_wait"),
        ([10.0 + number / 5 for number in range(9)], 10.5, "synchronize the cameras or raise depth_tolerance"),
        (FAST, 5000.0, "the stamps come from different clocks; synchronize them"),
        ([0.0] * 9, 5.0, "the stamps of depth do not advance: the last 5 or more messages have the stamp 0 s"),
    ],
)
def test_advice_fits_what_is_wrong(bench: Bench, depth_stamps: list[float], stamp: float, advice: str) -> None:
    bench.input.patience = 0.0
    for when in depth_stamps:
        bench.depth(when)
    for _ in range(6):
        assert bench.frame(stamp) is None
        stamp += 1e-4
    assert advice in bench.problem
    assert sum(advice in text for text in bench.said if text.startswith("frames are published without depth")) == 1


def test_a_frame_takes_the_nearest_camera_info(bench: Bench) -> None:
    """A camera that zooms: its calibration belongs to a frame as depth does."""
    for number in range(5):
        bench.info(5.0 + number, 60.0 + number)
        bench.depth(5.0 + number)
    for number in range(5):
        depth = bench.frame(5.0 + number)
        assert depth is not None and depth.camera.fx == pytest.approx(60.0 + number)


def test_frames_that_replace_each_other_before_the_model_takes_one(bench: Bench) -> None:
    for number in range(5):
        bench.input.arrive(header(5.0 + number))
        bench.depth(5.0 + number, 1.0 + number)
    # The model took the third in the very moment in which the fourth came.
    depth = bench.labeled(7.0)
    assert depth is not None and (depth.meters == 3.0).all()
    depth = bench.labeled(9.0)
    assert depth is not None and (depth.meters == 5.0).all()
    assert not bench.input._buffer.pending


def test_nothing_is_looked_for_while_stopped(bench: Bench) -> None:
    bench.input.stop()
    bench.input.arrive(header(5.0))
    bench.depth(5.0)
    assert bench.labeled(5.0) is None and bench.input.state(1.0) is None
